"""Inlay on the toy accelerator, in a process of its own: what torch is given of a device cannot be taken back.

    python -m tests.accelerator.on_toy FOLDER

FOLDER has the built toy_device, and models and data. Prints what it did, line by line, with why it failed.
"""

import contextlib
import io
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.formats.peft import TENSORS
from inlay.methods import METHODS
from inlay.training.run import resume, train
from inlay.training.settings import RunSettings

from ..shapes import SHAPES, method

CALLS: Counter[str] = Counter()
GIB = 2**30
SERVED = ("lora", "full", "dora", "norm", "prefix")
STREAMED = ("lora", "dora", "prefix")
ANALYSED = ("lora", "oft", "dora", "ia3", "full", "sparse")


def begin(device: Any) -> None:
    """Let torch know the toy, with the functions that a device's module has."""
    module, random = ModuleType("torch.toy"), torch.Generator()
    functions: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "manual_seed": random.manual_seed,
        "manual_seed_all": random.manual_seed,
        "get_rng_state": lambda _: random.get_state(),
        "set_rng_state": lambda state, _: random.set_state(state),
        "is_bf16_supported": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.float16],  # without which there is no autocast that is off
        "empty_cache": lambda: None,
        "memory_allocated": lambda _: device.in_use(),
        "memory_reserved": lambda _: device.in_use(),
        "max_memory_allocated": lambda _: device.peak(),
        "max_memory_reserved": lambda _: device.peak(),
        "reset_peak_memory_stats": lambda _: device.reset_peak(),
        "mem_get_info": lambda _: (7 * GIB - device.in_use(), 8 * GIB),
    }
    for name, function in functions.items():
        setattr(module, name, lambda *args, name=name, function=function: (CALLS.update([name]), function(*args))[1])
    torch.utils.rename_privateuse1_backend("toy")
    torch._register_device_module("toy", module)
    torch.utils.generate_methods_for_privateuse1_backend()


def passed() -> list[str]:
    """Return which of these the toy lets pass, though it is there to refuse them."""
    on_toy, on_cpu = torch.ones(2, device="toy"), torch.ones(2)
    tried: dict[str, Any] = {
        "two devices": lambda: on_toy + on_cpu,
        "float64": lambda: on_toy.double(),
        "float64 moved": lambda: on_cpu.double().to("toy"),
    }
    found = []
    for name, attempt in tried.items():
        with contextlib.suppress(RuntimeError):
            attempt()
            found.append(name)
    return found


def tell(did: str, action: Callable[[], object], **more: object) -> None:
    """Print what came of an action: of a command its exit code, too."""
    said, why = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if isinstance(found := action(), int) and found:
                why = f"exit code {found}: {said.getvalue()[-3000:]}"
            more |= {"found": found}
        except BaseException:
            why = traceback.format_exc()
    print(json.dumps({"did": did, "failed": why, **more}, default=str), flush=True)


def settings(folder: Path, kind: str, name: str, out: str, **changes: Any) -> RunSettings[Any]:
    data = DataSettings(path=str(folder / {"bert": "reviews", "llama": "completions"}[kind]), train_rows=16)
    wanted = {"epochs": 1, "evaluations_per_epoch": 1, "samples": 0, "forgetting": False} | changes
    own = method(name, SHAPES[kind])
    return RunSettings(model=str(folder / kind), data=data, method=own, out=str(folder / out), **wanted)


def same_adapters(*runs: Path) -> int:
    """Return 1 if the adapters of two runs differ."""
    one, other = ((run / "adapter" / TENSORS).read_bytes() for run in runs)
    return int(one != other)


def goes_on(folder: Path) -> object:
    """Interrupt a run, and go on with it."""

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(settings(folder, "bert", "lora", "stopped", epochs=4), stop)
    return resume(folder / "stopped")


def run(folder: Path) -> None:
    tell("refuse", lambda: len(passed()))
    for kind in ("llama", "bert"):
        for name in METHODS:
            out = f"{kind}-{name}"
            tell(f"train {out}", partial(train, settings(folder, kind, name, out)))
            commands = [("rank", "--no-curve")] if kind == "llama" and name in ANALYSED else []
            if name in SERVED:
                commands += [("eval",), ("predict", "the film")]
            if name in SERVED and name != "prefix":
                commands += [("merge", str(folder / f"merged-{out}"))]
            for verb, *more in commands:
                tell(f"{verb} {out}", partial(main, [verb, str(folder / out), *more]))
    for name in STREAMED:
        out = f"streamed-{name}"
        tell(f"stream {name}", partial(train, settings(folder, "llama", name, out, stream=True)))
        tell(f"same {name}", lambda name=name, out=out: same_adapters(folder / out, folder / f"llama-{name}"))
    tell("doctor", partial(main, ["doctor"]))
    tell("resume", partial(goes_on, folder))
    tell("count", lambda: None, calls=CALLS)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import toy_device  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    begin(toy_device)
    run(Path(sys.argv[1]))
