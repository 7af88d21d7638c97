"""What a verb had to assume of an adapter, told beside its results."""

from ..api.run import Run
from .screen import note


def say(run: Run) -> None:
    """Say it beside the results."""
    for text in run.notes:
        note(text)
