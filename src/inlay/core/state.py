"""What Inlay remembers of a model with adapters."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from ..errors import AdapterStateError
from .routing import Routing

if TYPE_CHECKING:
    from .adapter import Adapter
    from .buffers import BufferWatch, KeptBuffers
    from .watch import Watch


@dataclass
class State:
    """The attribute `_inlay` of a model while it has adapters."""

    routing: Routing = field(default_factory=Routing)
    adapters: dict[str, "Adapter"] = field(default_factory=dict)
    required_grad: dict[str, bool] = field(default_factory=dict)  # of the base, before the first adapter froze it
    hooks: "list[KeptBuffers | BufferWatch]" = field(default_factory=list)  # keep the base's buffers as they are
    watch: "Watch | None" = None


def state_of(model: nn.Module) -> State:
    """Raises AdapterStateError if the model has no adapters."""
    state = getattr(model, "_inlay", None)
    if state is None:
        raise AdapterStateError(f"{type(model).__name__} has no adapters; attach one first")
    return state
