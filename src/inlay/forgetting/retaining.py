"""A loss that makes a model forget less: a task's, and `weight` times one on general text that is never measured.

Replay goes on training a language model on such text (https://arxiv.org/abs/1811.11682). An anchor holds an encoder's
sentence representations where the base had them, as learning without forgetting holds outputs
(https://arxiv.org/abs/1606.09282).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..batches.batch import Batch, pad, to_device, tokenize
from ..batches.chunked_loss import causal_loss, trained_tokens
from ..batches.objective import Objective, Scores
from ..batches.packing import padded
from ..batches.sentence import sentence_states
from ..models.tokenizer import Tokenizer
from .baseline import Held
from .geometry import states_of
from .language import general_rows
from .passages import Passage

_ROWS = 4  # passages beside each micro-batch


@dataclass(frozen=True)
class Retaining:
    """An objective: the task's and, beside each of its micro-batches, one on general text."""

    task: Objective
    held: Held
    weight_of_held: float

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch) + self.weight_of_held * self.held.loss(model)

    def weight(self, batch: Batch) -> int:
        return self.task.weight(batch)

    def is_better(self, scores: Scores, than: Scores | None) -> bool:
        return self.task.is_better(scores, than)

    @property
    def begins_least(self) -> bool:
        return self.held.begins_least or self.task.begins_least


class Replay:
    """The cross-entropy of the passages' tokens."""

    begins_least = False

    def __init__(self, tokenizer: Tokenizer, passages: Sequence[Passage], max_length: int):
        self.tokenizer, self.passages, self.max_length = tokenizer, passages, max_length

    def loss(self, model: nn.Module) -> Tensor:
        texts = [self.passages[i].text for i in _some(len(self.passages))]
        batch = padded(general_rows(self.tokenizer, texts, self.max_length))
        device = next(model.parameters()).device
        return causal_loss(model, to_device(batch, device), trained_tokens(batch))


class Anchor:
    """The squared distance of the passages' representations from where the base, which is `model` now, has them.

    Its unit is the mean squared distance of the base's own representations from their mean, so that a weight means the
    same for every model.
    """

    begins_least = True

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, passages: Sequence[Passage], max_length: int):
        self.tokenizer = tokenizer
        self.rows = tokenize(tokenizer, [(p.text, None) for p in passages], max_length)
        self.base_ND = states_of(model, tokenizer, self.rows)
        self.unit = (self.base_ND - self.base_ND.mean(dim=0)).square().sum(dim=1).mean().item()

    def loss(self, model: nn.Module) -> Tensor:
        chosen = _some(len(self.rows))
        device = next(model.parameters()).device
        batch = to_device(pad(self.tokenizer, [self.rows[i] for i in chosen]), device)
        moved_BD = sentence_states(model, batch) - self.base_ND[chosen].to(device)
        return moved_BD.square().sum(dim=1).mean() / self.unit


def _some(count: int) -> list[int]:
    """Draw numbers of passages by torch's own generator, whose state a checkpoint holds."""
    return torch.randperm(count)[:_ROWS].tolist()
