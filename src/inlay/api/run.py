"""A run from Python, just trained or opened: used, scored, analysed and merged.

run = inlay.open("runs/tickets-lora")
run.predict(["a text"]); run.evaluate(); run.rank(); run.merge("merged"); run.summary
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from markupsafe import escape
from torch import nn

from ..attached.adapter import Adapter
from ..bases.base import Base
from ..batches.batch import length_step
from ..data.inputs import lacks_text, read_inputs
from ..data.settings import Reading
from ..devices import pick_device
from ..errors import DataError, SettingsError, unknown_names
from ..formats.event import Event
from ..formats.files import held
from ..formats.paths import path_of
from ..formats.read import read_object
from ..formats.seal import PROVENANCE
from ..formats.summary import Summary
from ..inference.evaluation import AdapterScores, evaluate_adapter
from ..inference.merge import Into, merge
from ..inference.opened import Found, Opened, find_adapter
from ..lab.rank.analysis import RankSettings, analyse
from ..lab.rank.page import write_rank_report
from ..models.tokenizer import Tokenizer
from ..report import write_report
from ..show.forgetting import ForgettingSection, forgetting_section
from ..show.page import paragraphs
from ..show.table import Column, Table
from ..show.units import shares_text
from ..tasks import TASKS
from ..tasks.evaluation import Answer
from ..tasks.metric import METRICS
from ..tasks.naive import naive_in
from ..training.journal import Watcher
from .asked import reading_of
from .given_data import ROWS, GivenData, given_data, is_table
from .given_model import GivenModel, given_model
from .rank import RankAnalysis

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open(  # noqa: A001  # it is inlay.open
    folder: str | Path,
    model: "str | Path | PreTrainedModel | None" = None,
    *,
    tokenizer: Tokenizer | None = None,
    device: str = "auto",
    allow_download: bool = False,
) -> "Run":
    """Open a run's folder, or an adapter's, also one of Hugging Face PEFT; its weights are loaded when they are needed.

    `model` is its base, by name or as an object, if that is not found by what the adapter's files say. Raises
    CheckpointError if the files are damaged or the base is another one.
    """
    pick_device(device)
    given = None if model is None else given_model(model, tokenizer)
    run = Run(path_of(str(folder)), given, device, fetch=allow_download)
    _ = run.found
    return run


@dataclass(repr=False)
class Run:
    """A finished run, or an adapter that somebody else has trained, ready to be used."""

    folder: Path
    base: GivenModel | None = None
    """The base, if it was named when this was made."""
    device: str = "auto"
    fetch: bool = False
    trained: Adapter | None = None
    """The adapter as its training left it, if that was in this process."""
    _lock: AbstractContextManager[bool] = field(default_factory=threading.RLock, init=False, compare=False)
    """Threads, such as those of a service, take turns: some methods put tensors into the model for one call."""

    @cached_property
    def found(self) -> Found:
        """The adapter with its base, as far as their files tell."""
        return find_adapter(self.folder, self._model, fetch=self.fetch)

    @cached_property
    def opened(self) -> Opened:
        """The adapter on its base, ready to answer. It is loaded once, and not at all after a training."""
        if self.trained is None:
            return self.found.as_trained(self._device)
        step = length_step(self._device, self.found.dtype)
        return Opened(self.trained, replace(self.found.task, length_step=step))

    @property
    def notes(self) -> Sequence[str]:
        """What had to be assumed of an adapter whose files do not say how it was trained."""
        return self.found.notes

    @property
    def adapter(self) -> Adapter:
        """The adapter, attached to `model`."""
        return self.trained or self.opened.adapter

    @property
    def model(self) -> nn.Module:
        """The base model with the adapter attached; `inlay.using(run.model)` is the base alone."""
        return self.adapter.model

    @property
    def summary(self) -> Summary:
        """What summary.json says. Raises SettingsError for an adapter that was not made by a run."""
        path = self.folder / "summary.json"
        if not path.is_file():
            raise SettingsError(f"{self.folder} has no summary.json; it is no run's folder")
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def example(self) -> str:
        """An input as `inlay predict` takes it, with what else it needs."""
        about = read_object(self.folder / "adapter" / PROVENANCE, "what a run says of its adapter")
        return TASKS[about["task"]].example(about.get("columns", ()), about.get("format", ""))

    @property
    def metrics(self) -> Table:
        """The scores of the base and the tuned model, on valid and, if there is one, on test; of a classifier also what
        the most frequent label scores, since a base with a new head answers at random and is called so."""
        scores, naive = self.summary["metrics"], naive_in(self.summary, "valid")
        base = "base, its head random" if scores.get("base_is_random") else "base"
        names = {"base": f"{base}, {scores['split']}", "tuned": f"tuned, {scores['split']}", "test": "tuned, test"}
        there = {label: scores[key] for key, label in names.items() if scores.get(key)}
        if naive is not None and naive.answer is not None:
            there = {f"{naive.name}, {scores['split']}": naive.scores} | there
        known = [name for name in METRICS if any(name in of for of in there.values())]
        columns, cells = list[Column](), {label: list[float | str | None]() for label in there}
        for name in known:
            metric = METRICS[name]
            columns.append(Column(name=metric.label, text=metric.text, right=True))
            if metric.is_share_of_rows:
                columns.append(Column(name="95 %", right=True))
            for label, of in there.items():
                value, rows = of.get(name), scores.get("test_rows" if label == names["test"] else "rows")
                interval = None if value is None else metric.interval(value, rows)
                cells[label] += [value, interval and shares_text(interval)] if metric.is_share_of_rows else [value]
        return Table(columns=[Column(name="model"), *columns], rows=[[label, *cells[label]] for label in cells])

    @property
    def forgetting(self) -> ForgettingSection | None:
        """What the model lost of general text: a `sentence`, and a `table`; None if that was not measured."""
        found = self.summary.get("forgetting")
        return forgetting_section(found) if found else None

    def predict(self, inputs: Any, **options: Any) -> Any:
        """Answer one text with a dict such as `inlay predict --json` prints, or several with a list of them.

        Several are a list of texts, of pairs, or of conversations; or rows as for training: dicts, a DataFrame, a
        Dataset. `options` are those of the adapter's task: `pair`, or `max_tokens` and `temperature`; and of rows
        whose columns have other names than in training these, such as `text="Message"`; with `skip_faulty=0.01` rows
        that cannot be read, up to that share of them, are like those without a text.

        Of several, one without a text (empty, blank or None) keeps its place: its `label`, `probability` and
        `probabilities`, or its `text` that a language model would have written, are None. A language model's
        answer has `cut`: whether it has no end, as no more tokens were allowed. On a base of 16 bits a probability's
        third digit depends on the texts that are answered with it. Raises DataError for one text that is empty.
        """
        one, reading = isinstance(inputs, str), reading_of(options)
        if one and lacks_text(inputs):
            raise DataError("the text is empty; give one")
        answers = [
            answer.values for answer in self.answer([inputs] if one else self._inputs(inputs, reading), **options)
        ]
        return answers[0] if one else answers

    def _inputs(self, inputs: Any, reading: Reading) -> Sequence[object]:
        """Return what the task answers. Raises DataError for what it cannot be."""
        if not hasattr(inputs, "__iter__") or isinstance(inputs, Mapping):
            raise DataError(f"the inputs are a {type(inputs).__name__}; give a text, a list of texts, or rows")
        if not is_table(inputs):
            if hasattr(inputs, "isna"):  # of pandas, which has values of its own for what is missing
                inputs = [None if missing else each for each, missing in zip(inputs, inputs.isna(), strict=True)]
            inputs = list(inputs)
            if not (inputs and isinstance(inputs[0], Mapping)):
                for number, each in enumerate(inputs, 1):
                    if not isinstance(each, str | list | tuple | None):
                        raise DataError(f"input {number} is a {type(each).__name__}; give texts, or rows")
                return inputs
        with given_data(inputs) as rows:
            return self.found.task.inputs_in(read_inputs(rows.file, reading))

    def answer(self, inputs: Sequence[object], **options: object) -> list[Answer]:
        """Answer several texts as `predict` does, with the lines that a screen shows."""
        self.check_options(options)
        if not inputs:
            return []
        if options.get("pair") is not None and lacks_text(options["pair"]):
            raise DataError("the second text of the pair is empty; give one")
        self.found.check_reads()
        task = self.found.task
        task.check_inputs(inputs, **options)
        texts = [each for each in inputs if not lacks_text(each)]
        with self._lock:
            answers = iter(self.opened.answer(texts, **options) if texts else [])
        return [task.no_answer(each, **options) if lacks_text(each) else next(answers) for each in inputs]

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise SettingsError for an option of `predict` that is not for this adapter."""
        task = self.found.task
        if wrong := next((name for name in options if name not in task.options), None):
            raise SettingsError(f"--{wrong.replace('_', '-')} is not for this adapter, which {task.does}")

    def evaluate(
        self, data: object = None, split: str | None = None, samples: int | None = None, **columns: object
    ) -> AdapterScores:
        """Score the base and the tuned model on the run's own data, or on others: with the same columns, or with those
        that are named, such as `text="Message", label="Category"`.

        A language model writes texts for the first `samples` rows, by default as many as in training.
        """
        reading = reading_of(columns)
        if columns:
            names = ("data", "split", "samples", *(field.name for field in fields(Reading)))
            raise SettingsError(unknown_names("unknown setting", columns, names))
        with self._lock, _scored(data) as rows:
            path = rows and rows.file
            found = evaluate_adapter(
                self.found,
                self._ready,
                self._device,
                path,
                split=split,
                samples=samples,
                reading=reading,
                fetch=self.fetch,
            )
            return {**found, "data": ROWS} if rows and rows.own else found

    def rank(self, say: Callable[[str], None] = lambda _: None, **settings: Any) -> RankAnalysis:
        """Analyse the rank of what was learned, layer by layer, and write rank.html and rank.json into the folder.

        `settings` are those of `inlay rank RUN`: `ranks=(8, 4, 2)`, `data` with its columns, `split`, `base`, `curve`,
        `other`, and to write a cut adapter `to` and `out`.
        """
        settings.setdefault("reading", reading_of(settings))
        names = [field.name for field in fields(RankSettings)]
        if unknown := [name for name in settings if name not in names]:
            raise SettingsError(unknown_names("unknown setting", unknown, names))
        paths = {name: path_of(str(settings[name])) for name in ("other", "out") if settings.get(name) is not None}
        if isinstance(ranks := settings.get("ranks"), list):
            settings["ranks"] = tuple(ranks)
        with self._lock, _scored(settings.get("data")) as rows:
            known: dict[str, Any] = settings | paths | {"data": rows and rows.file}
            asked = RankSettings(**known)
            found = analyse(
                self.found,
                lambda: self._ready(as_saved=True),
                self._device,
                asked,
                say,
                model=self._model,
                fetch=self.fetch,
            )
        return RankAnalysis(found, write_rank_report(found, self.folder))

    def merge(self, out: str | Path, into: Into = "base", watcher: Watcher = lambda _: None) -> Event:
        """Write a plain checkpoint with the adapter folded in, loaded again and compared; returns what was found."""
        with self._lock:
            in_memory = self.trained is not None or "opened" in vars(self)
            opened = self.opened if in_memory and self._usable(as_saved=True) else None
            return merge(self.found, path_of(str(out)), self._device, into, watcher, opened)

    def report(self) -> Path:
        """Make the report of a run again from the files in its folder; nothing is computed. Returns report.html."""
        if not (self.folder / "summary.json").is_file():
            raise SettingsError(
                f"{self.folder} has no summary.json, which a report is made from; name the folder of a run"
            )
        with held(self.folder):
            return write_report(self.folder)

    @property
    def _model(self) -> str | Base | None:
        return self.base and (self.base.base or self.base.name)

    @property
    def _device(self) -> torch.device:
        return pick_device(self.device) if self.trained is None else next(self.trained.model.parameters()).device

    def _usable(self, as_saved: bool = False) -> bool:
        """Tell whether what is opened is still the adapter by itself on its base; `as_saved`: and has the form that its
        files have, where some methods train another form of the same."""
        adapter = self.opened.adapter
        return adapter.is_alone and (not as_saved or self.found.has_form_of(adapter))

    def _ready(self, as_saved: bool = False) -> Opened:
        """Return what is opened, or the same loaded anew if that is no longer usable."""
        return self.opened if self._usable(as_saved) else self.found.as_trained(self._device)

    def __repr__(self) -> str:
        if not (self.folder / "summary.json").is_file():
            return f"Run({str(self.folder)!r})"
        said = self.summary
        lines = [f"Run({str(self.folder)!r}, {said['method']} on {said['model']}, {said['status']})", str(self.metrics)]
        return "\n".join([*lines, *self._lost()])

    def _repr_html_(self) -> str:
        if not (self.folder / "summary.json").is_file():
            return f"<code>{escape(repr(self))}</code>"
        said = self.summary
        about = f"{said['method']} on {said['model']} · {said['status']} · {self.folder}"
        return paragraphs([about]) + self.metrics.html() + paragraphs(self._lost())

    def _lost(self) -> list[str]:
        return [self.forgetting.sentence] if self.forgetting else []


@contextmanager
def _scored(data: object) -> Iterator[GivenData | None]:
    """Make rows to be scored readable; None for the run's own."""
    if data is None:
        yield None
        return
    with given_data(data) as rows:
        yield rows
