"""Whether every part of an adapter is reached by the model's work on a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.attachment import Attachment
from ..core.routing import Route
from ..core.state import state_with
from ..devices import accelerators_of
from ..errors import AdapterStateError
from ..models import trial
from ..models.trial import Batch
from ..models.watch import Watch


@dataclass(frozen=True)
class Checked:
    """What one forward and backward pass over a batch reached."""

    loss: float
    """The model's own loss, or the mean square of its outputs where it gives none."""
    idle: list[str]
    """Hosts that the batch did not call, such as an image tower beside texts or an expert without tokens."""
    without_gradient: list[str]
    """Trained parameters of the other hosts that got no gradient: what they compute is not used."""


def check(adapter: Attachment, batch: Batch) -> Checked:
    """Do what Adapter.check says."""
    state = state_with(adapter)
    if state.routing.merged is not None:
        raise AdapterStateError(f"adapter {state.routing.merged!r} is merged; unmerge it before a check")
    model = adapter.model
    if state.watch is None or not state.watch.is_open:
        state.watch = Watch(model, state.watched)
    watch = state.watch
    parameters = dict(adapter.named_parameters())
    kept = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    devices = accelerators_of(model.parameters())
    try:
        with state.routing.during(Route((adapter.name,))), torch.random.fork_rng(devices), torch.enable_grad():
            result = trial.call(model, batch)  # the watch raises if a host is inert
            loss = _loss(result)
            if loss.requires_grad:
                loss.backward()
        reached = {name for name, p in parameters.items() if p.grad is not None}
    finally:
        for name, p in parameters.items():
            p.grad = kept[name]
    idle = [name for name in adapter.deltas if name not in watch.called]
    silent = [name for name in parameters if name not in reached and not _within(name, idle)]
    return Checked(float(loss.detach()), idle, silent)


def _loss(result: object) -> Tensor:
    loss = getattr(result, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    outputs = trial.numbers(result)
    if not outputs:
        raise AdapterStateError("the model's result holds no numbers that a check could take a gradient of")
    return torch.stack([tensor.float().square().mean() for tensor in outputs]).sum()


def _within(parameter: str, hosts: list[str]) -> bool:
    return any(parameter.startswith(host + ".") for host in hosts)
