"""A classifier on a split: its predictions, and what they are worth."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import LENGTH_STEP, Tokens, in_order_of_length


@dataclass(frozen=True)
class ClassScores:
    loss: float  # mean cross-entropy, nats per row
    accuracy: float
    macro_f1: float  # mean over the labels that occur, as label or as prediction

    def better_than(self, other: "ClassScores | None") -> bool:
        """More rows right; among equals the lower loss."""
        if not (math.isfinite(self.loss) and other is not None and math.isfinite(other.loss)):
            return math.isfinite(self.loss)
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


@torch.inference_mode()
def log_probabilities(
    model: nn.Module, tokenizer: Any, rows: Sequence[dict[str, list[int]]], step: int = LENGTH_STEP
) -> Tensor:
    """(rows, labels), in float32 on the CPU, in the rows' order. Leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    found: dict[int, Tensor] = {}
    for positions, batch in in_order_of_length(tokenizer, rows, step=step):
        logits = model(**{key: value.to(device) for key, value in batch.items()}).logits
        found |= zip(positions, logits.float().log_softmax(dim=-1).cpu(), strict=True)
    return torch.stack([found[i] for i in range(len(rows))])


def evaluate(model: nn.Module, tokenizer: Any, tokens: Tokens, step: int = LENGTH_STEP) -> tuple[ClassScores, Tensor]:
    """The scores on a split, and the (rows, labels) log-probabilities that they come from."""
    found = log_probabilities(model, tokenizer, tokens.rows, step)
    return score(found, torch.tensor(tokens.labels)), found


def score(log_probabilities: Tensor, labels: Tensor) -> ClassScores:
    predicted = log_probabilities.argmax(dim=-1)
    return ClassScores(
        loss=F.nll_loss(log_probabilities, labels).item(),
        accuracy=(predicted == labels).float().mean().item(),
        macro_f1=_macro_f1(predicted.numpy(), labels.numpy()),
    )


def _macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    f1 = []
    for label in np.union1d(predicted, labels):
        right = np.sum((predicted == label) & (labels == label))
        f1.append(2 * right / (np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(f1))
