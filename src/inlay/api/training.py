"""Runs from Python, begun and finished.

run = inlay.train("builtin:minilm", rows, method=inlay.LoRA(rank=16), epochs=1)
run = inlay.resume("runs/stopped")
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..attached.adapter import Adapter
from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError
from ..formats.paths import path_of
from ..formats.summary import RunSummary
from ..machine import refusals
from ..models.sharded import is_shared_out
from ..models.tokenizer import Tokenizer
from ..processes import from_first, is_first, joined, remembered
from ..training.going_on import go_on as begin_or_go_on
from ..training.journal import Watcher
from ..training.prepared import free_folder, read_task
from ..training.run import resume as resume_one
from ..training.run import train as train_one
from ..training.settings import RunSettings
from ..training.shared_base import NoSharing
from .asked import named_method, settings_of, with_rows_in
from .given_data import given_data
from .given_model import GivenModel, given_model
from .progress import watching
from .run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(
    model: "str | Path | PreTrainedModel",
    data: object,
    method: str | Method = "lora",
    *,
    tokenizer: Tokenizer | None = None,
    progress: bool | Watcher = True,
    go_on: bool = False,
    command: Sequence[str] = (),
    **settings: object,
) -> Run:
    """Train one adapter, with LoRA by default, and write its run's folder.

    Args:
        model: A folder, a name, or a transformers model, which needs its `tokenizer` unless the files that it was
            loaded from have one. The object stays as it is: the run has a model of its own.
        data: A path or a name; a list of dicts, a datasets.Dataset or a pandas DataFrame; or a dict of these by split,
            such as a DatasetDict. Rows from Python are kept in the run's folder, under `rows`.
        method: A method such as `inlay.LoRA(rank=8)`, or a name, such as "dora", for one with its defaults.
        tokenizer: Of a model that is given as an object.
        progress: Whether to show a bar; or a function that takes each event.
        go_on: Go on with the run in `out` if it was stopped, as `inlay train --go-on` does.
        command: What to write down as the command that began the run.
        settings: Those of `inlay train`, such as `epochs=1`, and of the data, such as `label="topic"`.

    Raises InlayError, with the words of the command line, for what cannot work: having written nothing for settings and
    data, and what there is for a training that fails. An interrupted one can be gone on with by `inlay.resume`.
    """
    chosen, quantized = named_method(method)
    given = given_model(model, tokenizer)
    with given_data(data if not isinstance(data, DataSettings) else data.path) as rows:
        of_data = data if isinstance(data, DataSettings) else rows
        asked = settings_of(RunSettings, given.name, of_data, quantized | settings | {"method": chosen})
        keeps = _Keeping()
        with joined(), watching(progress if is_first() else False) as watcher:
            if (began := remembered("folder")) is not None:  # torchrun has started these in place of lost ones
                go_on, asked = True, replace(asked, out=began)
            if go_on:
                if rows.own or given.base is not None:
                    raise SettingsError("go_on needs a model by its name and data in files, which are there later")
                summary = begin_or_go_on(asked, watcher, command, bases=keeps)
            else:
                task = None
                if rows.own:
                    asked = with_rows_in(asked, from_first(partial(free_folder, asked)))
                if rows.own or given.base is not None:
                    with refusals():
                        task = read_task(asked, given.base, path=rows.path)
                summary = train_one(asked, watcher, command, bases=keeps, task=task, begin=rows.keep)
            return _finished(summary, given, asked.device, keeps)


def resume(
    folder: str | Path,
    model: "str | Path | PreTrainedModel | None" = None,
    *,
    tokenizer: Tokenizer | None = None,
    progress: bool | Watcher = True,
    allow_download: bool = False,
) -> Run:
    """Finish a run that was stopped, with the settings that it has, to the result that it would have had.

    Args:
        folder: The run's, which has a checkpoint.
        model: Its base, if that was given as an object when the run began; by name it is found.
        tokenizer: Of a model that is given.
        progress: Whether to show a bar; or a function that takes each event.
        allow_download: Fetch from a hub the base or the data that the run's files name, if they are not here.

    Raises CheckpointError, or another InlayError, having changed nothing, if the run cannot go on.
    """
    given = None if model is None else given_model(model, tokenizer)
    keeps = _Keeping()
    with joined(), watching(progress if is_first() else False) as watcher:
        base = given and given.found()
        summary = resume_one(path_of(str(folder)), watcher, fetch=allow_download, bases=keeps, base=base)
        return _finished(summary, given, "auto", keeps)


class _Keeping(NoSharing):
    """Each run loads its own base, and its adapter is kept in memory."""

    adapter: Adapter | None = None

    def take_back(self, adapter: Adapter) -> None:
        if not any(map(is_shared_out, adapter.model.parameters())):  # else its holders part, and it is loaded anew
            self.adapter = adapter


def _finished(summary: RunSummary, given: GivenModel | None, device: str, keeps: _Keeping) -> Run:
    own_files = given if given is not None and given.base is not None else None
    folder = from_first(lambda: summary["folder"])
    return Run(Path(folder), own_files, device, trained=keeps.adapter)
