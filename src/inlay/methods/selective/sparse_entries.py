"""A change that a few entries of a weight have, W + S with S zero everywhere else; what they get starts at zero.

Only these entries are parameters, so that the others have neither an optimizer's state nor weight decay.

Shape suffixes: K entries, N tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import WeightDelta
from ...errors import CheckpointError
from ...models import transforms, weights
from ...models.weights import Host
from . import sparse_product


class Sparse(WeightDelta):
    def __init__(self, host: Host, entries_K: Tensor):
        super().__init__()
        self.size = weights.size(host)
        self.device = weights.device(host)
        self.register_buffer("indices", None)
        self.choose(entries_K)

    indices: Tensor  # (2, K): rows and columns

    def choose(self, entries_K: Tensor) -> None:
        """Take these entries of the weight, counted along its rows, and start at zero."""
        entries_K = entries_K.sort().values
        self.indices = torch.stack([entries_K // self.size[1], entries_K % self.size[1]]).int().to(self.device)
        self.values = nn.Parameter(torch.zeros(len(entries_K), device=self.device))

    def check_saved(self, name: str, tensors: dict[str, Tensor]) -> None:
        indices = tensors["indices"]
        rows, columns = self.size
        if not indices.is_meta and len(indices.T):
            low, high = int(indices.min()), indices.max(dim=1).values.tolist()
            if low < 0 or high[0] >= rows or high[1] >= columns:
                raise CheckpointError(f"the file changes entries of {name} that are outside its {rows} x {columns}")

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        w_OI = params["weight"]
        return {"weight": w_OI.index_put(tuple(self.indices), self.values.to(w_OI.dtype), accumulate=True)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        if transforms.at_work():
            s_OI = self.values.new_zeros(self.size).index_put(tuple(self.indices), self.values, accumulate=True)
            return h_BTO + F.linear(x_BTI.to(h_BTO.dtype), s_OI.to(h_BTO.dtype))
        x_NI = x_BTI.reshape(-1, x_BTI.shape[-1]).to(h_BTO.dtype)
        y_NO = sparse_product.product(x_NI, self.values.to(x_NI.dtype), self.indices, self.size[0])
        return h_BTO + y_NO.view(h_BTO.shape)


def random_entries(count: int, total: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw distinct numbers below `total`, all equally likely; a permutation of a whole weight would take seconds. For
    a meta device the numbers have no values: a weight that is only counted needs none.
    """
    if torch.device(device).type == "meta":
        return torch.empty(count, dtype=torch.long, device=device)
    if 2 * count > total:
        return torch.randperm(total, device="cpu")[:count]
    drawn = torch.empty(0, dtype=torch.long, device="cpu")
    while len(drawn) < count:
        drawn = torch.cat([drawn, torch.randint(total, (count,), device="cpu")]).unique()
    return drawn[torch.randperm(len(drawn), device="cpu")[:count]]
