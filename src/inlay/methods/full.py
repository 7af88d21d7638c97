"""Full fine-tuning, the baseline: every parameter of the base itself is trained.

Supervised fine-tuning goes on training a pretrained model on pairs of an input and the answer that is wanted. Done to
all of its parameters it needs, for each, a gradient and the optimizer's two averages, and gives every task a model of
its own; and while it learns the task, it may lose what the base could do before, which is called catastrophic
forgetting. Methods that train few parameters are measured against it: how near they come to its score, and what they
save and keep.

There is no copy, so the adapter cannot be detached, and the base is gone once training begins. A base in half precision
keeps its parameters' names but gets them in float32, because a step of 1e-5 is lost in bfloat16; each module still
computes in the dtype that it had, and so does what reads the weight of a layer without calling it. Running statistics
move as in any training, and are saved as part of the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ..core.delta import Args, Delta, Kwargs
from ..core.method import Method, Rates
from ..errors import AdapterStateError, TargetError
from ..formats.peft_format import PeftFormat
from ..models import weights
from ..models.bypass import bypassed
from ..models.results import Result
from ..models.sites import Sites
from ..models.weights import Host


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Every parameter of the base is trained, where it is: nothing is frozen and nothing is added.

             ╔═════════╗    ╔═════════╗           ╔═════════╗
        x ──▶║ block 1 ║───▶║ block 2 ║──▶ ... ──▶║ block L ║──▶ y
             ╚═════════╝    ╚═════════╝           ╚═════════╝

        W' = W + D        D as large as W, and free to have any rank

    When: As the yardstick: what another method saves or loses is measured against it. Also where the task is far from
    what the base knows and there is much data for it. Not when memory is short, when several tasks are to share one
    base, or when the base must not forget: nothing holds its weights near to where they were.

    Cost: Memory for the value, the gradient and AdamW's two averages of every parameter, in float32. A step takes three
    products with each weight: one forward, one for the gradient of the layer's input, one for that of the weight.
    Inference costs what the base costs, but every task is a whole model of its own, and it cannot be detached.
    """

    name, family, paper = "full", "baseline", "https://arxiv.org/abs/1801.06146"
    summary = "every parameter of the model, in place"
    learning_rate = Rates(reading=1e-4, writing=1.1e-3, width_power=1.5)
    format = PeftFormat(peft_type="INLAY_FULL")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        for name, module in sites.changeable():
            own = [p for p in module._parameters.values() if p is not None]
            packed = [b for b in module._buffers.values() if b is not None] if weights.is_linear(module) else []
            if not all(p.is_floating_point() for p in (*own, *packed)):
                raise TargetError(f"{name} is quantized; full fine-tuning needs the base in 16 or 32 bits")
            if weights.is_offloaded(module):
                raise TargetError(f"{name} is offloaded; full fine-tuning needs the base where it is trained")
            read = {path: _dtype(module.get_submodule(path)) for path in sorted(bypassed(module))}
            if own or weights.statistics(module) or read:
                yield name, InPlace(_dtype(module), read)


def _dtype(host: Host) -> torch.dtype:
    return next((p.dtype for p in host._parameters.values() if p is not None), torch.float32)


_NARROW = (torch.bfloat16, torch.float16)


class InPlace(Delta):
    """The host's own parameters, trained where they are: nothing is left of the base's."""

    removable = False

    def __init__(self, dtype: torch.dtype, read: dict[str, torch.dtype]):
        """Take in `read` the layers whose weight the host's code reads without calling them, and what
        they compute in.
        """
        super().__init__()
        self.dtype, self.read = dtype, read
        self.shadowed: list[Host] = []
        self.is_narrow = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if fn(torch.zeros(())).dtype.itemsize < 4:
            self.is_narrow = True  # model.to(torch.bfloat16) has come: nothing here stops it from changing the host
        elif fn(torch.zeros((), dtype=torch.float16)).dtype.itemsize >= 4:
            self.is_narrow = False
        return super()._apply(fn, recurse)

    def install(self, host: Host) -> None:
        for _, p in self.trained(host):
            p.data = p.data.float()

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if self.is_narrow and host.training and torch.is_grad_enabled():
            raise AdapterStateError(
                f"full trains its parameters in float32, but those of a {type(host).__name__} are in 16 bits since "
                "model.to(...), where small steps are lost; convert the model before attach, or call model.float()"
            )
        self.shadowed = []
        for layer, dtype in ((host, self.dtype), *((host.get_submodule(path), d) for path, d in self.read.items())):
            own = dict(self.trained(layer))
            if dtype in _NARROW and own.keys().isdisjoint(layer.__dict__):  # else the module around it has done it
                weights.shadow(layer, {name: p.to(dtype) for name, p in own.items()})
                self.shadowed.append(layer)
        if self.dtype in _NARROW:
            # A model may have looked at host.weight, now in float32, and cast its input to that.
            args = tuple(a.to(self.dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        self.release(host)
        return result

    def release(self, host: Host) -> None:
        for layer in self.shadowed:
            weights.unshadow(layer, layer._parameters)
        self.shadowed = []

    def trained(self, host: Host) -> Iterator[tuple[str, nn.Parameter]]:
        yield from ((name, p) for name, p in host._parameters.items() if p is not None)

    def saved(self, host: Host) -> dict[str, Tensor]:
        statistics = {name: b for name in weights.statistics(host) if (b := host._buffers[name]) is not None}
        return {**dict(self.trained(host)), **statistics}
