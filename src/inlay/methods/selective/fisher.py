"""The empirical Fisher information of weights: how much each entry's gradient tells of the training data.

F = sum over rows of (d log p(y | x) / d W)^2, with y the true label and one row at a time: the square of a batch's
gradient would be another thing. The gradient of a linear layer's weight is made from its input and its output's
gradient, in float32, so that the layer may be in half precision or quantized.

Shape suffixes: N tokens, O outputs, I inputs.
"""

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError
from ...loss_scale import STEADY
from ...models import weights


def information(model: nn.Module, hosts: list[str], rows: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return (O, I) for each linear host, in float32, from batches of one row. Raises DataError if there is none.

    An adapter must be at work in each host, since the base is frozen and would have no gradient to follow.
    """
    modules = {name: model.get_submodule(name) for name in hosts}
    scores = {name: torch.zeros(weights.size(m), device=weights.device(m)) for name, m in modules.items()}
    calls: list[tuple[str, Tensor, Tensor]] = []

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            calls.append((name, args[0].detach(), result))

        return hook

    hooks = [module.register_forward_hook(remember(name)) for name, module in modules.items()]
    training, count = model.training, 0
    model.eval()
    try:
        for row in rows:
            calls.clear()
            loss = _surprise(model, row)
            found = torch.autograd.grad(STEADY * loss, [h for _, _, h in calls], allow_unused=True)
            gradients: dict[str, Tensor] = {}
            for (name, x, _), dh in zip(calls, found, strict=True):
                if dh is not None:
                    g_OI = (dh.flatten(0, -2).float() / STEADY).T @ x.flatten(0, -2).float()
                    gradients[name] = gradients[name] + g_OI if name in gradients else g_OI
            for name, g_OI in gradients.items():
                scores[name].add_(g_OI.square())
            count += 1
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise DataError("there is no training row from which the Fisher information could be taken")
    return scores


def _surprise(model: nn.Module, row: dict[str, Tensor]) -> Tensor:
    """Compute -log p(y | x) of one row; a language model's is the mean over its tokens."""
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    # A cache may be written in place, which gradients cannot go through.
    settings = {"use_cache": False} if takes_cache else {}
    if row["labels"].ndim > 1:
        return model(**row, **settings).loss
    inputs = {key: value for key, value in row.items() if key != "labels"}
    return F.cross_entropy(model(**inputs, **settings).logits.float(), row["labels"])
