"""Positions that a module counts from the text's ids, where the model hands no others on: M2M100's and its like.

With a prompt the model gets embeddings in place of ids, and such a module would count the padding too. It is given ids
that only tell padding from tokens.

Shape suffixes: B batch, T text, N positions with the prompt's.
"""

from contextvars import ContextVar

from torch import Tensor, nn

from ...core.delta import Args, Delta, Kwargs
from ...models.weights import Host
from .per_token import padding_of, reads_padding, takes_positions
from .placement import Placement

_REAL: ContextVar[Tensor | None] = ContextVar("inlay_real_tokens", default=None)  # (B, N), 0 for padding


class PositionsOfIds(Delta):
    """A delta at the module that counts them."""

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        real_BN = _REAL.get()
        given = args[0] if args else kwargs.get("input_ids")
        if real_BN is None or given is not None:
            return args, kwargs
        kwargs = {key: value for key, value in kwargs.items() if key not in ("input_ids", "inputs_embeds")}
        return (real_BN + padding_of(host), None, *args[2:]), kwargs


def counters(transformer: nn.Module) -> list[nn.Module]:
    """Return the modules in it that count positions from ids, if these cannot be told to the transformer."""
    return [] if takes_positions(transformer) else [m for m in transformer.modules() if reads_padding(m)]


def remember(readers: list[nn.Module], ids_BT: Tensor | None, place: Placement) -> None:
    """Note before the call which positions are the prompt's or a token's."""
    real = _REAL.get() if ids_BT is None else (ids_BT != padding_of(readers[0])).long()
    if real is not None:
        _REAL.set(place.join(real.new_ones(1, place.count), real))


def forget() -> None:
    _REAL.set(None)
