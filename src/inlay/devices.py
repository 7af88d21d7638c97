"""Where a model computes: which device there is, and what it can. The one place that knows devices apart.

PyTorch calls whatever is faster than the CPU an accelerator and knows one kind of it at a time: "cuda" (NVIDIA's, and
AMD's by ROCm), "mps" (Apple's), "xpu" (Intel's), and what extensions bring, such as "npu" and "hpu". What all have in
common is asked of `torch.accelerator` and of the device's own module, whose functions have the same names; what only
some can is told here.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .elsewhere import VALUES
from .errors import SettingsError, did_you_mean

_KINDS = ("cpu", "cuda", "mps", "xpu", "npu", "hpu")  # known by name where they are not
_PINNING = ("cuda", "xpu", "npu", "hpu")  # which read the machine's memory while it goes on
_VISIBLE = {  # the environment's list of those that a process sees, by kind
    "cuda": "CUDA_VISIBLE_DEVICES",
    "hip": "HIP_VISIBLE_DEVICES",  # AMD's, which are "cuda" to PyTorch
    "xpu": "ZE_AFFINITY_MASK",
    "npu": "ASCEND_RT_VISIBLE_DEVICES",
    "hpu": "HABANA_VISIBLE_MODULES",
}
_TENSOR_CORES = (7, 0)  # NVIDIA's first generation that multiplies float16 faster than float32
_AMPERE = (8, 0)  # the first with bfloat16 and TF32


def accelerator() -> torch.device | None:
    """Return the kind of accelerator that this machine has; None if it has none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def pick_device(asked: str) -> torch.device:
    """Return the device of this name, such as cuda or cuda:1; for auto an accelerator if there is one.

    Raises SettingsError if there is no such device.
    """
    check_name(asked)
    found = accelerator()
    if asked == "auto":
        return torch.device("cpu") if found is None else torch.device(found.type)
    there = {"cpu": 1, **({found.type: torch.accelerator.device_count()} if found else {})}
    kind, _, number = asked.partition(":")
    if kind not in there:
        raise SettingsError(f"device {asked} is not there; there is {', '.join(there)}")
    if not number:
        return torch.device(kind)
    if int(number) >= there[kind]:
        raise SettingsError(f"device {asked} is not there; there is {kind}:0 to {kind}:{there[kind] - 1}")
    return torch.device(kind, int(number))


def check_name(asked: str) -> None:
    """Raise SettingsError for what is no name of a device, be it there or not."""
    kind, colon, number = asked.partition(":")
    found = accelerator()
    known = {"auto", *(_KINDS if found is None else ("cpu", found.type))}
    if kind not in known | set(_KINDS):
        raise SettingsError(f"device is {asked!r}{did_you_mean(asked, known, VALUES)}")
    if colon and (kind in ("auto", "cpu") or not (number.isascii() and number.isdecimal())):
        kind = kind if kind not in ("auto", "cpu") else found.type if found else "cuda"
        raise SettingsError(f"device is {asked!r}; only accelerators are numbered, from 0: {kind}:1 is the second")


def is_accelerator(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")


def accelerators_of(tensors: Iterable[Tensor]) -> set[torch.device]:
    """Return the accelerators that hold these, whose random numbers `torch.random.fork_rng` is to keep."""
    return {tensor.device for tensor in tensors if is_accelerator(tensor.device)}


def module_of(device: torch.device) -> ModuleType:
    """Return torch.cuda, torch.xpu or the like."""
    return torch.get_device_module(device)


def make_current(device: torch.device) -> None:
    """Let kernels that ask for no device run where the tensors are, if that is one of several."""
    if device.index is not None and is_accelerator(device):
        module_of(device).set_device(device)


def environment_with(number: int) -> dict[str, str]:
    """Return the environment in which a new process sees one of the accelerators that this one sees, by its number,
    and no other; nothing if their kind has no such list."""
    found = accelerator()
    kind = None if found is None else "hip" if found.type == "cuda" and torch.version.hip else found.type
    if kind not in _VISIBLE:
        return {}
    name = _VISIBLE[kind]
    seen = [each for each in os.environ.get(name, "").split(",") if each]
    return {name: seen[number] if seen else str(number)}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, without waiting for it where memory can be pinned for that."""
    if device.type in _PINNING and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronize(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if is_accelerator(device):
        torch.accelerator.synchronize(device)


def free_unused() -> None:
    """Give back to the accelerator, if there is one, the memory that no tensor takes any more."""
    if (found := accelerator()) is not None:
        module_of(found).empty_cache()


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the accelerator's random numbers, as bytes on the CPU."""
    return module_of(device).get_rng_state(*_of_several(device))


def set_generator_state(device: torch.device, state: Tensor) -> None:
    module_of(device).set_rng_state(state, *_of_several(device))


def name_of(device: torch.device) -> str:
    """Return what the device is sold as, if it tells, with the name that --device takes."""
    name = getattr(module_of(device), "get_device_name", None) if is_accelerator(device) else None
    return str(device) if name is None else f"{name(device)} ({device})"


def best_dtype(device: torch.device) -> torch.dtype:
    """Choose the dtype in which the device multiplies matrices fastest: of 16 bits if it does so in hardware, bfloat16
    rather than float16, which needs the loss scaled; else float32."""
    match device.type:
        case "cpu":
            return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
        case "cuda" if torch.version.hip is None:
            generation = torch.cuda.get_device_capability(device)
            if generation >= _AMPERE:
                return torch.bfloat16
            return torch.float16 if generation >= _TENSOR_CORES else torch.float32
        case "mps":
            return torch.float32  # which Apple's GPUs have both, and which is faster, was not tried
        case "xpu":
            has_bfloat16 = torch.xpu.get_device_properties(device).has_bfloat16_conversions
        case _:
            has_bfloat16 = getattr(module_of(device), "is_bf16_supported", lambda: True)()
    return torch.bfloat16 if has_bfloat16 else torch.float16


def has_float64(device: torch.device) -> bool:
    """Tell whether the device computes in float64. One that nobody has tried is taken not to."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type in ("cpu", "cuda", "meta")


def has_tf32(device: torch.device) -> bool:
    """Tell whether PyTorch lets the device multiply float32 matrices in TF32, with 10 bits of their 23."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and torch.cuda.get_device_capability(device) >= _AMPERE


@contextmanager
def tf32(device: torch.device, allowed: bool) -> Iterator[None]:
    """Let the device use TF32, or keep it from doing so, for as long as the block runs."""
    if not has_tf32(device):
        yield
        return
    products = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32" if allowed else "ieee")
    if not hasattr(products, name):  # PyTorch before 2.9
        name, value = "allow_tf32", allowed
    before = getattr(products, name)
    setattr(products, name, value)
    try:
        yield
    finally:
        setattr(products, name, before)


def _of_several(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is one, and its functions take none


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
