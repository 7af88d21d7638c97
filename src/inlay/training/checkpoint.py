"""A run between two of its steps, as a file that it goes on from: what the loop needs, and what must still be so then.

One safetensors file, whose header holds the rest as JSON, so that it is written whole or not at all:

    adapter.*    the adapter's tensors          memory.*     what its method remembers between steps
    best.*       those of the best step         optimizer.*  AdamW's averages, by the number of the parameter
    random.*     torch's random states          progress, random, about, strides   in the header
"""

import hashlib
import json
import shlex
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..core.adapter import Adapter
from ..data.problems import listed
from ..errors import CheckpointError
from ..formats.files import write_whole
from .forgetting.passages import GeneralText
from .loop import Progress, Training, marks
from .random_state import random_numbers, random_tensors, set_random_state
from .task import Scores, Task

CHECKPOINT = Path("checkpoints", "last.safetensors")  # in the run's folder


@dataclass(frozen=True, kw_only=True)
class About:
    """The run that a checkpoint is of."""

    settings: dict[str, Any]  # with the device and the dtype that were decided
    asked: str  # run.yaml
    data: str  # fingerprint of what is learned and scored
    base: str | None  # fingerprint of the base model
    versions: dict[str, str]
    command: list[str]
    train_seconds: float
    wall_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    about: About
    progress: dict[str, Any]
    random: dict[str, Any]
    strides: dict[str, list[int]]  # of tensors that are not contiguous: sums depend on the order in memory

    def restore(self, training: Training, scores: type[Scores]) -> None:
        """Put the training, and the random state, where they were when this was written.

        Raises CheckpointError, having changed nothing, if this adapter has other tensors.
        """
        parts, own = self._parts(), _tensors(training.adapter)
        saved = parts["adapter"]
        if different := sorted(own.keys() ^ saved.keys()):
            raise CheckpointError(f"{self.path} does not fit: {different[0]} is only there or only in the adapter")
        device = training.accelerator.device
        for name, tensor in own.items():
            tensor.data = saved[name].to(device)  # not copied: a start from the data may have chosen the shape
        memory = _by_first_part(parts.get("memory", {}), by="/")
        for host, _, delta in training.adapter.hosts():
            delta.remember({name: tensor.to(device) for name, tensor in memory.get(host, {}).items()})
        averages = {int(number): values for number, values in _by_first_part(parts["optimizer"], by=".").items()}
        groups = training.optimizer.state_dict()["param_groups"]
        training.optimizer.load_state_dict({"state": averages, "param_groups": groups})

        values = dict(self.progress)
        best = None if values["best"] is None else scores.of(values["best"])
        training.changed_before = values.pop("changed")
        training.progress = Progress(**values | {"best": best, "best_state": parts.get("best", {})})
        training.start = marks(training.adapter)
        set_random_state(parts["random"], self.random, device)

    def check(self, folder: Path, task: Task, text: GeneralText | None) -> None:
        """Raises CheckpointError if the settings or the data are no longer those of the run."""
        if (folder / "run.yaml").read_text(encoding="utf-8") != self.about.asked:
            raise CheckpointError(
                f"{folder / 'run.yaml'} was changed since the run began, which goes on as it began or not at all; put "
                f"it back, or begin anew: {anew(folder)}"
            )
        if data_fingerprint(task, text) != self.about.data:
            raise CheckpointError(
                f"{task.data.source} has other rows, the tokenizer reads them otherwise, or the general text is not"
                f" what it was when {folder} was begun; put them back, or begin anew: {anew(folder)}"
            )

    def check_base(self, folder: Path, base: str | None) -> None:
        """Raises CheckpointError if the base model is no longer the one that the run began with."""
        if base != self.about.base:
            raise CheckpointError(
                f"{folder} was begun on a base model with fingerprint {_short(self.about.base)}; the one that its "
                f"settings name now has {_short(base)}: the weights differ. Put them back, or begin anew: "
                f"{anew(folder)}"
            )

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """The tensors by the first part of their names. Copies: those of the file would keep it from being replaced."""
        tensors = {}
        with safe_open(self.path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                read: Tensor = file.get_tensor(key)
                strides = self.strides[key] if key in self.strides else read.stride()
                tensors[key] = torch.empty_strided(read.shape, strides, dtype=read.dtype).copy_(read)
        return _by_first_part(tensors, by=".")


def write_checkpoint(folder: Path, training: Training, about: About) -> None:
    """The run's one checkpoint is that of now."""
    adapter, progress = training.adapter, training.progress
    averages: dict[int, dict[str, Tensor]] = training.optimizer.state_dict()["state"]
    parts = {
        "adapter": _tensors(adapter),
        "memory": {f"{host}/{name}": t for host, _, delta in adapter.hosts() for name, t in delta.memory().items()},
        "best": progress.best_state,
        "optimizer": {f"{number}.{name}": t for number, values in averages.items() for name, t in values.items()},
        "random": random_tensors(training.accelerator.device),
    }
    tensors = {f"{part}.{key}": t.detach() for part, named in parts.items() for key, t in named.items()}
    own = {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "best_state"}
    best = None if progress.best is None else progress.best.as_dict()
    header = {
        "progress": own | {"best": best, "changed": training.changed},
        "random": random_numbers(),
        "about": asdict(about),
        "strides": {key: t.stride() for key, t in tensors.items() if not t.is_contiguous()},
    }
    metadata = {name: json.dumps(value) for name, value in header.items()}
    contiguous = {key: t.contiguous() for key, t in tensors.items()}
    write_whole(folder / CHECKPOINT, lambda path: save_file(contiguous, path, metadata=metadata))


def read_checkpoint(folder: Path) -> Checkpoint:
    """What the run in `folder` goes on from. Raises CheckpointError if there is nothing to go on from."""
    path = folder / CHECKPOINT
    if not (folder / "run.yaml").is_file():
        found = f"it holds {listed(sorted(p.name for p in folder.iterdir()))}" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder}: not the folder of a run, which has a run.yaml; {found}")
    summary = folder / "summary.json"
    said = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    if said.get("status") == "finished":
        raise CheckpointError(f"{folder} is finished; to train with other settings, begin anew: {anew(folder)}")
    if not path.is_file():
        why = said["reason"] if said.get("status") == "failed" else "it was interrupted before it wrote one"
        raise CheckpointError(f"{folder} has no checkpoint to go on from: {why}; begin anew: {anew(folder)}")
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            return Checkpoint(path, About(**header["about"]), header["progress"], header["random"], header["strides"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes, not a checkpoint that Inlay {__version__} can read ({problem}); "
            f"begin anew: {anew(folder)}"
        ) from None


def remove_checkpoint(folder: Path) -> None:
    shutil.rmtree((folder / CHECKPOINT).parent, ignore_errors=True)


def anew(folder: Path) -> str:
    """The command that trains as `folder` was trained, from the start."""
    return f"inlay train --config {shlex.quote(str(folder / 'run.yaml'))} --out NEW"


def data_fingerprint(task: Task, text: GeneralText | None) -> str:
    """64 hexadecimal digits of what is learned, scored, measured and retained."""
    digest = hashlib.sha256()
    for split in sorted(task.data.splits):
        digest.update(split.encode())
        for row in task.contents(split):
            digest.update(repr(row).encode())
    for passage in (*text.measured, *text.kept) if text else ():
        digest.update(repr(passage).encode())
    return digest.hexdigest()


def _tensors(adapter: Adapter) -> dict[str, Tensor]:
    """By the adapter's own names; not detached, so that they can be set."""
    return {f"{host}.{name}": tensor for host, name, tensor in adapter.tensors()}


def _by_first_part(tensors: dict[str, Tensor], by: str) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        first, _, rest = key.partition(by)
        found.setdefault(first, {})[rest] = tensor
    return found


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else fingerprint[:12]
