"""A low-rank change of the direction of each row of a weight, and a length for each: (m / |V|) V with V = W + s B A.

In the gradient |V| is a constant, as in section 4.3 of DoRA's paper. With g = m / |V| and x~ the input after dropout,
the output is

    y = h + (g - 1) (x~ W') + g s x~ A' B'

where h is the host's own output. Written so, a gain near 1 is not rounded away in 16 bits, and the start is the base.

V is never formed. With M = W A' (O, R) and G = A A' (R, R), each row has

    |V|^2 = |W|^2 + 2 s B M + s^2 B G B'

where M is the host's forward of A's rows. A row whose update cancels most of it would lose its digits in this sum, and
is formed after all. The norms are kept until the base, A or B changes.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from ...devices import has_float64
from ...models import sharded, transforms, weights
from ...models.fake_tensors import has_values
from ...models.weights import Host
from ..starts.kaiming import KAIMING
from ..starts.start import Start
from .low_rank import Biased, LowRank, plus_product

_CANCELLED = 0.25  # |V|^2 / |W|^2 below which a row is formed


class Decomposed(LowRank):
    def __init__(self, host: Host, rank: int, scale: float, dropout: float, start: Start = KAIMING):
        super().__init__(host, rank, scale, dropout, start)
        self.lora_magnitude_vector = nn.Parameter(row_squares(host).sqrt().float())
        self._kept: dict[str, _Kept] = {}

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {}  # the rows' lengths change the whole weight

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        changed_OI = super().fold(params)["weight"]
        return {"weight": self.gain(row_norms(changed_OI.detach()))[:, None] * changed_OI}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        a_RI, b_OR = self.matrices()
        gain_O = self.gain(self.norms(host))
        base_BTO, bias_O = h_BTO, weights.bias(host)
        if self.training and self.dropout:
            x_BTI = F.dropout(x_BTI, self.dropout)
            base_BTO = host.forward(x_BTI)
        if bias_O is not None:
            base_BTO = base_BTO - bias_O.to(base_BTO.dtype)
        longer_BTO = torch.addcmul(h_BTO, base_BTO, (gain_O - 1).to(h_BTO.dtype))
        z_BTR = F.linear(x_BTI, a_RI.to(x_BTI.dtype))
        return plus_product(longer_BTO, z_BTR, self.scale * gain_O[:, None] * b_OR)

    def gain(self, norms_O: Tensor) -> Tensor:
        """Compute m / |V|; a row of zeros has no direction and is left as it is."""
        norms_O = norms_O.to(self.lora_magnitude_vector.dtype)
        return torch.where(norms_O > 0, self.lora_magnitude_vector / norms_O.masked_fill(norms_O == 0, 1), 1)

    def norms(self, host: Host) -> Tensor:
        """Return |V| of every row as a constant. A compiled graph cannot ask if it is known, and computes it each
        time.
        """
        if torch.compiler.is_compiling():
            return self._norms(host, row_squares(host))
        if transforms.at_work():
            return row_norms(super().fold(weights.read(host))["weight"].detach())
        if (base := _tensors(host, without=("bias",))) is None or (own := _tensors(self)) is None:
            return self._norms(host, row_squares(host))
        # Kept values serve later calls that record gradients, for which a tensor of inference mode is no use.
        with torch.inference_mode(False):
            squares_O = self._keep("base", base, lambda: row_squares(host))
            return self._keep("sum", base + own, lambda: self._norms(host, squares_O))

    @torch.no_grad()
    def _norms(self, host: Host, squares_O: Tensor) -> Tensor:
        a_RI, b_OR = self.matrices()
        fine = squares_O.dtype
        product_OR = weights.product(host, a_RI).T.to(fine)
        a_RI, b_OR = a_RI.to(fine), self.scale * b_OR.to(fine)
        sums_O = squares_O + (b_OR * (2 * product_OR + b_OR @ (a_RI @ a_RI.T))).sum(1)
        if has_values(sums_O) and not torch.compiler.is_compiling():  # a graph's shapes cannot depend on values
            rows = (sums_O < _CANCELLED * squares_O).nonzero()[:, 0]
            if len(rows):
                weight_OI = weights.read(host)["weight"][rows].to(fine)
                sums_O[rows] = (weight_OI + b_OR[rows] @ a_RI).square().sum(1)
        return sums_O.clamp(min=0).sqrt()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}  # a copy has tensors of its own to watch

    def _keep(self, name: str, tensors: list[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Return what `compute` gave when the tensors were last other ones, had other values or got a gradient.

        After a gradient comes a step, and fused optimizers change a tensor without raising its version.
        """
        marks = [_mark(t) for t in tensors]
        kept = self._kept.get(name)
        if kept is None or kept.marks != marks:
            self._forget(name)
            trained = [t for t in tensors if t.requires_grad and t.is_leaf]
            hooks = [t.register_post_accumulate_grad_hook(lambda _: self._forget(name)) for t in trained]
            kept = self._kept[name] = _Kept(tensors, marks, hooks, compute())
        return kept.value

    def _forget(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is not None:
            for hook in kept.hooks:
                hook.remove()


class BiasedDecomposed(Biased, Decomposed):
    pass


@dataclass
class _Kept:
    tensors: list[Tensor]  # held, so that no other tensor can get the identity of one of them
    marks: list[object]
    hooks: list[RemovableHandle]
    value: Tensor


def row_norms(weight_OI: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight_OI, dim=1, dtype=_fine(weight_OI.device))


@torch.no_grad()
def row_squares(host: Host) -> Tensor:
    """Compute the squared length (O) of each row of a linear host's weight."""
    weight_OI = weights.read(host)["weight"]
    fine = _fine(weight_OI.device)
    return torch.cat([block_OI.to(fine).square().sum(1) for block_OI in weights.blocks(weight_OI)])


def _fine(device: torch.device) -> torch.dtype:
    return torch.float64 if has_float64(device) else torch.float32


def _tensors(module: nn.Module, without: Collection[str] = ()) -> list[Tensor] | None:
    """Return what a read of the module's own tensors gives now, since others may stand in for them, or what lasts in
    place of that; None if their values may change unseen.
    """
    if (parts := sharded.lasting(module)) is None:
        return None
    own = chain(module._parameters.items(), module._buffers.items())
    names = {name: t for name, t in own if t is not None and name not in without}
    return [module.__dict__.get(name, parts.get(name, t)) for name, t in names.items()]


def _mark(tensor: Tensor) -> object:
    """Make a mark that differs after another tensor, value, place or dtype has come in."""
    if tensor.is_inference() or not tensor.is_leaf:
        return object()  # has no version, or is a view of what is trained: it may have changed
    addressed = has_values(tensor) and not is_traceable_wrapper_subclass(tensor)
    where = tensor.data_ptr() if addressed else tensor.device
    return id(tensor), tensor._version, tensor.dtype, where
