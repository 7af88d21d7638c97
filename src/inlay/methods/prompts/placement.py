"""Where P positions more stand in a batch of texts: right before the first visible token of each row.

What a row computes then does not depend on its padding: a state, a window or a bias by distance that goes from the
prompt to the text would pass through padding that stands between them. Nothing here looks at a value on the device.

Shape suffixes: B batch, T text, S all of the text that the mask shows, N positions with the prompt's, P prompt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import AdapterStateError


@dataclass(frozen=True)
class Placement:
    """The place of `count` positions: after `lead_B` of each row's, or before all rows if that is None.

    A model whose layers are on several devices gives back what it was given on another one.
    """

    count: int
    lead_B: Tensor | None

    @classmethod
    def before_text(cls, mask_BS: Tensor | None, count: int, cached: int | Tensor | None) -> "Placement":
        """Place the prompt right before each row's first visible token; `cached` positions, prompt and text, are
        computed already.

        Raises AdapterStateError unless the mask is of rows and tokens.
        """
        if mask_BS is None:
            return cls(count, None)
        if not isinstance(mask_BS, Tensor) or mask_BS.ndim != 2:
            raise AdapterStateError("a soft prompt needs an attention mask of shape (batch, tokens)")
        lead_B = (mask_BS.cumsum(1) == 0).sum(1)
        if cached is not None:  # the prompt cannot come after what is there: a row's first piece may be all padding
            lead_B = lead_B.clamp(max=cached - count)
        return cls(count, lead_B)

    def join(self, prompt: Tensor, text: Tensor, dim: int = 1) -> Tensor:
        """Return the text with the prompt in its place along `dim`, which is 1, or the last of what has no rows of its
        own.
        """
        both = torch.cat([prompt.to(text).expand(*_but(text, dim, prompt.shape[dim])), text], dim=dim)
        if self.lead_B is None:
            return both
        place_N, lead_B1 = torch.arange(both.shape[dim], device=text.device), self.lead_B[:, None].to(text.device)
        from_prompt_BN = (place_N - lead_B1).clamp(min=0)
        source_BN = torch.where(
            place_N < lead_B1, place_N + self.count, torch.where(from_prompt_BN < self.count, from_prompt_BN, place_N)
        )
        return pick(both, source_BN, dim)

    def join_positions(self, positions: Tensor) -> Tensor:
        """Return positions (..., B, T) or (T) with the prompt's, which count up from where the row's text would have
        begun.
        """
        dim = positions.ndim - 1
        steps_P = torch.arange(self.count, device=positions.device, dtype=positions.dtype)
        if self.lead_B is None or dim == 0:
            return torch.cat([positions[..., :1] + steps_P, positions + self.count], dim=-1)
        rows = (
            positions
            if positions.shape[-2] == len(self.lead_B)
            else positions.expand(*positions.shape[:-2], len(self.lead_B), -1)
        )
        first = pick(rows, self.lead_B[:, None].clamp(max=positions.shape[-1] - 1), dim)
        return self.join(first + steps_P, rows + self.count, dim)

    def first_of(self, both: Tensor) -> Tensor:
        """Return the prompt's first position of (B, N, ...)."""
        return both[:, :1] if self.lead_B is None else pick(both, self.lead_B[:, None].to(both.device), 1)

    def text_of(self, both: Tensor) -> Tensor:
        """Return the text's positions of (B, N, ...), contiguous: a linear layer copies its weight for
        each row else.
        """
        if self.lead_B is None:
            return both[:, self.count :].contiguous()
        place_T = torch.arange(both.shape[1] - self.count, device=both.device)
        return pick(both, place_T + self.count * (place_T >= self.lead_B[:, None].to(both.device)), 1)


def pick(x: Tensor, source_BN: Tensor, dim: int) -> Tensor:
    """Return each row's entries at `source_BN` along `dim`; rows are the dimension before it."""
    rows, length = source_BN.shape[0], x.shape[dim]
    if x.shape[dim - 1] != rows:
        x = x.expand(*_but(x, dim - 1, rows))
    first_B1 = torch.arange(rows, device=x.device)[:, None] * length
    flat = x.flatten(dim - 1, dim).index_select(dim - 1, (source_BN + first_B1).flatten())
    return flat.unflatten(dim - 1, source_BN.shape)


def _but(x: Tensor, dim: int, size: int) -> list[int]:
    sizes = list(x.shape)
    sizes[dim] = size
    return sizes
