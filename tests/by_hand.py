"""Adapters written out by hand: a plain model that computes what a given adapter does, without a slot in it.

Changes of weights are folded into the parameters; bottlenecks and soft prompts are plain hooks with the formula of the
paper. It is slow, knows nothing of other adapters, and is what the real thing is compared with.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.core.delta import WeightDelta
from inlay.models import weights


class ByHand:
    """One adapter, by hand, as the innermost of a model: other adapters see what it has made of a layer.

    `write` goes first, then the other adapter is attached, then `close`: a hook that reads a call must come last, one
    that changes a result first.
    """

    def __init__(self, model: Any, adapter: inlay.Adapter):
        self.model, self.adapter = model, adapter
        self.later: list[Callable[[], Any]] = []
        self.ready = False  # attaching may run the model, which is then none of this

    @staticmethod
    def can(adapter: inlay.Adapter) -> bool:
        """Whether it is known here; a prefix is not, which is inside the attention."""
        return adapter.method.name != "prefix"

    def write(self) -> None:
        kept: dict[str, Any] = {}
        for host_name, delta in self.adapter.deltas.items():
            host = self.model.get_submodule(host_name)
            if isinstance(delta, WeightDelta):
                _fold_in(host, delta)
            elif self.adapter.method.name in ("houlsby", "pfeiffer"):
                self._bottleneck(host, delta)
            elif self.adapter.method.name == "parallel":
                self._parallel(host, delta, kept)
            else:
                self._prompt(host, delta)

    def register(self) -> None:
        while self.later:
            self.later.pop(0)()

    def close(self) -> None:
        self.register()
        self.ready = True

    def _after(self, host: Any, hook: Callable[[Any, Any, Any], Any]) -> None:
        host.register_forward_hook(lambda module, args, result: hook(module, args, result) if self.ready else result)

    def _bottleneck(self, host: Any, delta: Any) -> None:
        if isinstance(host, nn.LayerNorm):  # Pfeiffer's, in a model with the norm last

            def joined(_: Any, args: Any, h_BTD: Tensor) -> Tensor:
                sum_BTD = args[0] + _thin(h_BTD, delta, F.relu)
                return F.layer_norm(sum_BTD, host.normalized_shape, host.weight, host.bias, host.eps)

            self._after(host, joined)
            return
        activation = F.gelu if self.adapter.method.name == "houlsby" else F.relu

        def after(_: Any, args: Any, result: Any) -> Any:
            h_BTD = result[0] if isinstance(result, tuple) else result
            h_BTD = h_BTD + _thin(h_BTD, delta, activation)
            return (h_BTD, *result[1:]) if isinstance(result, tuple) else h_BTD

        self._after(host, after)

    def _parallel(self, host: Any, delta: Any, kept: dict[str, Any]) -> None:
        if hasattr(delta, "down"):
            kept["reader"] = delta
            self.later.append(lambda: host.register_forward_pre_hook(lambda _, args: kept.update(x=args[0])))
            return
        reader = kept["reader"]
        self._after(host, lambda _, args, h: h + delta.scale * _thin(kept["x"], reader, F.relu))

    def _prompt(self, host: Any, delta: Any) -> None:
        count = delta.count
        names = tuple(signature(host.forward).parameters)

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if not self.ready:
                return None
            kwargs = dict(zip(names, args, strict=False)) | kwargs
            embeds = kwargs.get("inputs_embeds")
            if embeds is None:
                embeds = host.get_input_embeddings()(kwargs["input_ids"])
            rows = len(embeds)
            mask, types = kwargs.get("attention_mask"), kwargs.get("token_type_ids")
            mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
            given = {k: v for k, v in kwargs.items() if k not in ("input_ids", "inputs_embeds", "attention_mask")}
            given["inputs_embeds"] = torch.cat([delta.prompt().expand(rows, -1, -1), embeds], dim=1)
            given["attention_mask"] = torch.cat([mask.new_ones(rows, count), mask], dim=1)
            if types is not None:
                given["token_type_ids"] = torch.cat([types.new_zeros(rows, count), types], dim=1)
            return (), given

        def after(_: Any, args: Any, result: Any) -> Any:
            result.last_hidden_state = result.last_hidden_state[:, count:]
            return result

        self._after(host, after)
        self.later.append(lambda: host.register_forward_pre_hook(before, with_kwargs=True))


def _thin(x: Tensor, delta: Any, activation: Callable[[Tensor], Tensor]) -> Tensor:
    down, up = delta.down, delta.up
    return F.linear(activation(F.linear(x, down.weight, down.bias)), up.weight, up.bias)


@torch.no_grad()
def _fold_in(host: Any, delta: WeightDelta) -> None:
    for name, p in delta.fold(weights.read(host, delta.folds)).items():
        p = p.T if name == "weight" and weights.is_flipped(host) else p
        setattr(host, name, nn.Parameter(p.clone(), requires_grad=False))
