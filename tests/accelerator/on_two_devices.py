"""Adapters on a model that accelerate has dispatched over two devices, in a process of its own.

    python -m tests.accelerator.on_two_devices FOLDER

FOLDER has the built toy_device, which refuses calls with tensors of two devices. Prints what it did, line by line, with
why it failed. A user's own loop: forward, backward, saved, loaded onto another such model and onto a whole one, merged.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model

import inlay
from inlay.core.method import Method
from inlay.errors import AdapterStateError, TargetError

from ..shapes import SHAPES, Shape, logits, method
from .on_toy import begin, tell

CLOSE = {"atol": 1e-5, "rtol": 1e-3}


def dispatched(shape: Shape) -> Any:
    """The shape's model with the second half of its layers, and what comes after them, on the toy."""
    model = shape.model()
    inner = model.base_model_prefix
    layers = f"{inner}.{'encoder.layer' if shape.name == 'bert' else 'layers'}"
    count = len(model.get_submodule(layers))
    places = {f"{layers}.{i}": "cpu" if i < count // 2 else "toy" for i in range(count)}
    for name, module in model.named_modules():
        if next(module.parameters(), None) is not None and not any(
            place == name or place.startswith(f"{name}.") or name.startswith(f"{place}.") for place in ("", *places)
        ):
            places[name] = "cpu" if "embed" in name else "toy"
    return dispatch_model(model, places, main_device="cpu", force_hooks=True)


def disturb(adapter: inlay.Adapter) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, p in sorted(adapter.named_parameters()):
            p += 0.05 * torch.randn(p.shape, generator=generator).to(p.device)


def learned(model: Any, shape: Shape, asked: Method) -> tuple[inlay.Adapter, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    adapter = inlay.attach(model, asked)
    disturb(adapter)
    y = logits(model, shape)
    y.square().mean().backward()
    return (
        adapter,
        y.detach().cpu(),
        {name: p.grad.cpu() for name, p in adapter.named_parameters() if p.grad is not None},
    )


def check(name: str, shape: Shape, folder: Path) -> str:
    """Return the devices that the adapter is on, and whether it could be merged."""
    model = dispatched(shape)
    _, y, gradients = learned(shape.model(), shape, method(name, shape))
    adapter, found, own_gradients = learned(model, shape, method(name, shape))
    torch.testing.assert_close(found, y, **CLOSE)
    torch.testing.assert_close(own_gradients, gradients, **CLOSE)
    devices = " ".join(sorted({p.device.type for p in adapter.parameters()}))
    if name == "full":
        return devices
    adapter.save(folder / shape.name / name)
    for other in (shape.model(), dispatched(shape)):
        inlay.load(other, folder / shape.name / name)
        torch.testing.assert_close(logits(other, shape).detach().cpu(), y, **CLOSE)
    try:
        adapter.merge()
    except (AdapterStateError, TargetError) as problem:
        return f"{devices}; {problem}"
    torch.testing.assert_close(logits(model, shape).detach().cpu(), y, **CLOSE)
    adapter.unmerge()
    torch.testing.assert_close(logits(model, shape).detach().cpu(), y, **CLOSE)
    return f"{devices}; merged"


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import toy_device  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    begin(toy_device)
    for kind in ("llama", "bert"):
        for each in inlay.METHODS:
            tell(f"{kind} {each}", partial(check, each, SHAPES[kind], Path(sys.argv[1])))
