"""Generation: what a causal language model should write, learned from conversations, completions or whole texts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..bases.auto_class import no_writer, writer_class
from ..bases.base import Base, empty_language_model, load_language_model
from ..data.generation import GenerationData, load_generation
from ..data.tokens import GenerationTokens, TokenRow, tokenize_generation
from ..errors import SettingsError
from ..inference.generate import generate
from ..stats import Means
from ..training.attention import attend_by_document
from ..training.batches import Batch, LengthGroups, padded_length
from ..training.forgetting.language import LanguageBaseline
from ..training.forgetting.passages import GeneralText
from ..training.forgetting.retaining import Replay
from ..training.packing import Shuffled, can_pack, packed, padded
from ..training.predictions import write_text_predictions
from ..training.settings import RunSettings
from .chunked_loss import causal_loss, trained_tokens
from .task import Evaluation, Task
from .text_scores import TextScores, text_scores

_ANSWER_ROOM = 1.5  # times the longest answer in training: more than that is not generated
_EVALUATION_ROWS = 16


@dataclass(frozen=True)
class CausalScores:
    loss: float  # nats per learned token
    perplexity: float
    texts: TextScores | None = None

    def better_than(self, other: "CausalScores | None") -> bool:
        if not (math.isfinite(self.loss) and other is not None and math.isfinite(other.loss)):
            return math.isfinite(self.loss)
        return self.loss < other.loss

    def as_dict(self) -> dict[str, float]:
        own = {"loss": self.loss, "perplexity": self.perplexity}
        return own | {k: v for k, v in asdict(self.texts).items() if v is not None} if self.texts else own

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        of_texts = {name: value for name, value in values.items() if name not in ("loss", "perplexity")}
        texts = TextScores(**{"slots": None, **of_texts}) if of_texts else None
        perplexity = values["perplexity"]
        return cls(values["loss"], math.inf if perplexity is None else perplexity, texts)  # JSON has no infinity


@dataclass
class Causal(Task):
    kind, scores, main_score = "causal", CausalScores, "loss"

    base: Base
    data: GenerationData
    tokenizer: Any
    config: Any
    samples: int  # rows of a split for which texts are generated
    micro_share: float = 1.0  # of a batch that is computed at once
    packs: bool = False  # several texts in a row
    tokens: dict[str, GenerationTokens] = field(default_factory=dict)
    answer_room: int | None = None  # tokens that an answer may have, where train does not tell

    @classmethod
    def prepare(cls, base: Base, settings: RunSettings[Any]) -> Self:
        if (kind := no_writer(base.config)) is not None:
            raise SettingsError(
                f"model {base.name!r} is {kind}, and {settings.data.path} has texts to write, not labels; those are "
                "learned by causal language models, such as Llama"
            )
        micro_share = (settings.micro_batch_size or settings.batch_size) / settings.batch_size
        return cls(base, load_generation(settings.data), base.tokenizer(), base.config, settings.samples, micro_share)

    def empty(self) -> nn.Module:
        return empty_language_model(self.config)

    def check_weights(self) -> tuple[str, ...]:
        return self.base.check_weights(writer_class(self.config), None)

    def load(self, dtype: torch.dtype) -> tuple[nn.Module, tuple[str, ...]]:
        return load_language_model(self.base, dtype), ()

    def tokenize(self, max_length: int) -> None:
        self.tokens = {s: tokenize_generation(self.tokenizer, rows, max_length) for s, rows in self.data.splits.items()}

    @property
    def cut(self) -> int:
        return sum(tokens.cut for tokens in self.tokens.values())

    def notes(self) -> list[str]:
        return [*super().notes(), *(str(problem) for tokens in self.tokens.values() for problem in tokens.problems)]

    def lengths(self, split: str) -> list[int]:
        return self.tokens[split].lengths

    def ready(self, model: Any) -> list[str]:
        self.packs = can_pack(model) and attend_by_document(model)
        return ["several texts share a row, and none sees another: nothing is padded"] if self.packs else []

    def contents(self, split: str) -> Iterator[Any]:
        tokens = self.tokens[split]
        return zip(tokens.rows, tokens.prompts, tokens.references, strict=True)

    def batches(self, batch_size: int, seed: int) -> DataLoader[Any]:
        lengths = self.lengths("train")
        order = Shuffled(len(lengths), batch_size, seed) if self.packs else LengthGroups(lengths, batch_size, seed)
        rows: Any = self.tokens["train"].rows
        return DataLoader(rows, batch_sampler=order, collate_fn=self._packed if self.packs else self._padded)

    def batch_of(self, rows: Sequence[int]) -> Batch:
        texts = [self.tokens["train"].rows[i] for i in rows]
        return packed(texts) if self.packs else self._padded(texts)

    def size(self, rows: Sequence[int]) -> int:
        lengths = [self.tokens["train"].lengths[i] for i in rows]
        return sum(lengths) if self.packs else len(rows) * padded_length(max(lengths), self.length_step)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return causal_loss(model, batch, self.weight(batch))

    def weight(self, batch: Batch) -> int:
        return trained_tokens(batch)

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        sums, counts = self._losses(model, self.tokens[split].rows)
        loss = sum(sums) / sum(counts)
        tokens_N = torch.tensor(counts, dtype=torch.float64)
        parts = Means(torch.tensor(sums, dtype=torch.float64) / tokens_N, tokens_N)
        return Evaluation(CausalScores(loss, float(torch.tensor(loss).exp())), parts, [])

    def complete(self, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
        """Predictions are the texts that the model writes for the first rows of the split."""
        tokens = self.tokens[split]
        texts = self.write(model, split) if self.samples else []
        answered = [i for i in range(len(texts)) if tokens.references[i]]
        if answered:
            prompts = [self.tokenizer.decode(tokens.prompts[i], skip_special_tokens=True) for i in answered]
            of_texts = text_scores(prompts, [texts[i] for i in answered], [tokens.references[i] for i in answered])
            found = replace(found, scores=replace(found.scores, texts=of_texts))
        return replace(found, predictions=texts)

    def write(self, model: nn.Module, split: str) -> list[str]:
        tokens, pad = self.tokens[split], self.tokenizer.pad_token_id
        written = generate(model, tokens.prompts[: self.samples], tokens.stop, pad, self.room)
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]

    @property
    def room(self) -> int:
        """Tokens that an answer may have."""
        if self.answer_room is not None:
            return self.answer_room
        tokens = self.tokens["train"]
        longest = max(len(row["input_ids"]) - len(p) for row, p in zip(tokens.rows, tokens.prompts, strict=True))
        return int(_ANSWER_ROOM * longest)

    def write_predictions(self, path: Path, tuned: list[str], base: list[str]) -> None:
        tokens = self.tokens["valid"]
        prompts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens.prompts[: len(tuned)]]
        write_text_predictions(path, prompts, tokens.references, tuned, base)

    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> LanguageBaseline:
        return LanguageBaseline(model, self.tokenizer, text, tokens)

    def held(self, model: nn.Module, text: GeneralText) -> Replay:
        return Replay(self.tokenizer, text.kept, text.max_length)

    def provenance(self) -> dict[str, Any]:
        return {"columns": self.data.columns, "format": self.data.format, "stop": list(self.tokens["train"].stop)} | {
            "room": self.room
        }

    @torch.inference_mode()
    def _losses(self, model: nn.Module, rows: Sequence[TokenRow]) -> tuple[list[float], list[int]]:
        """Run batches of rows of like length: of each the sum over its learned tokens, and how many these are."""
        model.eval()
        device = next(model.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
        sums, counts = [], []
        for start in range(0, len(order), _EVALUATION_ROWS):
            batch = self._padded([rows[i] for i in order[start : start + _EVALUATION_ROWS]])
            sums.append(causal_loss(model, {key: value.to(device) for key, value in batch.items()}, 1).item())
            counts.append(trained_tokens(batch))
        return sums, counts

    def _padded(self, texts: Sequence[TokenRow]) -> Batch:
        return padded(texts, self.length_step)

    def _packed(self, texts: Sequence[TokenRow]) -> Batch:
        """A row for each micro-batch, more where they do not fill them."""
        return packed(texts, math.ceil(self.micro_share * sum(len(text["input_ids"]) for text in texts)))
