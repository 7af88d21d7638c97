"""Runs from Python: train one, or open one that is there.

run = inlay.train("builtin:minilm", rows, method=inlay.LoRA(rank=16), epochs=1)
run.predict(["a text"]); run.evaluate(); run.merge("merged"); run.summary
run = inlay.open("runs/tickets-lora")
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..attached.adapter import Adapter
from ..bases.base import Base, pick_device
from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError
from ..formats.event import Event
from ..formats.paths import path_of
from ..formats.summary import Summary
from ..inference.evaluation import AdapterScores, evaluate_adapter
from ..inference.merge import Into, merge
from ..inference.opened import Found, Opened, find_adapter
from ..lab.rank.analysis import Analysis, RankSettings, analyse
from ..machine import refusals
from ..methods.reparameterized.lora import LoRA
from ..models.tokenizer import Tokenizer
from ..show.table import Column, Table
from ..tasks.batches import length_step
from ..tasks.metric import METRICS
from ..tasks.task import Answer
from ..training.going_on import go_on as begin_or_go_on
from ..training.journal import Watcher
from ..training.prepared import free_folder
from ..training.run import train as train_one
from ..training.settings import RunSettings
from ..training.shared_base import NoSharing
from .asked import read_task, settings_of, with_rows_in
from .given_data import given_data
from .given_model import GivenModel, given_model
from .progress import watching

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(
    model: "str | Path | PreTrainedModel",
    data: object,
    method: Method | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    progress: bool | Watcher = True,
    go_on: bool = False,
    command: Sequence[str] = (),
    **settings: object,
) -> "Run":
    """Train one adapter, with LoRA by default, and write its run's folder.

    Args:
        model: A folder, a name, or a transformers model, which needs its `tokenizer` unless the files that it was
            loaded from have one. The object stays as it is: the run has a model of its own.
        data: A path or a name; a list of dicts, a datasets.Dataset or a pandas DataFrame; or a dict of these by split,
            such as a DatasetDict. Rows from Python are kept in the run's folder, under `rows`.
        progress: Whether to show a bar; or a function that takes each event.
        go_on: Go on with the run in `out` if it was stopped, as `inlay train --go-on` does.
        settings: Those of `inlay train`, such as `epochs=1`, and of the data, such as `label="topic"`.

    Raises InlayError, with the words of the command line, for what cannot work: having written nothing for settings and
    data, and what there is for a training that fails.
    """
    given = given_model(model, tokenizer)
    with given_data(data if not isinstance(data, DataSettings) else data.path) as rows:
        asked = settings_of(
            RunSettings,
            given.name,
            data if isinstance(data, DataSettings) else rows,
            {"method": method or LoRA(), **settings},
        )
        keeps = _Keeping()
        with watching(progress) as watcher:
            if go_on:
                if rows.own or given.base is not None:
                    raise SettingsError("go_on needs a model by its name and data in files, which are there later")
                summary = begin_or_go_on(asked, watcher, command)
            elif rows.own or given.base is not None:
                if rows.own:
                    asked = with_rows_in(asked, free_folder(asked))
                with refusals():
                    task = read_task(asked, rows, given.base)
                summary = train_one(asked, watcher, command, bases=keeps, task=task, begin=rows.keep)
            else:
                summary = train_one(asked, watcher, command, bases=keeps)
    return Run(Path(summary["folder"]), given if given.base is not None else None, asked.device, trained=keeps.adapter)


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


class _Keeping(NoSharing):
    """Each run loads its own base, and its adapter is kept in memory."""

    adapter: Adapter | None = None

    def take_back(self, adapter: Adapter) -> None:
        self.adapter = adapter


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

    @cached_property
    def found(self) -> Found:
        """The adapter with its base, as far as their files tell."""
        return find_adapter(self.folder, self._model, fetch=self.fetch)

    @cached_property
    def opened(self) -> Opened:
        """The adapter on its base, ready to answer."""
        found = self.found
        found.check_reads()
        if self.trained is None:
            return found.as_trained(pick_device(self.device))
        step = length_step(next(self.trained.model.parameters()).device, found.dtype)
        return Opened(self.trained, replace(found.task, length_step=step))

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
    def metrics(self) -> Table:
        """The scores of the base and the tuned model, on valid and, if there is one, on test."""
        scores = self.summary["metrics"]
        names = {"base": f"base, {scores['split']}", "tuned": f"tuned, {scores['split']}", "test": "tuned, test"}
        there = {label: scores[key] for key, label in names.items() if scores.get(key)}
        known = [name for name in METRICS if any(name in of for of in there.values())]
        columns = [Column(name=METRICS[name].label, text=METRICS[name].text, right=True) for name in known]
        rows = [[label, *(of.get(name) for name in known)] for label, of in there.items()]
        return Table(columns=[Column(name="model"), *columns], rows=rows)

    def predict(self, inputs: str | Sequence[object], **options: Any) -> Any:
        """Answer one text, or a list of them, each with a dict such as `inlay predict --json` prints.

        `options` are those of the adapter's task: `pair`, or `max_tokens` and `temperature`.
        """
        one = isinstance(inputs, str)
        answers = [answer.values for answer in self.answer([inputs] if one else list(inputs), **options)]
        return answers[0] if one else answers

    def answer(self, inputs: Sequence[object], **options: object) -> list[Answer]:
        """Answer texts as `predict` does, with the lines that a screen shows."""
        self.check_options(options)
        self.found.check_reads()
        self.found.task.check_inputs(inputs, **options)
        return self.opened.answer(inputs, **options)

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise SettingsError for an option of `predict` that is not for this adapter."""
        task = self.found.task
        if wrong := next((name for name in options if name not in task.options), None):
            raise SettingsError(f"--{wrong.replace('_', '-')} is not for this adapter, which {task.does}")

    def evaluate(self, data: object = None, split: str | None = None, samples: int | None = None) -> AdapterScores:
        """Score the base and the tuned model on the run's own data, or on others with the same columns.

        A language model writes texts for the first `samples` rows, or for all.
        """
        device = pick_device(self.device)
        if data is None:
            return evaluate_adapter(self.found, device, None, split, samples, fetch=self.fetch)
        with given_data(data) as rows:
            path = rows.path
            if rows.own and not isinstance(data, dict):
                path = str(next(Path(rows.path).iterdir()))
            return evaluate_adapter(self.found, device, path, split, samples, fetch=self.fetch)

    def rank(self, say: Callable[[str], None] = lambda _: None, **settings: Any) -> Analysis:
        """Analyse the rank of what was learned, layer by layer; settings are those of `inlay rank RUN`."""
        known: dict[str, Any] = {"model": self._model, "fetch": self.fetch, "device": self.device}
        return analyse(RankSettings(folder=self.folder, **known | settings), say)

    def merge(self, out: str | Path, into: Into = "base", watcher: Watcher = lambda _: None) -> Event:
        """Write a plain checkpoint with the adapter folded in, loaded again and compared; returns what was found."""
        return merge(self.folder, path_of(str(out)), self._model, self.device, into, watcher, fetch=self.fetch)

    @property
    def _model(self) -> str | Base | None:
        return self.base and (self.base.base or self.base.name)

    def __repr__(self) -> str:
        if not (self.folder / "summary.json").is_file():
            return f"Run({str(self.folder)!r})"
        said = self.summary
        return f"Run({str(self.folder)!r}, {said['method']} on {said['model']}, {said['status']})\n{self.metrics}"

    def _repr_html_(self) -> str:
        if not (self.folder / "summary.json").is_file():
            return f"<code>{self!r}</code>"
        from markupsafe import escape

        said = self.summary
        about = escape(f"{said['method']} on {said['model']} · {said['status']} · {self.folder}")
        return f"<p>{about}</p>{self.metrics.html()}"
