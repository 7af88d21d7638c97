"""The small base and rows with which the tests of resuming work."""

from ..training.resume.conftest import dropping_bert, few_reviews

__all__ = ["dropping_bert", "few_reviews"]
