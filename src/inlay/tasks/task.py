"""What a run trains for, as one class: rows, model, batches, loss and scores, what it answers and what it shows.

A task is one file with a subclass of `Task`, registered in TASKS. What most tasks share is here, so a new one says what
is its own: a class of models, rows as tokens, a loss, an evaluation.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..bases.arrival import Take
from ..bases.auto_class import AutoClass, empty_model
from ..bases.base import Base
from ..bases.vocabulary import check_ids
from ..batches.batch import LENGTH_STEP, Batch, LengthGroups, Order, pad, padded_length
from ..core.attachment import Attachment
from ..data.examples import Examples
from ..data.formats import OpenedData
from ..data.inputs import InputRows
from ..data.problems import Problem
from ..forgetting.baseline import Baseline, Held
from ..forgetting.geometry import GeometryBaseline
from ..forgetting.passages import GeneralText
from ..forgetting.retaining import Anchor
from ..formats.files import as_json, write_text
from ..formats.peft_config import PeftConfig
from ..formats.summary import Summary
from ..models.tokenizer import Tokenizer
from .evaluation import Answer, Evaluation
from .facts import Fact
from .metric import Scores, better_than
from .naive import NaiveBaseline
from .page import Judged, PredictionLine, Said, TaskPage, Verdict, samples_section

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class TaskSettings(Protocol):
    """The settings of a run that a task looks at."""

    @property
    def samples(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def rows_at_once(self) -> int: ...


@dataclass(kw_only=True)
class Task(ABC):
    """A task on one base model: of a run, with its rows, or of an adapter that is opened, as yet without."""

    name: ClassVar[str]
    """The name in summary.json and provenance.json."""
    formats: ClassVar[tuple[str, ...]]
    """The formats of rows that it reads (data/formats.py)."""
    main_score: ClassVar[str]
    """The metric by which one adapter is better than another."""
    expected: ClassVar[tuple[str, ...]]
    """The metrics that every evaluation has."""
    does: ClassVar[str]
    """What an adapter does, in messages: `gives labels`."""
    new_head: ClassVar[bool] = False
    """Whether the base gets a head of the task's own, which its configuration describes."""
    forgets: ClassVar[Literal["loss", "geometry"]] = "geometry"
    """What is measured of what its model forgets."""
    writes: ClassVar[bool] = False
    """Whether answers are texts that are written token by token, and so only for some rows."""
    input_keys: ClassVar[tuple[str, ...] | None] = None
    """What the model takes of what a tokenizer gives; None: all of it."""
    facts: ClassVar[Mapping[str, Fact]] = {}
    """What provenance.json must say for an adapter to be used."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles that its columns must have there, if it says what they are."""
    peft_types: ClassVar[tuple[str, ...]] = ()
    """PEFT's task_type of such adapters."""
    options: ClassVar[tuple[str, ...]] = ()
    """The settings of `answer`, which are those of `inlay predict`."""
    nothing_predicted: ClassVar[str] = "no sample of its answers"
    """What a page lacks if there are no predictions."""

    base: Base
    tokenizer: Any  # a Tokenizer; None for an adapter of somebody else for which none is found
    config: "PreTrainedConfig"  # of the model
    data: Any = None  # an Examples
    about: Mapping[str, Any] = field(default_factory=dict)  # provenance.json, if an adapter is opened
    tokens: dict[str, Any] = field(default_factory=dict)  # of each split, as Tokens has them
    max_length: int = 0
    length_step: int = LENGTH_STEP  # batches are padded to its multiples
    packs: bool = False  # several texts share a row
    samples: int | None = None  # rows of a split for which texts are written; None: all

    # Making one.

    @classmethod
    def reads(cls, opened: OpenedData) -> bool:
        """Tell whether these rows are for this task, where none is named."""
        return opened.layout.format in cls.formats

    @classmethod
    def refuses(cls, config: "PreTrainedConfig") -> str | None:
        """Say what a model is that cannot learn the task; None if it may."""
        return None

    @classmethod
    @abstractmethod
    def prepare(cls, base: Base, opened: OpenedData, settings: TaskSettings) -> Self:
        """Check the data, whose rows are read. Raises DataError or SettingsError; loads no weights."""

    @classmethod
    @abstractmethod
    def of_adapter(cls, base: Base, tokenizer: Tokenizer | None, about: Mapping[str, Any]) -> Self:
        """Make the task of an adapter that was trained, from what provenance.json says; it has no rows."""

    @abstractmethod
    def examples(self, opened: OpenedData, whole: bool) -> Examples[Any]:
        """Read the rows that an adapter is scored on; of the run's own the valid split is held out, of a `whole` data
        set nothing. Raises DataError."""

    @classmethod
    def is_for(cls, adapter_config: PeftConfig, base: Base) -> bool:
        """Tell whether an adapter of somebody else, whose files name no task, is for this one."""
        return False

    @classmethod
    def assumed(
        cls,
        folder: Path,
        config: PeftConfig,
        tensors: Mapping[str, Tensor],
        base: Base,
        tokenizer: Tokenizer | None,
    ) -> tuple[dict[str, object], list[str]]:
        """Return the `facts` of an adapter of somebody else, and in words what is assumed. Raises CheckpointError."""
        return {}, []

    # Its model.

    @property
    @abstractmethod
    def auto_class(self) -> AutoClass:
        """The class of transformers that makes the model. Raises SettingsError if there is none."""

    @property
    def base_is_random(self) -> bool:
        """Whether the base's answers come from a head that is new, so that its scores are no baseline."""
        return False

    def empty(self) -> nn.Module:
        """Make the model without values, for checks that must not wait for its weights."""
        return empty_model(self.auto_class, self.config)

    def check_weights(self) -> tuple[str, ...]:
        """Compare the headers of the base's files with the model; returns what is to be said. Raises SettingsError if
        weights are missing or have another shape."""
        return self.base.check_weights(self.auto_class, self.config if self.new_head else None)

    def load(self, dtype: torch.dtype | Literal["auto"], take: Take | None = None) -> tuple[nn.Module, tuple[str, ...]]:
        """Load the model with its weights, of which each passes `take`; returns the names of its new heads, too."""
        model, found = self.base.load(self.auto_class, self.config if self.new_head else None, take, dtype=dtype)
        return model, found.heads if self.new_head else ()

    def start_head(self, adapter: Attachment, most_rows: int) -> str | None:
        """Let a new head begin with what can be known before any step, by at most so many rows; returns what is to be
        said."""
        return None

    def ready(self, model: Any) -> list[str]:
        """Choose how batches are made for this model, which has its adapter; returns what there is to say of it."""
        return []

    # Its rows.

    @abstractmethod
    def tokenize(self, max_length: int) -> None:
        """Make every split's tokens; a run knows the length only when the method is known to fit."""

    def check_tokens(self, model: nn.Module) -> None:
        """Raise SettingsError if `model`, which may be empty, cannot read a token of some row."""
        check_ids(self.tokenizer, model, (row["input_ids"] for split in self.tokens.values() for row in split.rows))

    def only(self, split: str) -> Self:
        """Return the task with one split of its rows, which are not tokenized yet."""
        return replace(self, data=replace(self.data, splits={split: self.data.splits[split]}), tokens={})

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, for a task that has some."""
        return self.data.labels

    @property
    def rows(self) -> dict[str, int]:
        """How many rows of each split are learned or scored; a text, or a conversation, may have several."""
        return {split: len(tokens.lengths) for split, tokens in self.tokens.items()}

    @property
    def left_out(self) -> int:
        """How many rows of the data are not used, as they are faulty or the length has no room for them."""
        return self.data.faulty + sum(len(tokens.unused) for tokens in self.tokens.values())

    @property
    def cut(self) -> int:
        """Rows that were longer than the length."""
        return sum(tokens.cut for tokens in self.tokens.values())

    def problems(self) -> list[Problem]:
        """List what was put right or left out in the data."""
        return list(self.data.warnings)

    def skipped(self) -> list[str]:
        """Say which rows were left out because they cannot be used."""
        return [problem.told for problem in self.problems() if problem.severity == "skipped"]

    def notes(self) -> list[str]:
        """Say what there is to know of the data, for the run's log."""
        return [problem.told for problem in self.problems()]

    def lengths(self, split: str) -> list[int]:
        """Return the number of tokens of each row."""
        return self.tokens[split].lengths

    def row(self, split: str, number: int) -> dict[str, Any]:
        """Return what a batch is collated from."""
        return self.tokens[split].rows[number]

    def contents(self, split: str) -> Iterator[object]:
        """Yield what each row is learned and scored by; its `repr` tells it from any other."""
        return (self.row(split, i) for i in range(len(self.lengths(split))))

    # Training.

    def collate(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Make one batch of rows. Labels are under `labels`; what is learned is counted by `weight`."""
        return pad(self.tokenizer, rows, self.length_step)

    def order(self, batch_size: int, seed: int) -> Order:
        """Choose which training rows share a batch, in each epoch."""
        return LengthGroups(self.lengths("train"), batch_size, seed)

    def in_parts(self, share: float) -> None:
        """Make batches that are computed in parts of this share, one after another."""

    def batches(self, batch_size: int, seed: int) -> DataLoader[int]:
        """Load batches of the training rows, every row once an epoch; `.batch_sampler.set_epoch` before each.
        A batch with `position_ids` is packed; its rows are micro-batches."""
        numbers: Any = range(len(self.lengths("train")))
        return DataLoader(numbers, batch_sampler=self.order(batch_size, seed), collate_fn=self.training_batch)

    def training_batch(self, rows: Sequence[int]) -> Batch:
        """Collate the training rows of these numbers, as a step takes them."""
        return self.batch_of(rows)

    def batch_of(self, rows: Sequence[int]) -> Batch:
        """Collate the training rows of these numbers into one batch that is computed at once."""
        return self.collate([self.row("train", i) for i in rows])

    def size(self, rows: Sequence[int]) -> int:
        """Count the tokens of `batch_of` these rows, with padding."""
        return len(rows) * padded_length(max(self.lengths("train")[i] for i in rows), self.length_step)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over what is learned in the batch, in float32 whatever the logits' dtype."""

    def weight(self, batch: Batch) -> int:
        """Count how many things `loss` is the mean of: micro-batches count by it."""
        return len(batch["input_ids"])

    def is_better(self, scores: Scores, than: Scores | None) -> bool:
        """Tell whether an adapter with these scores is kept rather than one with the others."""
        return better_than(scores, than, self.main_score)

    @property
    def begins_least(self) -> bool:
        """Whether a part of the loss is nothing at the start."""
        return False

    def provenance(self) -> dict[str, object]:
        """Return what is needed to use the adapter later, beside the base: the `facts` and more."""
        return {"columns": self.data.columns}

    # Scores.

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Evaluate a model in one pass over the rows."""

    def complete(self, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
        """Add to what `evaluate` gave what takes longer and is wanted before and after training only."""
        return found

    def evaluate_fully(self, model: nn.Module, split: str) -> Evaluation:
        return self.complete(model, split, self.evaluate(model, split))

    def naive(self, split: str, base: Scores | None = None) -> NaiveBaseline | None:
        """Score on a split what needs no reading of its inputs; `base` are the base model's scores there, if it was
        evaluated. None where nothing is known."""
        return NaiveBaseline(name="the base model", scores=base) if base else None

    def one_answer(self, split: str, found: Evaluation) -> str | None:
        """Name the answer that every row got, where the rows of the split want several; None if there is none."""
        return None

    def never_given(self, split: str, found: Evaluation) -> dict[str, int]:
        """Count the rows of a split by their answers, of answers that none was given though several have them."""
        return {}

    def most_texts(self, samples: int) -> int:
        """Return for how many rows of a split texts are written where `samples` are asked for."""
        return samples if self.writes else 0

    # Answers.

    @classmethod
    def example(cls, columns: Collection[str], format: str) -> str:
        """Return an input as a shell has it, for an adapter whose rows have columns of these roles and this format."""
        return '"a text"'

    def inputs_in(self, found: InputRows) -> Sequence[object]:
        """Return what `answer` takes of the rows of a file, one for each; what their reading leaves open is as in
        training. Raises DataError, or SettingsError for a column that is no input."""
        raise NotImplementedError(f"{self.name} answers no files")

    @property
    def converses(self) -> bool:
        """Whether an input is a conversation, so that what was said before belongs to the next."""
        return False

    def check_inputs(self, inputs: Sequence[object], **options: object) -> None:
        """Raise SettingsError for inputs that the adapter was not trained on; no weights are loaded yet."""

    @abstractmethod
    def answer(self, model: nn.Module, inputs: Sequence[object], **options: object) -> list[Answer]:
        """Answer each input. Raises SettingsError for a token that the model cannot read."""

    def no_answer(self, given: object, **options: object) -> Answer:
        """Return what stands in the place of an input without a text."""
        return Answer({"text": given or ""}, "", "")

    # What its files and pages say.

    @abstractmethod
    def prediction_rows(self, split: str, tuned: Any, base: Any) -> Iterable[PredictionLine]:
        """Yield the lines of predictions.jsonl: what two models, each given by its `predictions`, say of a split.
        `base` is None if there is none any more."""

    def write_predictions(self, path: Path, tuned: object, base: object) -> None:
        write_text(path, "".join(as_json(row) + "\n" for row in self.prediction_rows("valid", tuned, base)))

    @classmethod
    @abstractmethod
    def said(cls, row: PredictionLine) -> Said:
        """Return a line of predictions.jsonl as any task's can be shown. Raises KeyError if it is another task's."""

    @classmethod
    def page(cls, summary: Summary, predictions: Sequence[PredictionLine]) -> TaskPage:
        """Return what a run's page shows, from its summary and the lines of predictions.jsonl."""
        judged = Judged.from_summary(summary)
        return TaskPage(
            tiles=judged.tiles(cls.expected, {}),
            verdict=cls.verdict(judged, predictions),
            section=cls.section(judged.split, predictions),
            naive=judged.naive,
        )

    @classmethod
    def verdict(cls, judged: Judged, predictions: Sequence[PredictionLine]) -> Verdict:
        """Judge the tuned model's scores, as the run's page, its last line and `eval` say it."""
        return judged.verdict(cls.main_score)

    @classmethod
    def section(cls, split: str, predictions: Sequence[PredictionLine]) -> str:
        """Return HTML with the first predictions."""
        return samples_section(split, [cls.said(row) for row in predictions], cls.nothing_predicted)

    # Forgetting.

    def baseline(self, model: nn.Module, text: GeneralText, tokens: int) -> Baseline:
        """Keep what the base, which `model` is now, does with the first passages, as many as have `tokens` together."""
        return GeometryBaseline(model, self.tokenizer, text, tokens)

    def held(self, model: nn.Module, text: GeneralText) -> Held:
        """Return what holds the model to what the base, which it is now, does with the passages kept for that."""
        return Anchor(model, self.tokenizer, text.kept, text.max_length)
