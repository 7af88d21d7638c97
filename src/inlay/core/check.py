"""Whether every part of an adapter is reached by the model's work on a batch."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import AdapterStateError
from . import trial
from .routing import Route
from .watch import Watch

if TYPE_CHECKING:
    from .adapter import Adapter


@dataclass(frozen=True)
class Checked:
    """What one forward and backward pass over a batch reached."""

    loss: float
    """The model's own loss, or the mean square of its outputs where it gives none."""
    idle: list[str]
    """Hosts that the batch did not call, such as an image tower beside texts or an expert without tokens."""
    without_gradient: list[str]
    """Trained parameters of the other hosts that got no gradient: what they compute is not used."""


def check(adapter: "Adapter", batch: Any) -> Checked:
    """See Adapter.check."""
    state = adapter.attached_to()
    if state.routing.merged is not None:
        raise AdapterStateError(f"adapter {state.routing.merged!r} is merged; unmerge it before a check")
    model, thread = adapter.model, threading.get_ident()
    watch = state.watch = state.watch or Watch(model, state)
    parameters = dict(adapter.named_parameters())
    kept = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    before = state.routing.override(Route((adapter.name,)), thread)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            result = trial.call(model, batch)  # the watch raises if a host is inert
            loss = _loss(result)
            if loss.requires_grad:
                loss.backward()
        reached = {name for name, p in parameters.items() if p.grad is not None}
    finally:
        state.routing.override(before, thread)
        for name, p in parameters.items():
            p.grad = kept[name]
    idle = [name for name in adapter.deltas if name not in watch.called]
    silent = [name for name in parameters if name not in reached and not _within(name, idle)]
    return Checked(float(loss.detach()), idle, silent)


def _loss(result: Any) -> Tensor:
    loss = getattr(result, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    outputs = trial.numbers(result)
    if not outputs:
        raise AdapterStateError("the model's result holds no numbers that a check could take a gradient of")
    return torch.stack([tensor.float().square().mean() for tensor in outputs]).sum()


def _within(parameter: str, hosts: list[str]) -> bool:
    return any(parameter.startswith(host + ".") for host in hosts)
