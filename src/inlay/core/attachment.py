"""An attachment: one method's deltas in one model under a name, which is an adapter as the mechanism sees it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from .delta import Delta


@dataclass(repr=False, eq=False)
class Attachment:
    """Deltas that are attached, run and detached together. It holds them, so nothing looks for parameters by name."""

    name: str
    made_by: str  # the method's name, as errors tell it
    model: nn.Module
    deltas: dict[str, Delta]  # by host name
    heads: tuple[str, ...] = ()  # the modules that are trained whole
    part: str | None = None  # the module of the base that the deltas are kept to
    before: tuple[str, ...] = field(default=(), init=False)  # what was active when it joined

    def hosts(self) -> Iterator[tuple[str, nn.Module, Delta]]:
        """Yield each host's name, the host, and the delta there."""
        for host_name, delta in self.deltas.items():
            yield host_name, self.model.get_submodule(host_name), delta

    def save(self, folder: str | Path) -> None:
        """Write the adapter's files into `folder`."""
        raise NotImplementedError

    @property
    def removable(self) -> bool:
        """Whether the base is still there beneath the deltas."""
        return all(delta.removable for delta in self.deltas.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what training changes, each tensor once, as `host.parameter`."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, p in delta.trained(host):
                if id(p) not in seen:
                    seen.add(id(p))
                    yield f"{host_name}.{name}" if host_name else name, p

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what training changes, each tensor once."""
        yield from (p for _, p in self.named_parameters())

    def tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        """Yield what a checkpoint holds, each tensor once: (host name, parameter name, tensor)."""
        seen: set[int] = set()
        for host_name, host, delta in self.hosts():
            for name, tensor in delta.saved(host).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield host_name, name, tensor
