"""A run before it computes: settings and data are checked against each other, nothing is loaded or written."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch

from .. import processes
from ..attached.adapter import plan_attach
from ..bases.attention import choose_attention
from ..bases.base import Base, find_base
from ..bases.narrow import check_narrow
from ..bases.part import TextPart, part_for_texts
from ..bases.quantized import quantize
from ..bases.shares import check_shares
from ..bases.streaming import check_files, check_streams
from ..bases.vocabulary import check_ids, check_vocabulary
from ..batches.batch import LENGTH_STEP, length_step
from ..core.method import Method
from ..data.formats import open_data
from ..devices import best_dtype, is_accelerator, pick_device
from ..errors import SettingsError
from ..forgetting.passages import LONGEST, GeneralText, general_text
from ..formats import peft_plain
from ..formats.files import check_free
from ..formats.paths import path_of
from ..hub import offline
from ..launch import check_alone, check_each_has_rows
from ..methods.ranked import wide_note
from ..models import recompute
from ..models.modules import within
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer
from ..show.reach import Reach, reach_of
from ..tasks import task_for
from ..tasks.task import Task
from .budget import check_bound
from .checkpoint import has_checkpoint, read_summary
from .journal import Journal
from .schedule import Plan, make_plan
from .settings import Recipe, RunSettings


@dataclass(frozen=True)
class Prepared:
    """A run that is known to make sense: settings and data are checked, and nothing is loaded or written yet."""

    settings: RunSettings[Method]
    task: Task
    plan: Plan
    device: torch.device
    dtype: torch.dtype
    max_length: int
    attention: str
    part: TextPart
    reach: Reach  # of the method, as summary.json has it
    folder: Path
    text: GeneralText | None  # general, if forgetting is measured or held back
    chosen: Mapping[str, str] = field(default_factory=dict)  # settings that were chosen so that the run fits: why

    @property
    def packed_for(self) -> torch.dtype | None:
        """What a quantized base computes in; None: it is not quantized."""
        return self.dtype if self.settings.quantize == "nf4" else None

    @property
    def recomputed(self) -> str:
        """What the backward pass computes again: of a streamed base every block."""
        return recompute.ALL if self.settings.stream else self.settings.recompute or recompute.NONE

    @property
    def shares_base(self) -> bool:
        """Whether the processes share the base out; one that goes on alone has it whole."""
        return self.settings.shard and processes.count() > 1

    @property
    def streamed(self) -> Base | None:
        """The base, if its blocks stay in its files; None: they are loaded."""
        return self.task.base if self.settings.stream else None


def prepare_run(
    settings: RunSettings[Method],
    journal: Journal,
    folder: Path | None = None,
    *,
    fetch: bool = True,
    task: Task | None = None,
) -> Prepared:
    """Make every check that needs no weights. A run that goes on has its `folder`; a new one gets one.

    Without `fetch` no hub is asked for what the settings name. `task` has read the data for an earlier run that differs
    in the method; it stays as it is, and its tokens serve as far as they are of the same length.
    """
    if processes.count() == 1:
        check_alone()
    with offline(not fetch):
        return _prepared(settings, journal, folder, copy.copy(task or read_task(settings, fetch=fetch)))


def read_task(
    settings: RunSettings[Method], base: Base | None = None, *, path: str | None = None, fetch: bool = True
) -> Task:
    """Read the data and check them against the base, which is found unless it is given. Of the method nothing is asked
    yet. `path` is where the data are now, if the settings name where they will be."""
    base = base or find_base(settings.model, fetch=fetch)
    opened = open_data(settings.data if path is None else replace(settings.data, path=path))
    return task_for(opened).prepare(base, replace(opened, settings=settings.data), settings)


def _prepared(settings: RunSettings[Method], journal: Journal, folder: Path | None, task: Task) -> Prepared:
    folder_is_new = folder is None
    if folder is None:
        _check_takes_effect(settings, task)
        folder = processes.own_folder(processes.from_first(partial(free_folder, settings)))
    device = _own_device(settings.device, is_new=folder_is_new)
    dtype = pick_dtype(settings, device)
    base, empty = task.base, task.empty()
    if settings.quantize == "nf4":
        quantize(empty, dtype)
    attention = choose_attention(empty, settings.attention, device, dtype)
    part = part_for_texts(empty, base.config)
    check_vocabulary(task.tokenizer, empty)
    planned = plan_attach(empty, settings.method, part=part.name)
    recompute.chosen(Sites(empty, part=part.name), settings.recompute or recompute.NONE)  # raises SettingsError
    if settings.plain:
        peft_plain.check(planned)
    if not planned.removable and settings.quantize != "nf4" and dtype != torch.float32:
        check_narrow(task.empty, settings.method, part.name, dtype)
    if settings.stream:
        check_streams(planned)
        check_files(base.path)
    if settings.shard:
        check_shares(planned, processes.count() if folder_is_new else None)
    reach = reach_of(planned.coverage)
    room = _room(settings, base, task.tokenizer)
    max_length = settings.max_length or min(room, 512)
    text = _general_text(settings, room, task)
    if task.max_length != max_length:
        task.tokenize(max_length)
        task.check_tokens(empty)
    if text is not None:
        passages = [passage.text for passage in (*text.measured, *text.kept)]
        check_ids(
            task.tokenizer, empty, task.tokenizer(passages, truncation=True, max_length=text.max_length)["input_ids"]
        )
    task.length_step = length_step(device, dtype)
    found = task.check_weights()
    data = task.data
    journal.record(
        "data",
        source=data.source,
        rows=task.rows,
        left_out=task.left_out,
        labels=list(task.labels),
        majority=data.majority,
        valid_from=data.valid_from,
        ignored_columns=list(data.ignored_columns),
        max_length=max_length,
        cut=task.cut,
    )
    journal.record("reach", **reach)
    ranked = (host for name, host, _ in planned.hosts() if not within(name, planned.heads))
    wide = wide_note(settings.method, ranked)
    for note in filter(None, (part.reason, wide, *task.notes(), *(text.notes if text else ()), *found)):
        journal.record("note", text=note)
    check_each_has_rows(settings.batch_size, processes.count())
    plan = make_plan(len(task.lengths("train")), settings, task)
    return Prepared(settings, task, plan, device, dtype, max_length, attention, part, reach, folder, text)


def _own_device(asked: str, *, is_new: bool) -> torch.device:
    """Return the device that is asked for; of several processes each has one of its machine's accelerators, also in a
    run that one process began on some other."""
    device = pick_device(asked)
    if processes.count() == 1 or not is_accelerator(device):
        return device
    if is_new and device.index is not None:
        raise SettingsError(
            f"device is {device}, and {processes.count()} processes take one each; give {device.type}, and choose "
            "those that they see by the environment, such as CUDA_VISIBLE_DEVICES"
        )
    if device.type != "cuda":
        raise SettingsError(f"several processes train on CPUs and on cuda devices, and device is {device}")
    return pick_device(f"cuda:{processes.local_number()}")


def _check_takes_effect(settings: RunSettings[Method], task: Task) -> None:
    """Raise SettingsError for a setting of texts that are written where the task writes none."""
    default = next(field.default for field in fields(Recipe) if field.name == "samples")
    if not task.writes and settings.samples not in (0, default):
        raise SettingsError(
            f"samples is {settings.samples}, the rows for which a language model writes texts; an adapter on "
            f"{task.data.source} {task.does}, to every row, so leave it out"
        )


def pick_dtype(settings: Recipe, device: torch.device) -> torch.dtype:
    """Choose the dtype of the frozen base and the activations."""
    return best_dtype(device) if settings.dtype == "auto" else getattr(torch, settings.dtype)


def _check_free(folder: Path) -> None:
    try:
        check_free(folder, "--out")
    except SettingsError as problem:
        if not (folder / "run.yaml").is_file():
            raise
        raise SettingsError(f"{problem}; {_what_going_on_does(folder)}") from None


def _what_going_on_does(folder: Path) -> str:
    """Say what --go-on does with the run in the folder."""
    summary = read_summary(folder)
    if summary is not None and summary.get("status") == "finished":
        return "in it is a finished run, which --go-on would leave as it is"
    if has_checkpoint(folder):
        return "or --go-on, with the settings of the unfinished run in it, goes on with that"
    return "or --go-on begins the unfinished run in it anew, as it has no checkpoint"


def free_folder(settings: RunSettings[Method]) -> Path:
    """Choose the folder of a new run. Raises SettingsError if the one that is asked for holds something."""
    if settings.out is not None:
        folder = path_of(settings.out)
        _check_free(folder)
        return folder
    data = re.sub(r"\W+", "-", Path(settings.data.path.removeprefix("builtin:")).name.split(".")[0]).strip("-")
    stem = f"{data[:100] or 'run'}-{settings.method.name}"
    numbered = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(folder for folder in numbered if not folder.exists())


def _general_text(settings: RunSettings[Method], room: int, task: Task) -> GeneralText | None:
    if not (settings.forgetting or settings.retain_weight):
        return None
    text = general_text(settings.retain, min(room, LONGEST))
    if settings.forget_at_most is not None:
        check_bound(settings.forget_at_most, task.forgets)
        text.halves()
    return text


def _room(settings: RunSettings[Method], base: Base, tokenizer: Tokenizer) -> int:
    """Return positions for the text: what the model has, less what the method takes."""
    room = min(base.positions, tokenizer.model_max_length) - settings.method.virtual_tokens
    room -= room % LENGTH_STEP
    if settings.max_length is not None and settings.max_length > room:
        raise SettingsError(f"max_length is {settings.max_length}; the model has room for {room} tokens of text")
    if room < 8:
        raise SettingsError(
            f"{settings.method.name} leaves {room} of the model's {base.positions} positions to the text"
        )
    return room
