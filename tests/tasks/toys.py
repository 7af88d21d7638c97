"""A task and a metric from outside the package: each one object."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.bases.auto_class import labeller_class
from inlay.batches.batch import Batch, tokenize, tokenize_split
from inlay.data.classification import Example
from inlay.data.examples import examples_of
from inlay.show.units import PERCENT
from inlay.stats import Shares
from inlay.tasks.evaluation import Answer, Evaluation
from inlay.tasks.metric import Metric, scores_of
from inlay.tasks.page import Said
from inlay.tasks.task import Task, TaskSettings


@dataclass(frozen=True)
class Stars:
    """The outcome of the task: how many stars were given, and how many were due."""

    given_N: Tensor
    due_N: Tensor


def close(stars: Stars) -> float:
    return ((stars.given_N - stars.due_N).abs() <= 1).double().mean().item()


CLOSE = Metric(
    name="close",
    label="stars within one",
    of=(Stars,),
    function=close,
    unit=PERCENT,
    meaning="texts whose stars are right or one off",
)


@dataclass(kw_only=True)
class Review(Task):
    """Stars from 1 to 3 for a text, as a number that a head gives."""

    name = "review"
    formats = ("labelled-text",)
    main_score, expected = "close", ("close", "loss")
    does = "gives stars"
    new_head = True

    @classmethod
    def reads(cls, opened: Any) -> bool:
        return "stars" in opened.settings.named_columns().values()

    @classmethod
    def prepare(cls, base: Any, opened: Any, settings: TaskSettings) -> Self:
        task = cls.of_adapter(base, base.tokenizer(), {})
        task.data = task.examples(opened, whole=False)
        return task

    @classmethod
    def of_adapter(cls, base: Any, tokenizer: Any, about: Mapping[str, Any]) -> Self:
        config = base.classifier_config(("stars",), tokenizer.pad_token_id)
        return cls(base=base, tokenizer=tokenizer, config=config, about=about, max_length=about.get("max_length", 0))

    def examples(self, opened: Any, whole: bool) -> Any:
        text, stars = (opened.layout.columns[role] for role in ("text", "label"))
        rows = {
            split: [Example(row.values[text], None, int(row.values[stars]), row.place) for row in own]
            for split, own in opened.source.splits.items()
        }
        return examples_of(opened, rows, whole)

    @property
    def auto_class(self) -> Any:
        return labeller_class(self.config)

    def tokenize(self, max_length: int) -> None:
        self.max_length = max_length
        self.tokens = {s: tokenize_split(self.tokenizer, rows, max_length) for s, rows in self.data.splits.items()}

    def row(self, split: str, number: int) -> dict[str, Any]:
        tokens = self.tokens[split]
        return tokens.rows[number] | {"labels": tokens.labels[number]}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return F.mse_loss(model(**inputs).logits.float().squeeze(1), batch["labels"].float())

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        tokens = self.tokens[split]
        outcome = Stars(self._given(model, tokens.rows), torch.tensor(tokens.labels))
        scores = scores_of(outcome) | {"loss": (outcome.given_N - outcome.due_N).square().mean().item()}
        return Evaluation(scores, Shares((outcome.given_N - outcome.due_N).abs() <= 1), outcome.given_N)

    def answer(self, model: nn.Module, inputs: Sequence[str], **options: Any) -> list[Answer]:
        given = self._given(model, tokenize(self.tokenizer, [(text, None) for text in inputs], self.max_length))
        found = [{"text": text, "stars": round(stars, 2)} for text, stars in zip(inputs, given.tolist(), strict=True)]
        return [Answer(one, f"{one['stars']} stars", f"{one['stars']}\t{one['text']}") for one in found]

    def prediction_rows(self, split: str, tuned: Tensor, base: Tensor) -> Iterable[dict[str, Any]]:
        for example, stars, before in zip(self.data.splits[split], tuned.tolist(), base.tolist(), strict=True):
            yield {"asked": example.text, "due": example.label, "stars": stars, "before": before}

    @classmethod
    def said(cls, row: Mapping[str, Any]) -> Said:
        given, before = (f"{row[name]:.1f} stars" for name in ("stars", "before"))
        return Said(prompt=row["asked"], wanted=f"{row['due']} stars", answer=given, base_answer=before)

    @torch.inference_mode()
    def _given(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> Tensor:
        model.eval()
        batches = [self.collate([row]) for row in rows]
        return torch.cat([model(**batch).logits.float().flatten() for batch in batches])
