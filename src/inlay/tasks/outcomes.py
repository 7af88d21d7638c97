"""What a model has given for the rows of a split, in the forms that metrics take.

Shape suffixes: N rows, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LabelProbabilities:
    """A classifier's log-probabilities of each label, beside the right ones."""

    log_probabilities_NL: Tensor
    labels_N: Tensor

    @property
    def predicted_N(self) -> Tensor:
        return self.log_probabilities_NL.argmax(dim=-1)

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats a row."""
        return F.nll_loss(self.log_probabilities_NL, self.labels_N).item()


@dataclass(frozen=True)
class TokenLosses:
    """A language model's cross-entropy, row by row: summed over the learned tokens, and how many these are."""

    sums_N: Tensor
    tokens_N: Tensor

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats a learned token."""
        return (self.sums_N.sum() / self.tokens_N.sum()).item()


@dataclass(frozen=True)
class WrittenTexts:
    """The texts written after prompts, beside the references of each, which may differ in number."""

    prompts: Sequence[str]
    written: Sequence[str]
    wanted: Sequence[Sequence[str]]

    @cached_property
    def texts(self) -> list[str]:
        """The written texts, with their white space made even."""
        return [" ".join(text.split()) for text in self.written]

    @cached_property
    def references(self) -> list[list[str]]:
        return [[" ".join(text.split()) for text in of_row] for of_row in self.wanted]

    @cached_property
    def streams(self) -> list[list[str | None]]:
        """The references as sacrebleu takes them: the first of every row, the second, …; None where there is none."""
        most = max(map(len, self.references))
        return [[of_row[i] if i < len(of_row) else None for of_row in self.references] for i in range(most)]
