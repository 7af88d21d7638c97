"""A rotation of a linear layer's input, block by block: x R, or W R' for its weight.

A block R = (I - Q)(I + Q)^-1 (Cayley) of a skew-symmetric Q, whose upper triangle is what is trained; zero is no turn.
PEFT's series instead needs no inverse: I + 2 Q + 2 Q^2 + ... + Q^(terms-1). That is R with the opposite turn, and no
rotation any more once Q is large. Here x (R - I) is computed and added to x, so that a small turn is not rounded away
beside the ones of the diagonal.

Shape suffixes: N blocks, K their size.
"""

import torch
from torch import Tensor, nn

from ...core.delta import WeightDelta
from ...models import weights
from ...models.weights import Host


class Rotation(WeightDelta):
    """Blocks of `size` inputs turn, all alike with `block_share`; 0 `terms` of the series mean that it is not used."""

    rows: Tensor
    columns: Tensor

    def __init__(self, host: Host, size: int, block_share: bool, terms: int, dropout: float):
        super().__init__()
        device = weights.device(host)
        self.size, self.blocks = size, weights.size(host)[1] // size
        self.terms, self.dropout = terms, dropout
        stored = 1 if block_share else self.blocks
        self.oft_R = nn.Parameter(torch.zeros(stored, size * (size - 1) // 2, device=device))
        rows, columns = torch.triu_indices(size, size, 1, device="cpu")  # slow on the meta device
        self.register_buffer("rows", rows.to(device), persistent=False)
        self.register_buffer("columns", columns.to(device), persistent=False)

    def turn(self) -> Tensor:
        """Compute R - I for every block, (N, K, K)."""
        upper_NKK = self.oft_R.new_zeros(len(self.oft_R), self.size, self.size)
        upper_NKK[:, self.rows, self.columns] = self.oft_R
        q_NKK = upper_NKK - upper_NKK.mT
        if not self.terms:
            eye_KK = torch.eye(self.size, dtype=q_NKK.dtype, device=q_NKK.device)
            # I + Q always has an inverse; a check would make a GPU wait.
            turn_NKK = torch.linalg.solve_ex(eye_KK + q_NKK, -2 * q_NKK, left=False)[0]
        else:
            power_NKK, turn_NKK = q_NKK, 2 * q_NKK
            for exponent in range(2, self.terms):
                power_NKK = power_NKK @ q_NKK
                turn_NKK = turn_NKK + (1 if exponent == self.terms - 1 else 2) * power_NKK
        return turn_NKK.expand(self.blocks, -1, -1)

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        turn_NKK = self.turn()
        finer = torch.promote_types(params["weight"].dtype, turn_NKK.dtype)
        weight_ONK = params["weight"].to(finer).unflatten(1, (self.blocks, self.size))
        return {"weight": (weight_ONK + torch.einsum("onk,njk->onj", weight_ONK, turn_NKK.to(finer))).flatten(1)}

    def edit_input(self, host: Host, x_BTI: Tensor) -> Tensor:
        turn_NKK = self.turn()
        if self.training and self.dropout:
            kept_N = torch.rand(self.blocks, device=turn_NKK.device) >= self.dropout
            turn_NKK = turn_NKK * kept_N[:, None, None]
        x_BTNK = x_BTI.unflatten(-1, (self.blocks, self.size))
        return x_BTI + torch.einsum("...nk,nkj->...nj", x_BTNK, turn_NKK.to(x_BTI.dtype)).flatten(-2)

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        return h_BTO
