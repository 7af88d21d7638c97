"""A run between two of its steps, as a file that it goes on from: what the loop needs, and what must still be so then.

One safetensors file, whose header holds the rest as JSON, so that it is written whole or not at all. The one before the
last is kept as well, in case the last is damaged.

    adapter.*    the adapter's tensors          memory.*     what its method remembers between steps
    best.*       those of the best step         optimizer.*  AdamW's averages, by the number of the parameter
    safe.*       those of the step that it goes back to from a collapse, if that is not the best
    safe_memory.*   what the method remembered then
    start.*, start_memory.*   of the start, if the safe step is another and the start can still be gone back to
    inside.*     those of the best step inside a budget of forgetting, if that is not the best of all
    random.*     torch's random states          progress, random, about, strides   in the header
"""

import hashlib
import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..data.problems import listed
from ..errors import CheckpointError
from ..forgetting.passages import GeneralText
from ..formats.files import copy_whole, write_whole
from ..formats.paths import nearest_path
from ..formats.read import read_object, read_text
from ..formats.summary import Summary
from ..tasks.task import Task
from .checkpoint_file import read_checkpoint_file, readable, write_checkpoint_file
from .checkpoint_fit import (
    by_first_part,
    check_amount,
    check_fits,
    check_strides,
    kept_of,
    own_tensors,
    progress_of,
)
from .loop import Training, marks
from .random_state import RandomNumbers, check_random_state, random_numbers, random_tensors, set_random_state
from .schedule import Plan

CHECKPOINT = Path("checkpoints", "last.safetensors")  # in the run's folder
CHECKPOINT_BEFORE = Path("checkpoints", "before.safetensors")


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What must be unchanged for a checkpoint to be resumed, and what the run had taken until then."""

    settings: dict[str, object]  # with the device and the dtype that were decided
    asked: str  # run.yaml
    data: str  # fingerprint of what is learned and scored
    base: str | None  # fingerprint of the base model
    versions: dict[str, str]
    command: list[str]
    train_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    start: dict[str, float] | None = None  # what a new head scored that was fitted before the first step

    def __post_init__(self) -> None:
        """Raise ValueError for what no run tells of itself."""
        texts = [
            self.asked,
            self.data,
            *([] if self.base is None else [self.base]),
            *self.versions,
            *self.versions.values(),
            *self.command,
        ]
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.command, list):
            raise ValueError("about has something else than a text where one belongs")
        if not isinstance(self.settings, dict):
            raise ValueError(f"about has {self.settings!r} for settings")
        for name in ("train_seconds", "wall_seconds", "peak_memory_bytes"):
            check_amount("about", name, getattr(self, name))
        if self.start is not None:
            if not isinstance(self.start, dict):
                raise ValueError(f"about has {self.start!r} for start")
            for name, score in self.start.items():
                if not isinstance(score, float) or not math.isfinite(score):
                    raise ValueError(f"about has {score!r} for {name} of start")


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from, read once and whole."""

    path: Path
    identity: RunIdentity
    progress: dict[str, Any]
    random: RandomNumbers
    strides: dict[str, list[int]]  # of tensors that are not contiguous: sums depend on the order in memory
    tensors: dict[str, Tensor]  # the file's own, until `restore` has copied them
    skipped: str | None = None  # why it is the one before the last

    def restore(self, training: Training, main_score: str) -> None:
        """Put the training, and the random state, where they were when this was written.

        Raises CheckpointError, having changed nothing, if this adapter has other tensors.
        """
        adapter, device = training.adapter, training.device
        with readable(self.path, self._todo):
            check_fits(by_first_part(self.tensors, by="."), training)
            check_strides(self.strides, self.tensors)
            parts = self._copied()
            averages = {int(number): values for number, values in by_first_part(parts["optimizer"], by=".").items()}
            progress = progress_of(self.progress, main_score)
            if (progress.best is not None) != bool(parts.get("best")):
                raise ValueError(
                    f"its best scores are {progress.best}, and it has {len(parts.get('best', {}))} tensors of them"
                )
            kept = kept_of(self.progress, parts, progress, main_score)
            check_random_state(parts["random"], self.random, device)
        for name, tensor in own_tensors(adapter).items():
            tensor.data = parts["adapter"][name].to(device)  # not copied: a start from the data may choose the shape
        memory = by_first_part(parts.get("memory", {}), by="/")
        for host, _, delta in adapter.hosts():
            delta.load_training_state({name: tensor.to(device) for name, tensor in memory.get(host, {}).items()})
        groups = training.optimizer.state_dict()["param_groups"]
        training.optimizer.load_state_dict({"state": averages, "param_groups": groups})

        training.changed_before = self.progress["changed"]
        training.progress = replace(progress, best_state=parts.get("best", {}), **kept)
        training.start = marks(adapter.parameters())
        set_random_state(parts["random"], self.random, device)

    def check(self, folder: Path, task: Task, text: GeneralText | None, plan: Plan) -> None:
        """Raise CheckpointError if the settings or the data are no longer those of the run."""
        if read_text(folder / "run.yaml", "a run's settings") != self.identity.asked:
            raise CheckpointError(
                f"{folder / 'run.yaml'} was changed since the run began, which goes on as it began or not at all; put "
                f"it back, or begin anew: {anew(folder)}"
            )
        if data_fingerprint(task, text) != self.identity.data:
            raise CheckpointError(
                f"{task.data.source} has other rows, the tokenizer reads them otherwise, or the general text is not"
                f" what it was when {folder} was begun; put them back, or begin anew: {anew(folder)}"
            )
        with readable(self.path, self._todo):
            done = progress_of(self.progress, task.main_score)
            if not 0 < done.step <= plan.steps:
                raise ValueError(f"it is of step {done.step}, and the run has {plan.steps}")

    def check_base(self, folder: Path, base: str | None) -> None:
        """Raise CheckpointError if the base model is no longer the one that the run began with."""
        if base != self.identity.base:
            raise CheckpointError(
                f"{folder} was begun on a base model with fingerprint {_short(self.identity.base)}; the one that its "
                f"settings name now has {_short(base)}: the weights differ. Put them back, or begin anew: "
                f"{anew(folder)}"
            )

    def keep(self, folder: Path) -> None:
        """Make this the last one, if it is the one before that: the damaged one must not take its place."""
        if self.skipped is not None:
            copy_whole(self.path, folder / CHECKPOINT)

    def _copied(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors by the first part of their names. Copies: those of the file would keep it from being
        replaced.
        """
        copies = {}
        for key, read in self.tensors.items():
            strides = self.strides.get(key, read.stride())
            copies[key] = torch.empty_strided(read.shape, strides, dtype=read.dtype).copy_(read)
        self.tensors.clear()
        return by_first_part(copies, by=".")

    @property
    def _todo(self) -> str:
        return _begin_anew(self.path.parent.parent)


def write_checkpoint(folder: Path, training: Training, identity: RunIdentity) -> None:
    """Write the run's last checkpoint; the one that was becomes the one before it.

    Raises CheckpointError if nothing could go on from that of now; the run's checkpoints then stay as they are.
    """
    adapter, progress, safe = training.adapter, training.progress, training.progress.safe
    start, inside = None if progress.start is safe else progress.start, progress.inside
    averages: dict[int, dict[str, Tensor]] = training.optimizer.state_dict()["state"]
    parts = {
        "adapter": own_tensors(adapter),
        "memory": _by_host({host: delta.training_state() for host, _, delta in adapter.hosts()}),
        "best": progress.best_state,
        "safe": safe.parameters if safe and safe.parameters is not progress.best_state else {},
        "safe_memory": _by_host(safe.memory) if safe else {},
        "inside": inside.parameters if inside and inside.parameters is not progress.best_state else {},
        "start": start.parameters if start and start.parameters is not progress.best_state else {},
        "start_memory": _by_host(start.memory) if start else {},
        "optimizer": {f"{number}.{name}": t for number, values in averages.items() for name, t in values.items()},
        "random": random_tensors(training.device),
    }
    tensors = {f"{part}.{key}": t.detach() for part, named in parts.items() for key, t in named.items()}
    apart = ("best_state", "guard", "scale", "shrunk", "safe", "start", "inside")
    own = {f.name: getattr(progress, f.name) for f in fields(progress) if f.name not in apart}
    best, steps = progress.best, {"safe": safe, "inside": inside, "start": start}
    header = {
        "progress": own
        | {"best": best, "changed": training.changed, "guard": asdict(progress.guard)}
        | {"scale": asdict(progress.scale)}
        | {"shrunk": [asdict(each) for each in progress.shrunk]}
        | {name: kept and {"step": kept.step, "scores": kept.scores} for name, kept in steps.items()},
        "random": random_numbers(),
        "about": asdict(identity),
        "strides": {key: t.stride() for key, t in tensors.items() if not t.is_contiguous()},
    }
    last, before = folder / CHECKPOINT, folder / CHECKPOINT_BEFORE

    def write(path: Path) -> None:
        write_checkpoint_file(path, header, tensors)
        if last.is_file():
            copy_whole(last, before)

    write_whole(last, write)


def _by_host(memory: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{host}/{name}": tensor for host, state in memory.items() for name, tensor in state.items()}


def has_checkpoint(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CHECKPOINT, CHECKPOINT_BEFORE))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return what the run in `folder`, which must be held, goes on from: the last checkpoint, or the one before if that
    is damaged. Raises CheckpointError if there is nothing to go on from.
    """
    check_is_run(folder)
    said = read_summary(folder) or {}
    if said.get("status") == "finished":
        raise CheckpointError(f"{folder} is finished; to train with other settings, begin anew: {anew(folder)}")
    if not has_checkpoint(folder):
        why = said.get("reason") if said.get("status") == "failed" else "it was interrupted before it wrote one"
        raise CheckpointError(f"{folder} has no checkpoint to go on from: {why}; {_begin_anew(folder)}")
    problem: CheckpointError | None = None
    for name in (CHECKPOINT, CHECKPOINT_BEFORE):
        if (folder / name).is_file():
            try:
                return _read(folder / name, skipped=problem and str(problem))
            except CheckpointError as found:
                problem = problem or found
    assert problem is not None
    raise problem


def check_is_run(folder: Path) -> None:
    """Raise CheckpointError if it is not the folder of a run."""
    if not (folder / "run.yaml").is_file():
        found = f"no such folder{nearest_path(folder, 'run.yaml')}"
        if folder.is_dir():
            found = f"it holds {listed(sorted(p.name for p in folder.iterdir()))}"
        raise CheckpointError(f"{folder}: not the folder of a run, which has a run.yaml; {found}")


def read_summary(folder: Path) -> Summary | None:
    """Return what the run wrote of itself; None if it never came to that. Only that it is an object is checked."""
    path = folder / "summary.json"
    return cast(Summary, read_object(path, "a run's summary")) if path.is_file() else None


def _read(path: Path, skipped: str | None) -> Checkpoint:
    todo = _begin_anew(path.parent.parent)
    file = read_checkpoint_file(path, todo)
    with readable(path, todo):
        header = file.header
        identity = RunIdentity(**header["about"])
        return Checkpoint(
            path, identity, header["progress"], header["random"], header["strides"], file.tensors, skipped
        )


def remove_checkpoint(folder: Path) -> None:
    shutil.rmtree((folder / CHECKPOINT).parent, ignore_errors=True)


def anew(folder: Path) -> str:
    """Return the command that trains as `folder` was trained, from the start."""
    return f"inlay train --config {shlex.quote(str(folder / 'run.yaml'))} --out NEW"


def _begin_anew(folder: Path) -> str:
    return f"begin anew: {anew(folder)}"


def data_fingerprint(task: Task, text: GeneralText | None) -> str:
    """Return 64 hexadecimal digits of what is learned, scored, measured and retained."""
    digest = hashlib.sha256()
    for split in sorted(task.data.splits):
        digest.update(split.encode())
        for row in task.contents(split):
            digest.update(repr(row).encode())
    for passage in (*text.measured, *text.kept) if text else ():
        digest.update(repr(passage).encode())
    return digest.hexdigest()


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else fingerprint[:12]
