"""What a prompt of one source task teaches the prompt that all of them share.   https://arxiv.org/abs/2303.02861

    loss = cross-entropy + weight (KL(teacher || student) + mean square of (h_teacher - h_student))

with the label probabilities of the teacher, and h the mean of a text's last hidden states. (The paper compares the
hidden states of every position.) A teacher never changes, so that what it says of each row is computed once.

Shape suffixes: B rows, D width, L labels of all tasks together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.batch import Batch
from ..batches.evaluated import of_texts
from ..batches.sentence import mean_state
from ..methods.prompts.task_prompt import TaskPrompt
from ..models.tokenizer import Tokenizer
from ..tasks.classify import Classify
from ..tasks.metric import Scores, better_than


@dataclass(frozen=True)
class Lesson:
    """A teacher's view of one row."""

    probabilities_L: Tensor
    state_D: Tensor


def lessons(
    model: nn.Module,
    tokenizer: Tokenizer,
    rows: Sequence[dict[str, list[int]]],
    own: slice,
    labels: int,
) -> list[Lesson]:
    """Return what the teacher says of each row; its labels are `own` of the `labels` of all tasks together."""

    def of_batch(batch: Batch) -> Tensor:
        output = model(**batch, output_hidden_states=True)
        wide_BL = torch.zeros(len(batch["input_ids"]), labels)
        wide_BL[:, own] = output.logits.float().softmax(dim=-1).cpu()
        return torch.cat((wide_BL, mean_state(output, batch["attention_mask"]).cpu()), dim=1)

    found = of_texts(model, tokenizer, rows, of_batch, what="asking the teacher")
    return [Lesson(row[:labels], row[labels:]) for row in found]


@dataclass(frozen=True)
class TaughtLoss:
    """The loss of a batch of rows of several tasks. Labels of other tasks than a row's own are no candidates for it."""

    prompt: TaskPrompt
    own_KL: Tensor  # which labels are each task's
    share: float  # of the teachers, where that of the labels is 1
    begins_least = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "tasks", "probabilities", "states")}
        self.prompt.task = batch["tasks"]
        output = model(**inputs, output_hidden_states=True)
        own_BL = self.own_KL.to(output.logits.device)[batch["tasks"]]
        log_BL = output.logits.float().masked_fill(~own_BL, -torch.inf).log_softmax(dim=-1)
        loss = F.nll_loss(log_BL, batch["labels"])
        if self.share:
            taught = F.kl_div(log_BL.masked_fill(~own_BL, 0), batch["probabilities"], reduction="batchmean")
            apart = F.mse_loss(mean_state(output, batch["attention_mask"]), batch["states"])
            loss = loss + self.share * (taught + apart)
        return loss

    def weight(self, batch: Batch) -> int:
        return len(batch["labels"])

    def is_better(self, scores: Scores, than: Scores | None) -> bool:
        return better_than(scores, than, Classify.main_score)
