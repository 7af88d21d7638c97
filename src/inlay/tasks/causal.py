"""Generation: what a causal language model should write, learned from conversations, completions or whole texts."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from ..attached.adapter import adapters
from ..bases.auto_class import AutoClass, no_writer, writer_class
from ..bases.base import Base, empty_language_model
from ..bases.vocabulary import check_ids
from ..batches.batch import Batch, Order, to_device
from ..batches.chunked_loss import causal_loss, losses_of_rows, trained_of_rows, trained_tokens
from ..batches.evaluated import by_length, of_batches, of_rows
from ..batches.packing import Shuffled, can_pack, packed, packed_length, padded
from ..data.columns import find_column
from ..data.conversation import Message
from ..data.examples import Examples
from ..data.formats import OpenedData, in_place_of_labels
from ..data.generation import FORMS, GenerationExample, generation_in
from ..data.inputs import InputRows
from ..data.problems import Problem
from ..data.tokens import GenerationTokens, TokenRow, tokenize_generation, tokenize_prompt
from ..errors import DataError, SettingsError
from ..forgetting.language import LanguageBaseline
from ..forgetting.passages import GeneralText
from ..forgetting.retaining import Replay
from ..formats.peft_config import PeftConfig
from ..formats.summary import Summary
from ..models.document_attention import attend_by_document
from ..models.tokenizer import Tokenizer
from ..stats import Means
from . import lower_loss
from .evaluation import Answer, Evaluation
from .facts import COUNT, TOKENS, one_of
from .generate import generate
from .input_columns import input_columns
from .metric import Scores, scores_of
from .naive import NaiveBaseline
from .outcomes import TokenLosses, WrittenTexts
from .page import Judged, PredictionLine, Said, TaskPage, Verdict
from .task import Task, TaskSettings

_ANSWER_ROOM = 1.5  # times the longest answer in training: more than that is not generated
_ASSUMED_ROOM = 256  # tokens of an answer, of an adapter that does not say
_EVALUATION_ROWS = 16
_PROMPTS = ("prompt", "instruction", "text")  # roles of the column that a row's prompt stands in
_TALKS = ("messages", "conversations")


@dataclass(kw_only=True)
class Causal(Task):
    name = "causal"
    formats = tuple(FORMS)
    main_score, expected = "loss", ("loss", "perplexity")
    does = "writes texts"
    writes = True
    forgets = "loss"
    input_keys = ("input_ids", "attention_mask")
    facts = {"format": one_of(*FORMS), "stop": TOKENS, "room": COUNT}
    peft_types = ("CAUSAL_LM",)
    options = ("max_tokens", "temperature")
    nothing_predicted = "no sample of its texts"

    micro_share: float = 1.0  # of a batch that is computed at once

    @classmethod
    def refuses(cls, config: transformers.PreTrainedConfig) -> str | None:
        return no_writer(config)

    @classmethod
    def prepare(cls, base: Base, opened: OpenedData, settings: TaskSettings) -> Self:
        if (kind := cls.refuses(base.config)) is not None:
            raise SettingsError(
                f"model {base.name!r} is {kind}, and the rows have {in_place_of_labels(opened)}; texts "
                "are learned by causal language models, such as Llama"
            )
        return cls(
            base=base,
            data=generation_in(opened),
            tokenizer=base.tokenizer(),
            config=base.config,
            samples=settings.samples,
            micro_share=settings.rows_at_once / settings.batch_size,
        )

    @classmethod
    def of_adapter(cls, base: Base, tokenizer: Tokenizer | None, about: Mapping[str, Any]) -> Self:
        return cls(base=base, tokenizer=tokenizer, config=base.config, about=about, max_length=about["max_length"])

    def examples(self, opened: OpenedData, whole: bool) -> Examples[GenerationExample]:
        return generation_in(opened, whole)

    @classmethod
    def is_for(cls, adapter_config: PeftConfig, base: Base) -> bool:
        return is_language_adapter(adapter_config, base)

    @classmethod
    def assumed(
        cls,
        folder: Path,
        config: PeftConfig,
        tensors: Mapping[str, Tensor],
        base: Base,
        tokenizer: Tokenizer | None,
    ) -> tuple[dict[str, object], list[str]]:
        chat = bool(getattr(tokenizer, "chat_template", None))
        stop = _stop(base, tokenizer)
        ends = " or ".join(map(str, tokenizer.convert_ids_to_tokens(stop))) if tokenizer is not None else ""
        return {"format": "messages" if chat else "text", "stop": stop, "room": _ASSUMED_ROOM}, [
            f"prompts are written {'by the chat template' if chat else 'as they are'}",
            f"an answer has at most {_ASSUMED_ROOM} tokens{' and ends at ' + ends if ends else ''}",
        ]

    @property
    def auto_class(self) -> AutoClass:
        return writer_class(self.config)

    def tokenize(self, max_length: int) -> None:
        self.max_length = max_length
        self.tokens = {
            split: tokenize_generation(self.tokenizer, rows, max_length, split, self.data.skip_faulty)
            for split, rows in self.data.splits.items()
        }

    def problems(self) -> list[Problem]:
        return [*super().problems(), *(problem for tokens in self.tokens.values() for problem in tokens.problems)]

    def ready(self, model: Any) -> list[str]:
        self.packs = can_pack(model) and attend_by_document(model)
        return (
            ["packing: several texts share a row, without attention between them, and nothing is padded"]
            if self.packs
            else []
        )

    def contents(self, split: str) -> Iterator[object]:
        tokens = self.tokens[split]
        return zip(tokens.rows, tokens.prompts, tokens.references, strict=True)

    def order(self, batch_size: int, seed: int) -> Order:
        return Shuffled(len(self.lengths("train")), batch_size, seed) if self.packs else super().order(batch_size, seed)

    def collate(self, rows: Sequence[TokenRow]) -> Batch:
        return packed(rows) if self.packs else padded(rows, self.length_step)

    def in_parts(self, share: float) -> None:
        self.micro_share = share

    def training_batch(self, rows: Sequence[int]) -> Batch:
        """Collate training rows; a packed batch has a row for each micro-batch, more where they do not fill them."""
        if not self.packs:
            return self.batch_of(rows)
        texts = [self.row("train", i) for i in rows]
        return packed(texts, math.ceil(self.micro_share * sum(len(text["input_ids"]) for text in texts)))

    def size(self, rows: Sequence[int]) -> int:
        lengths = self.lengths("train")
        return packed_length(sum(lengths[i] for i in rows)) if self.packs else super().size(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return causal_loss(model, batch, self.weight(batch))

    def weight(self, batch: Batch) -> int:
        return trained_tokens(batch)

    def provenance(self) -> dict[str, object]:
        known = {"columns": self.data.columns, "format": self.data.format}
        return known | {"stop": list(self.stop), "room": self.room, "samples": self.samples}

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        outcome = self._losses(model, self.tokens[split].rows)
        sums_N, tokens_N = (of_N[outcome.tokens_N > 0] for of_N in (outcome.sums_N, outcome.tokens_N))
        return Evaluation(scores_of(outcome), Means(sums_N / tokens_N, tokens_N), [])

    def complete(self, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
        """Add the texts that the model writes for the first rows of the split, and their scores."""
        tokens: GenerationTokens = self.tokens[split]
        prompts = tokens.prompts[: self.samples]
        texts = [text for text, _ in self._written(model, prompts, tokens.stop, self.room)] if prompts else []
        return replace(found, scores=found.scores | self._text_scores(split, texts), predictions=texts)

    def naive(self, split: str, base: Scores | None = None) -> NaiveBaseline | None:
        """Take the base model's loss, and of texts the scores of its prompt written again."""
        prompts = [self._prompt(split, i) for i in range(len(self.tokens[split].prompts[: self.samples]))]
        found = super().naive(split, base)
        return found and replace(found, scores=found.scores | self._text_scores(split, prompts))

    def _text_scores(self, split: str, texts: Sequence[str]) -> Scores:
        """Score the texts for the split's first prompts, as far as these have references."""
        references = self.tokens[split].references
        answered = [i for i in range(len(texts)) if references[i]]
        if not answered:
            return {}
        prompts = [self._prompt(split, i) for i in answered]
        return scores_of(WrittenTexts(prompts, [texts[i] for i in answered], [references[i] for i in answered]))

    def _prompt(self, split: str, number: int) -> str:
        return self.tokenizer.decode(self.tokens[split].prompts[number], skip_special_tokens=True)

    def _written(
        self, model: nn.Module, prompts: Sequence[list[int]], stop: Sequence[int], room: int, temperature: float = 0.0
    ) -> list[tuple[str, bool]]:
        """Write after each prompt; returns each text, and whether it has no end for want of room."""
        pad, positions = self.tokenizer.pad_token_id, self._positions(model)
        ids = generate(model, prompts, stop, pad, room, temperature=temperature, positions=positions)
        texts = [self.tokenizer.decode(of_text, skip_special_tokens=True).strip() for of_text in ids]
        cut = [len(of_text) >= min(room, positions - len(prompt)) for of_text, prompt in zip(ids, prompts, strict=True)]
        return list(zip(texts, cut, strict=True))

    def _positions(self, model: nn.Module) -> int:
        """Return how many tokens a text and its answer may have together, beside those that adapters add."""
        return self.base.positions - sum(adapter.method.virtual_tokens for adapter in adapters(model).values())

    @property
    def stop(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return tuple(self.about["stop"]) if self.about else self.tokens["train"].stop

    @property
    def room(self) -> int:
        """Tokens that an answer may have."""
        if self.about:
            return self.about["room"]
        tokens = self.tokens["train"]
        longest = max(len(row["input_ids"]) - len(p) for row, p in zip(tokens.rows, tokens.prompts, strict=True))
        return int(_ANSWER_ROOM * longest)

    def _losses(self, model: nn.Module, rows: Sequence[TokenRow]) -> TokenLosses:
        """Return the losses of the rows, computed in batches of like length."""
        model.eval()
        device = next(model.parameters()).device

        def of_batch(chosen: list[int]) -> list[tuple[float, int]]:
            batch = padded([rows[i] for i in chosen], self.length_step)
            sums_B = losses_of_rows(model, to_device(batch, device))
            return list(zip(sums_B.tolist(), trained_of_rows(batch), strict=True))

        batches = by_length([len(row["input_ids"]) for row in rows], _EVALUATION_ROWS)
        found = of_rows(batches, of_batches(model, batches, of_batch, what="scoring"))
        return TokenLosses(*(torch.tensor(values, dtype=torch.float64) for values in zip(*found, strict=True)))

    @property
    def _format(self) -> str:
        return self.about["format"] if self.about else self.data.format

    @classmethod
    def example(cls, columns: Collection[str], format: str) -> str:
        return {"chat": '"a question"', "completion": '"a prompt"', "text": '"how a text begins"'}[FORMS[format]]

    def inputs_in(self, found: InputRows) -> list[str]:
        columns = self.about.get("columns", {}) if self.about else self.data.columns
        known = next(({role: columns[role]} for role in _PROMPTS if role in columns), {"prompt": "prompt"})
        if {"prompt", "text"} <= found.reading.named_columns().keys():
            raise SettingsError("data.prompt and data.text both name the column of the prompts; give one of them")
        *_, (role, column) = input_columns(self, found, known, ("prompt", "text"), _PROMPTS).items()  # last: if named
        talks = [name for name in _TALKS if find_column(name, found.columns)]
        if talks and not found.plain and find_column(column, found.columns) is None:
            raise DataError(
                f"{found.rows[0].columns_place}: the rows are conversations ({talks[0]}), which Python alone answers: "
                "run.predict([turns, ...]), each up to its last question; for a file write that into a column prompt"
            )
        return [prompt for prompt, _ in found.texts({role if role == "text" else "prompt": column})]

    @property
    def converses(self) -> bool:
        return FORMS[self._format] == "chat"

    def answer(  # pyright: ignore[reportIncompatibleMethodOverride]  # it names its options
        self,
        model: nn.Module,
        inputs: Sequence[str | Sequence[Message]],
        max_tokens: int | None = None,
        temperature: float = 0.0,
    ) -> list[Answer]:
        """Write what comes next after each prompt or conversation; with a temperature of 0 what is most likely.

        Raises DataError if the model's chat template refuses the turns.
        """
        talks: list[list[Message]]
        talks = [[{"role": "user", "content": each}] if isinstance(each, str) else list(each) for each in inputs]
        prompts = [tokenize_prompt(self.tokenizer, talk, FORMS[self._format]) for talk in talks]
        if not all(prompts):
            raise DataError("a text is empty for this model: its tokenizer makes no token of it; write something else")
        check_ids(self.tokenizer, model, prompts)
        most = self._positions(model) - 1
        if (number := next((i for i, prompt in enumerate(prompts, 1) if len(prompt) > most), None)) is not None:
            raise DataError(
                f"text {number} has {len(prompts[number - 1]):,} tokens, and the model has room for {most:,} before an "
                "answer; shorten it"
            )
        written = self._written(model, prompts, self.stop, max_tokens or self.room, temperature)
        return [
            Answer(
                {"prompt": talk[-1]["content"], "text": text, "cut": cut},
                text,
                " ".join(text.split()),
                {"answer": text},
                cut=cut,
            )
            for talk, (text, cut) in zip(talks, written, strict=True)
        ]

    def no_answer(self, given: object, **options: object) -> Answer:
        return Answer({"prompt": given or "", "text": None, "cut": None}, "", "", {"answer": None})

    def prediction_rows(self, split: str, tuned: list[str], base: list[str] | None) -> Iterable[PredictionLine]:
        """Yield the first rows' lines, for which texts were written."""
        for i, text in enumerate(tuned):
            prompt, references = self._prompt(split, i), list(self.tokens[split].references[i])
            yield {"prompt": prompt, "references": references, "text": text, "base_text": base[i] if base else None}

    @classmethod
    def said(cls, row: PredictionLine) -> Said:
        wanted = row["references"][0] if row["references"] else None
        return Said(prompt=row["prompt"], wanted=wanted, answer=row["text"], base_answer=row["base_text"])

    @classmethod
    def page(cls, summary: Summary, predictions: Sequence[PredictionLine]) -> TaskPage:
        judged = Judged.from_summary(summary)
        return TaskPage(
            tiles=lower_loss.tiles(judged, cls.expected, len(predictions)),
            verdict=cls.verdict(judged, predictions),
            section=cls.section(judged.split, predictions),
            naive=judged.naive,
        )

    @classmethod
    def verdict(cls, judged: Judged, predictions: Sequence[PredictionLine]) -> Verdict:
        return lower_loss.verdict(judged, len(predictions))

    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> LanguageBaseline:
        return LanguageBaseline(model, self.tokenizer, text, tokens)

    def held(self, model: nn.Module, text: GeneralText) -> Replay:
        return Replay(self.tokenizer, text.kept, text.max_length)


def is_language_adapter(adapter_config: PeftConfig, base: Base) -> bool:
    """Tell whether an adapter is for a language model: the base is one, and no module was added that is not its own."""
    if no_writer(base.config) is not None:
        return False
    saved = adapter_config.get("modules_to_save") or ()
    names = {name.rpartition(".")[2] for name, _ in empty_language_model(base.config).named_modules()} if saved else ()
    return not any(entry.rpartition(".")[2] not in names for entry in saved)


def _stop(base: Base, tokenizer: Tokenizer | None) -> list[int]:
    """Find where the base's own generation ends."""
    found: list[int | list[int] | None] = [getattr(tokenizer, "eos_token_id", None)]
    try:
        settings: Any = transformers.GenerationConfig.from_pretrained(base.path, local_files_only=not base.fetch)
        found.append(settings.eos_token_id)
    except (OSError, ValueError):
        found.append(getattr(base.config.get_text_config(), "eos_token_id", None))
    ids = {id for ids in found for id in (ids if isinstance(ids, list) else [ids]) if id is not None}
    known = len(tokenizer) if tokenizer is not None else 0
    return sorted(id for id in ids if id < known)
