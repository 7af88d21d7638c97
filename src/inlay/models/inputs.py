"""The directions in which the inputs of a model's layers vary most.

Batches are looked at one after the other: of each layer only the leading directions so far, their singular values, the
mean and the total variance are kept, and a singular value decomposition adds a batch to them (Ross et al., 2008,
https://doi.org/10.1007/s11263-007-0075-7). Padding is left out. Layers that read the same tensor share the work.

Shape suffixes: N tokens, I host inputs, K directions kept.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from ..singular import top_singular

_SETTLED = 0.99  # cosine of each direction with itself one batch earlier
_BATCHES = 100  # at most: directions of nearly equal variance never settle


class Inputs:
    """What is known of one layer's inputs so far."""

    def __init__(self, size: int, keep: int, device: torch.device):
        self.keep, self.count, self.settled = min(keep, size), 0, False
        self.mean_I = torch.zeros(size, device=device)
        self.squares = torch.zeros((), device=device)  # of the distances from the mean
        self.values_K = torch.zeros(0, device=device)
        self.directions_KI = torch.zeros(0, size, device=device)

    def add(self, x_NI: Tensor) -> None:
        """Take further rows into account."""
        new, before_KI = len(x_NI), self.directions_KI
        total = self.count + new
        mean_I = x_NI.mean(0)
        centred_NI = x_NI - mean_I
        # Between the means of what was seen and of the batch there is as much variance as one more row like this has.
        shift_I = (self.count * new / total) ** 0.5 * (self.mean_I - mean_I)
        rows = [centred_NI] if self.count == 0 else [self.values_K[:, None] * before_KI, centred_NI, shift_I[None]]
        _, self.values_K, self.directions_KI = top_singular(torch.cat(rows), self.keep)
        self.squares = self.squares + centred_NI.square().sum() + shift_I.square().sum()
        self.mean_I = self.mean_I + (mean_I - self.mean_I) * (new / total)
        self.count = total
        if len(before_KI) == len(self.directions_KI):
            self.settled = bool(((before_KI * self.directions_KI).sum(1).abs() >= _SETTLED).all())

    def shares(self) -> Tensor:
        """Return the part of the inputs' variance that lies in each direction."""
        return self.values_K.square() / self.squares


@torch.no_grad()
def inputs_of(model: nn.Module, hosts: list[str], keep: int, batches: Iterator[dict[str, Tensor]]) -> dict[str, Inputs]:
    """Find the leading directions of each host's inputs, from batches until they no longer change."""
    seen: dict[str, Inputs] = {}
    mask_N: Tensor | None = None
    last: tuple[str, Tensor | None] = ("", None)

    def look(name: str, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        nonlocal last
        x = args[0] if args else next(iter(kwargs.values()))
        if x is last[1]:
            seen.setdefault(name, seen[last[0]])
            return
        last = name, x
        inputs = seen.setdefault(name, Inputs(x.shape[-1], keep, x.device))
        x_NI = x.reshape(-1, x.shape[-1])
        if mask_N is not None and len(mask_N) == len(x_NI):
            x_NI = x_NI[mask_N]
        if not inputs.settled and len(x_NI):
            inputs.add(x_NI.float())

    modes = {module: module.training for module in model.modules()}
    hooks = [
        model.get_submodule(host).register_forward_pre_hook(partial(look, host), with_kwargs=True) for host in hosts
    ]
    model.eval()
    try:
        for batch in islice(batches, _BATCHES):
            mask = batch.get("attention_mask")
            mask_N = None if mask is None else mask.reshape(-1).bool()
            model(**{key: value for key, value in batch.items() if key != "labels"})
            if all(inputs.settled for inputs in seen.values()):
                break
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return seen
