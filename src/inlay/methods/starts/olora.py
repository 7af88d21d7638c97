"""B and A are the first columns of Q and rows of R in W = Q R.   https://arxiv.org/abs/2406.01775"""

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...models import weights
from ...models.weights import Host
from .taken_away import TakenAway


class OLoRA(TakenAway):
    """A start in orthonormal directions of the weight."""

    name = "olora"

    def of_weight(self, weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        # The first R columns of Q depend on the first R columns of W alone, and the rows of R are Q' W.
        q_OR = torch.linalg.qr(weight_OI[:, :rank]).Q
        return q_OR.T @ weight_OI, q_OR.contiguous()

    def from_base(self, name: str, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
        if weights.is_flipped(host):
            raise CheckpointError(
                f"adapter_config.json: init_lora_weights is 'olora', which PEFT cannot start at {name}, a "
                f"{type(host).__name__}: its start is not what it takes out of the base"
            )
        return super().from_base(name, host, rank, scale)
