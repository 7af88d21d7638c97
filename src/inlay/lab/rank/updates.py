"""What an adapter changes, layer by layer: each update as a matrix, whatever the method.

A method whose update is a product of thin factors gives these (`WeightDelta.factors`). The update of any other is the
folded weight less the base's, dense; full fine-tuning has changed the base itself, so the base is needed once more. The
new head of a task has no update: it starts from nothing. An embedding's weight is taken as it is stored, a
convolution's with the entries of its kernels in a row. Experts that share a parameter are a layer each.
"""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ...attached.adapter import Adapter
from ...core.delta import Delta, WeightDelta
from ...devices import has_float64
from ...errors import AdapterStateError
from ...models import experts, weights
from ...models.sites import Sites
from ...models.weights import Host
from . import spectrum
from .spectrum import Spectrum


@dataclass(frozen=True)
class Update:
    """One layer's. Nothing is computed before it is asked for."""

    name: str
    host: Host
    base_host: Host
    """The same, unless the method has changed the host itself."""
    delta: Delta

    @property
    def thin(self) -> tuple[Tensor, Tensor] | None:
        return _factors(self.delta).get("weight")

    @cached_property
    def spectrum(self) -> Spectrum:
        if (thin := self.thin) is not None:
            return spectrum.of_thin(*thin)
        return spectrum.of_dense(self.tuned() - self.base())

    @property
    def shape(self) -> tuple[int, int]:
        if weights.is_linear(self.host):
            return weights.size(self.host)
        rows, *columns = weights.stored(self.host).shape
        return rows, math.prod(columns)

    def base_norm(self) -> float:
        """Return Frobenius norm of the base's weight."""
        return float(torch.linalg.vector_norm(weights.read(self.base_host)["weight"].detach(), dtype=torch.float32))

    def base(self) -> Tensor:
        """Return the base's weight as a matrix, in float64 on the CPU."""
        return _matrix(weights.read(self.base_host)["weight"])

    @torch.no_grad()
    def tuned(self) -> Tensor:
        """Return the folded weight, likewise."""
        if not isinstance(self.delta, WeightDelta):
            return _matrix(weights.read(self.host)["weight"])
        own, delta = weights.read(self.host, self.delta.folds), self.delta
        if not has_float64(weights.device(self.host)):
            own, delta = {name: p.cpu() for name, p in own.items()}, _on_cpu(delta)
        return _matrix(delta.fold({name: p.double() for name, p in own.items()})["weight"])


@dataclass(frozen=True)
class ExpertUpdate(Update):
    """The update of one expert, whose matrix is in a stack with the others'."""

    parameter: str
    expert: int

    @property
    def thin(self) -> tuple[Tensor, Tensor]:
        left_EOR, right_ERI = _factors(self.delta)[self.parameter]
        return left_EOR[self.expert], right_ERI[self.expert]

    @cached_property
    def spectrum(self) -> Spectrum:
        stack = self.name.removesuffix(f".{self.expert}")
        return replace(spectrum.of_thin(*self.thin), stack=stack)

    @property
    def shape(self) -> tuple[int, int]:
        left_OR, right_RI = self.thin
        return len(left_OR), right_RI.shape[1]

    def base_norm(self) -> float:
        return float(torch.linalg.vector_norm(self._weight(), dtype=torch.float32))

    def base(self) -> Tensor:
        weight = self._weight().to("cpu", torch.float64)
        return weight.T if experts.matrices(self.base_host)[self.parameter].flipped else weight

    @torch.no_grad()
    def tuned(self) -> Tensor:
        left_OR, right_RI = (factor.to("cpu", torch.float64) for factor in self.thin)
        return self.base() + left_OR @ right_RI

    def _weight(self) -> Tensor:
        stack = weights.read(self.base_host, (self.parameter,))[self.parameter].detach()
        return stack if stack.ndim == 2 else stack[self.expert]


def expert_name(host: str, parameter: str, expert: int) -> str:
    return f"{host}.{parameter}.{expert}"


@dataclass(frozen=True)
class Updates:
    layers: dict[str, Update]
    others: int
    """Parameters that the adapter changes beside these matrices, such as biases and norms; heads do not count."""


def updates_of(adapter: Adapter, base: nn.Module | None = None) -> Updates:
    """Find the adapter's updates; `base` is the untrained model, which an adapter that is not removable needs.

    Raises AdapterStateError if no weight matrix is changed.
    """
    sites = Sites(adapter.model, adapter.heads)
    unchanged = adapter.model if base is None else base
    layers, others = {}, 0
    for name, host, delta in adapter.hosts():
        if sites.in_head(name):
            continue
        changed = delta.folds if isinstance(delta, WeightDelta) else () if delta.removable else tuple(host._parameters)
        stacks = {part: len(left) for part, (left, _) in _factors(delta).items() if left.ndim == 3}
        for part, count in stacks.items():
            for expert in range(count):
                own = expert_name(name, part, expert)
                layers[own] = ExpertUpdate(own, host, unchanged.get_submodule(name), delta, part, expert)
        changed = [part for part in changed if part not in stacks]
        if "weight" in changed and _is_matrix(host):
            layers[name] = Update(name, host, unchanged.get_submodule(name), delta)
            changed = [part for part in changed if part != "weight"]
        others += sum(1 for part in changed if getattr(host, part, None) is not None)
    if not layers:
        raise AdapterStateError(
            f"{adapter.method.name} changes no weight matrix, so there is no update to take the rank of; "
            f"{'it changes biases or norms only' if others else 'it adds to what the layers compute'}"
        )
    return Updates(layers, others)


def _factors(delta: Delta) -> dict[str, tuple[Tensor, Tensor]]:
    return delta.factors() if isinstance(delta, WeightDelta) else {}


def _on_cpu(delta: WeightDelta) -> WeightDelta:
    """Copy the delta to the CPU; nothing is copied where it is."""
    there = {id(p): nn.Parameter(p.detach().cpu(), p.requires_grad) for p in delta.parameters()}
    return copy.deepcopy(delta, there | {id(b): b.cpu() for b in delta.buffers()})


def _is_matrix(host: Host) -> bool:
    return weights.is_linear(host) or weights.stored(host).ndim >= 2


def _matrix(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float64).flatten(1)
