"""The model as it is without an adapter: what the checks of a cell compare with, and which of them it passes itself."""

from collections.abc import Callable
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture, Batch

PADDING = 9  # more than the sliding windows of these models
NEW_TOKENS = 3
LOOSE, TIGHT = 1e-4, 1e-5


def unlabelled(batch: Batch) -> Batch:
    """The batch without labels, but for a model that writes: there they are what its decoder reads."""
    return {name: value for name, value in batch.items() if name not in ("labels", "return_loss")}


def result(output: Any) -> Tensor:
    """The first tensor of a model's output that is no loss."""
    return next(v for name, v in output.items() if name != "loss" and isinstance(v, Tensor)).detach().clone()


def apart(a: Tensor, b: Tensor) -> float:
    """How far they are from each other, measured by the size of the second; infinite if one is not finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all()):
        return float("inf")
    return ((a - b).abs().max() / (1e-3 + b.abs().max())).item()


class Base:
    """The model as it is without an adapter: what the checks compare with, computed once for all methods."""

    def __init__(self, architecture: Architecture):
        self.architecture = architecture
        self.model = architecture.build()
        self.batch = architecture.batch()
        self.writes = bool(getattr(self.model.config, "is_encoder_decoder", False)) and "labels" in self.batch
        self.parameters = set(signature(self.model.forward).parameters)

    @torch.no_grad()
    def output(self, model: nn.Module, batch: Batch | None = None) -> Tensor:
        batch = self.batch if batch is None else batch
        return result(model(**(batch if self.keeps_labels else unlabelled(batch))))

    @property
    def keeps_labels(self) -> bool:
        return self.writes and self.architecture.generates

    @cached_property
    def expected(self) -> Tensor:
        return self.output(self.model)

    @cached_property
    @torch.no_grad()
    def loss(self) -> Tensor:
        return loss_of(self.model(**self.batch))

    @cached_property
    def without_gradient(self) -> set[str]:
        """The parameters through which no gradient goes even when the base itself is trained."""
        model = self.architecture.build().train().requires_grad_(True)
        loss_of(model(**self.batch)).backward()
        return {name for name, p in model.named_parameters() if p.grad is None}

    @cached_property
    def rows_alone(self) -> bool:
        return self._holds(self.rows)

    def rows(self, model: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Each row of the batch by itself, and the rows in their batch."""
        count = len(next(iter(self.batch.values())))
        whole = self.output(model)
        if whole.shape[0] != count or any(isinstance(v, Tensor) and len(v) % count for v in self.batch.values()):
            return None
        alone = [self.output(model, {k: _row(v, i, count) for k, v in self.batch.items()}) for i in range(count)]
        return torch.cat(alone), whole

    def padded(self, side: str, positions: bool) -> Callable[[nn.Module], tuple[Tensor, Tensor] | None]:
        """One row with padding at a side, and without."""

        def compare(model: nn.Module) -> tuple[Tensor, Tensor] | None:
            if not self.architecture.texts or "attention_mask" not in self.batch:
                return None
            if positions and "position_ids" not in self.parameters:
                return None
            one = {k: v[:1] for k, v in self.batch.items()}
            wide = dict(one)
            fill = torch.full((1, PADDING), self.model.config.get_text_config().pad_token_id or 0)
            for name, value in (("input_ids", fill), ("attention_mask", torch.zeros_like(fill))):
                wide[name] = torch.cat([value, one[name]] if side == "left" else [one[name], value], dim=1)
            if one.get("labels", torch.zeros(0)).shape == one["input_ids"].shape and not self.keeps_labels:
                del wide["labels"], one["labels"]
            if positions:
                wide["position_ids"] = (wide["attention_mask"].cumsum(1) - 1).clamp(min=0)
            found, alone = self.output(model, wide), self.output(model, one)
            if found.shape != alone.shape:
                width = alone.shape[1]
                found = found[:, -width:] if side == "left" else found[:, :width]
            return found, alone

        return compare

    @cached_property
    def cached_generation(self) -> bool:
        return self.architecture.generates and self._holds(self.generation)

    def generation(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """The scores of the tokens generated with a cache, and without."""
        given = {k: v for k, v in self.batch.items() if k not in ("labels", "return_loss")}
        scores = []
        for cache in (True, False):
            written = model.generate(  # pyright: ignore
                **given,
                use_cache=cache,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
                suppress_tokens=[3, 4, 5],  # which stand for images
            )
            scores.append(torch.stack(written.logits))
        return scores[0], scores[1]

    @cached_property
    def batched_generation(self) -> bool:
        fits = self.architecture.generates and self.architecture.texts and not self.writes
        padded = any(side == "left" for side, _ in self.paddings) if fits else False
        return padded and self._holds(self.own_generation)

    def own_generation(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """What Inlay's `generate` writes for a short text in a batch with a long one, and for it alone."""
        from inlay.tasks.generate import generate

        ids_BT = self.batch["input_ids"].tolist()
        prompts = [ids_BT[0] + ids_BT[1], ids_BT[2][:2]]

        def texts(rows: list[list[int]]) -> list[list[int]]:
            return generate(model, rows, stop=[2], pad=0, max_new_tokens=NEW_TOKENS)

        together, alone = texts(prompts)[1:], texts(prompts[1:])
        wide = [torch.tensor([row + [-1] * (NEW_TOKENS - len(row)) for row in rows]) for rows in (together, alone)]
        return wide[0].float(), wide[1].float()

    def _holds(self, check: Callable[[nn.Module], tuple[Tensor, Tensor] | None]) -> bool:
        try:
            pair = check(self.model)
        except Exception:  # the base cannot do it at all
            return False
        return pair is not None and apart(*pair) < LOOSE / 2

    @cached_property
    def paddings(self) -> list[tuple[str, bool]]:
        """The ways of padding with which the base's row is as it is alone."""
        ways = [("left", False), ("left", True), ("right", False)]
        return [way for way in ways if self._holds(self.padded(*way))]


def loss_of(output: Any) -> Tensor:
    """The model's own loss, or one of all that it gives."""
    if getattr(output, "loss", None) is not None:
        return output.loss
    return torch.stack([v.float().square().mean() for v in output.values() if isinstance(v, Tensor)]).sum()


def _row(value: Any, i: int, count: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    size = len(value) // count
    return value[i * size : (i + 1) * size]
