"""Classification: a label for a text or a pair of texts, by a new head on the base."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..bases.auto_class import labeller_class
from ..bases.base import Base, empty_classifier, load_classifier
from ..data.classification import ClassificationData, load_classification
from ..errors import SettingsError
from ..stats import Shares
from ..training.batches import Batch, Tokens, pad, padded_length, tokenize_split, training_batches
from ..training.forgetting.geometry import GeometryBaseline
from ..training.forgetting.passages import GeneralText
from ..training.forgetting.retaining import Anchor
from ..training.predictions import write_predictions
from ..training.settings import RunSettings
from .scores import ClassScores, evaluate
from .task import Evaluation, Task


@dataclass
class Classify(Task):
    kind, scores, main_score = "classify", ClassScores, "accuracy"

    base: Base
    data: ClassificationData
    tokenizer: Any
    config: Any
    tokens: dict[str, Tokens] = field(default_factory=dict)

    @classmethod
    def prepare(cls, base: Base, settings: RunSettings[Any]) -> Self:
        data, tokenizer = load_classification(settings.data), base.tokenizer()
        return cls(base, data, tokenizer, base.classifier_config(data.labels, tokenizer.pad_token_id))

    def empty(self) -> nn.Module:
        return empty_classifier(self.config)

    def check_weights(self) -> tuple[str, ...]:
        return self.base.check_weights(labeller_class(self.config), self.config)

    def load(self, dtype: torch.dtype) -> tuple[nn.Module, tuple[str, ...]]:
        return load_classifier(self.base, self.config, dtype)

    def tokenize(self, max_length: int) -> None:
        self.tokens = {s: tokenize_split(self.tokenizer, rows, max_length) for s, rows in self.data.splits.items()}
        if self.config.is_encoder_decoder:
            self._check_ends()

    def _check_ends(self) -> None:
        """An encoder-decoder's classifier reads the end-of-sequence token, which every row must then have."""
        end, start = self.config.eos_token_id, getattr(self.config, "decoder_start_token_id", None)
        if end is None or start is None:
            raise SettingsError(
                f"the configuration of model {self.base.name!r} has no {'eos' if end is None else 'decoder_start'}_"
                "token_id, without which a classifier cannot be run on an encoder-decoder; add it to its config.json"
            )
        without = sum(end not in row["input_ids"] for tokens in self.tokens.values() for row in tokens.rows)
        if without:
            raise SettingsError(
                f"the tokenizer of model {self.base.name!r} does not end {without} of the texts with the token {end}, "
                "which the classifier of an encoder-decoder reads; let it add its eos_token"
            )

    @property
    def cut(self) -> int:
        return sum(tokens.cut for tokens in self.tokens.values())

    def lengths(self, split: str) -> list[int]:
        return self.tokens[split].lengths

    def contents(self, split: str) -> Iterator[Any]:
        return zip(self.tokens[split].rows, self.tokens[split].labels, strict=True)

    def batches(self, batch_size: int, seed: int) -> DataLoader[Any]:
        return training_batches(self.tokenizer, self.tokens["train"], batch_size, seed, self.length_step)

    def batch_of(self, rows: Sequence[int]) -> Batch:
        tokens = self.tokens["train"]
        chosen = [tokens.rows[i] | {"labels": tokens.labels[i]} for i in rows]
        return pad(self.tokenizer, chosen, self.length_step)

    def size(self, rows: Sequence[int]) -> int:
        longest = max(self.tokens["train"].lengths[i] for i in rows)
        return len(rows) * padded_length(longest, self.length_step)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return F.cross_entropy(model(**inputs).logits.float(), batch["labels"])

    def weight(self, batch: Batch) -> int:
        return len(batch["labels"])

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Predictions are (rows, labels) log-probabilities."""
        scores, found = evaluate(model, self.tokenizer, self.tokens[split], self.length_step)
        right_N = found.argmax(dim=-1) == torch.tensor(self.tokens[split].labels)
        return Evaluation(scores, Shares(right_N), found)

    def write_predictions(self, path: Path, tuned: Tensor, base: Tensor) -> None:
        write_predictions(path, self.data.splits["valid"], self.data.labels, tuned, base)

    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> GeometryBaseline:
        return GeometryBaseline(model, self.tokenizer, text, tokens)

    def held(self, model: nn.Module, text: GeneralText) -> Anchor:
        return Anchor(model, self.tokenizer, text.kept, text.max_length)

    def provenance(self) -> dict[str, Any]:
        return {"labels": list(self.data.labels), "columns": self.data.columns}
