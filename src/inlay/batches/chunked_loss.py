"""The loss of a language model without the logits of the whole batch, which are larger than anything else in a step.

The model runs as it always does, but in the one call of its head the loss is computed: of the hidden states that
predict a trained token, a few hundred at a time, with the gradients of each chunk at once. So no logits outlive their
chunk, and nothing is computed twice. The head's forward runs and is never read, so an adapter at it takes part, a
quantized head works, and a frozen one costs no weight gradient. What others do around the call of a module, such as
FSDP2, which gathers its weights for that, is done once.

Some models do more with the head's output: they scale it, or cap it softly. What this one does its configuration
tells, and once for each model that is tried, on a known output. One that does something else computes all its logits.

Shape suffixes: B batch, T tokens, D width, N trained tokens, C those of a chunk, V vocabulary.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from ..core.slot import Slot
from ..core.state import SLOT
from ..models import document_attention, weights
from ..models.fake_tensors import has_values
from .batch import Batch, Collated, Documents, Trained, documents_of
from .rounds import rounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

Inputs = dict[str, Tensor | bool]  # a model's arguments by name
IGNORED = -100  # the label of a token that is not trained, as everywhere in transformers

_CHUNK_LOGITS = 2**26  # of a chunk
_CHUNK_LOGITS_ON_CPU = 2**23  # more take it longer for each: its products leave the cache, and memory is cleared anew
_CHUNK_TOKENS = 128  # of a chunk at least: with fewer the matrix product waits for the weight
_CHUNK_STEP = 64  # chunks are filled up to its multiples: a length that is new costs a CPU more than the product itself
_CACHED_LOGITS = 2**18  # what a CPU's cache holds in float32
_RAMP = 50.0


def causal_loss(model: nn.Module, batch: Batch, divisor: float) -> Tensor:
    """Return the sum of -log p(token) over the trained tokens, divided by `divisor`; its gradients are exact.

    `labels` are the tokens to be predicted, IGNORED where none is: of the same positions as `input_ids`, or those of
    the decoder. A packed batch has `position_ids` too (see packing.py). With one `divisor` for all of them, the
    losses of micro-batches add up to the batch's. Softmax is in float32 or finer whatever the model's dtype.
    """
    inputs, target_BT = _inputs_and_targets(model, batch)

    def loss_of(x_BTD: Tensor, head: "_Head", ramp_B1V: Tensor) -> tuple[Tensor, Tensor]:
        at_N = _trained_at(batch, target_BT)
        x_ND = x_BTD.flatten(0, 1).index_select(0, at_N)
        return _chunked_loss(head, x_ND, target_BT.flatten()[at_N], divisor, ramp_B1V)

    loss, logits_BTV = _through_head(model, inputs, documents_of(batch), target_BT.shape, loss_of)
    if loss is not None:
        return loss
    exact = torch.promote_types(logits_BTV.dtype, torch.float32)
    return F.cross_entropy(logits_BTV.flatten(0, 1).to(exact), target_BT.flatten(), reduction="sum") / divisor


@torch.no_grad()
def losses_of_rows(model: nn.Module, batch: Batch) -> Tensor:
    """Return (B,), the sum of -log p(token) over each row's trained tokens, as `causal_loss` has it; without gradients.
    A packed batch has several texts in a row.
    """
    inputs, target_BT = _inputs_and_targets(model, batch)

    def losses_of(x_BTD: Tensor, head: "_Head", ramp_B1V: Tensor) -> tuple[Tensor, Tensor]:
        at_N = _trained_at(batch, target_BT)
        chunks = _chunks(head, x_BTD.flatten(0, 1).index_select(0, at_N), target_BT.flatten()[at_N])
        of_chunks = [_losses_(head.logits(_filled(x_CD)), target_C, head.finish) for x_CD, target_C in chunks]
        losses_N = torch.cat(of_chunks)
        return losses_N.new_zeros(target_BT.numel()).index_copy(0, at_N, losses_N).view_as(target_BT), ramp_B1V

    losses_BT, logits_BTV = _through_head(model, inputs, documents_of(batch), target_BT.shape, losses_of)
    if losses_BT is None:
        exact = torch.promote_types(logits_BTV.dtype, torch.float32)
        losses_BT = F.cross_entropy(logits_BTV.mT.to(exact), target_BT, reduction="none")
    return losses_BT.sum(1)


@torch.no_grad()
def logits_of_rows(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
    """Yield (T, V) of each row in turn, in float32 or finer: the rows go through the model together, through its head
    one by one. Those of a model that computes its own logits go through it one by one."""
    inputs, target_BT = _inputs_and_targets(model, batch)
    of_all = documents_of(batch)
    found, _ = _through_head(model, inputs, of_all, target_BT.shape, _kept) if len(target_BT) > 1 else (None, None)
    for row in range(len(target_BT)):
        if found is None:
            alone = {key: value[row : row + 1] if isinstance(value, Tensor) else value for key, value in inputs.items()}
            documents = of_all and of_all[row : row + 1]
            z_TV, finish = document_attention.run(model, alone, documents).logits[0], _Finish()
        else:
            x_BTD, head = found
            z_TV, finish = head.module(x_BTD[row : row + 1])[0], head.finish
        z_TV = z_TV.to(torch.promote_types(z_TV.dtype, torch.float32))
        finish.apply_(z_TV)
        yield z_TV


def trained_tokens(batch: Batch) -> int:
    """Count the trained tokens of a batch, none of which is the first of a text, which nothing predicts."""
    return sum(trained_of_rows(batch))


def trained_of_rows(batch: Batch) -> Sequence[int]:
    """Count the trained tokens of each row."""
    known = _trained(batch)
    return (batch["labels"] != IGNORED).sum(1).tolist() if known is None else known.counts


def _trained(batch: Batch) -> Trained | None:
    return batch.trained if isinstance(batch, Collated) else None


def _trained_at(batch: Batch, target_BT: Tensor) -> Tensor:
    """Return the numbers of the positions, (N,), that predict a trained token."""
    known = None if target_BT is batch["labels"] else _trained(batch)  # of an encoder-decoder all are at their place
    return (target_BT != IGNORED).flatten().nonzero().squeeze(1) if known is None else known.at


@dataclass(frozen=True)
class _Finish:
    """A model's last step after its head, whose output is z: scale * z, or cap * tanh(z / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, z: Tensor) -> Tensor | float | None:
        """Do it to `z` in place; the slope, if it is not 1 throughout."""
        if self.cap is None:
            z.mul_(self.scale)
            return None if self.scale == 1 else self.scale
        z.div_(self.cap).tanh_()
        slope = 1 - z.square()
        z.mul_(self.cap)
        return slope


def _inputs_and_targets(model: Any, batch: Batch) -> tuple[Inputs, Tensor]:
    inputs: Inputs = {key: value for key, value in batch.items() if key != "labels"} | {"use_cache": False}
    label_BT = batch["labels"]
    if model.config.is_encoder_decoder:
        return inputs | {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=label_BT)}, label_BT
    return inputs, F.pad(label_BT[:, 1:], (0, 1), value=IGNORED)


class _Head:
    """A model's head while it computes something in place of logits, in a call of the model."""

    def __init__(self, module: nn.Module, finish: _Finish, shape: torch.Size, compute: "_Compute[object]"):
        self.module, self.finish, self.shape, self.compute = module, finish, shape, compute
        self.before: Callable[..., object] | None = module.__dict__.get("forward")  # what another library put there
        slot = getattr(module, SLOT, None)
        self.slot = slot if isinstance(slot, Slot) else None
        self.calls = 0
        self.found: object = None  # None: the logits are true ones
        self.ramp_V: Tensor | None = None

    def __enter__(self) -> Self:
        self.module.__dict__["forward"] = self
        if self.slot is not None:
            self.slot.is_aside = True
        return self

    def __exit__(self, *_: object) -> None:
        del self.module.__dict__["forward"]
        if self.before is not None:
            self.module.__dict__["forward"] = self.before
        if self.slot is not None:
            self.slot.is_aside = False

    def begin(self, *_: object) -> None:
        """Forget an earlier call: a model may have to be called again."""
        self.calls, self.found, self.ramp_V = 0, None, None

    def __call__(self, x_BTD: Tensor, *args: object, **kwargs: object) -> Tensor:
        self.calls += 1
        self.__exit__()  # what is computed runs the module as it is
        try:
            if x_BTD.shape[:2] != self.shape or args or kwargs:
                return self.logits(x_BTD, *args, **kwargs)
            z_B0V = self.logits(x_BTD[:, :0].detach())
            self.ramp_V = torch.linspace(-_RAMP, _RAMP, z_B0V.shape[-1], device=z_B0V.device, dtype=z_B0V.dtype)
            self.found, result_B1V = self.compute(x_BTD, self, self.ramp_V.expand(len(x_BTD), 1, -1))
            return result_B1V
        finally:
            self.__enter__()

    def logits(self, *args: object, **kwargs: object) -> Tensor:
        """Run the head's own forward, with an adapter at it."""
        if self.slot is None:
            return self.module.forward(*args, **kwargs)
        return cast(Tensor, self.slot.around(self.module, args, kwargs))


_Compute = Callable[[Tensor, _Head, Tensor], tuple[T, Tensor]]
"""Takes what the head gets, the head, and what the head is to return; gives a result, and what the head returns."""


def _kept(x_BTD: Tensor, head: _Head, ramp_B1V: Tensor) -> tuple[tuple[Tensor, _Head], Tensor]:
    return (x_BTD, head), ramp_B1V


def _through_head(
    model: Any, inputs: Inputs, documents: Documents | None, shape: torch.Size, compute: _Compute[T]
) -> tuple[T | None, Tensor]:
    """Run the model, and in the call of its head `compute` on hidden states of this shape, in place of the logits.

    Returns what that gives, or None where it cannot be; then the model's logits are true ones.
    """
    module: nn.Module | None = model.get_output_embeddings()
    finish = None if module is None or not weights.is_linear(module) else _assumed(model, module)
    while module is not None and finish is not None:
        with _Head(module, finish, shape, compute) as head:
            hook = model.register_forward_pre_hook(head.begin)
            try:
                logits = document_attention.run(model, inputs, documents).logits
            finally:
                hook.remove()
        if head.calls < 2 and head.ramp_V is None:
            return None, logits
        tried, finish = finish, _tried(model, head, logits)
        if finish == tried:
            return cast(T, head.found), logits
    return None, document_attention.run(model, inputs, documents).logits


_found: WeakKeyDictionary[nn.Module, tuple[object, _Finish | None]] = WeakKeyDictionary()  # with what it was found for


def _assumed(model: "PreTrainedModel", module: nn.Module) -> _Finish | None:
    """Return what the model does after its head, as was found or as it is configured; None if that is not known."""
    if model in _found and _found[model][0] == _key(model, module):
        return _found[model][1]
    (scale, logits_scaling, multiplier), cap = _configured(model)
    if cap is not None:
        return _Finish(cap=cap)
    return _Finish(next((s for s in (scale, logits_scaling and 1 / logits_scaling, multiplier) if s), 1.0))


def _tried(model: "PreTrainedModel", head: _Head, logits: Tensor) -> _Finish | None:
    """Find what the model has done after its head, or remember it; None if that is not known."""
    if head.calls > 1 or head.ramp_V is None or logits.shape[-1] != len(head.ramp_V):
        return None
    if not has_values(logits):  # what is configured is done, and it takes the same memory with any scale
        return head.finish
    key = _key(model, head.module)
    if model not in _found or _found[model][0] != key:
        numbers, cap = _configured(model)
        scales = {1.0} | {s for number in numbers if number for s in (number, 1 / number)}
        ways = [*map(_Finish, scales), _Finish(cap=cap)]
        _found[model] = key, _nearest(ways, head.ramp_V, logits[0, 0])
    return _found[model][1]


def _key(model: "PreTrainedModel", module: nn.Module) -> object:
    return weakref.ref(module), _configured(model), weights.size(module)[0]


def _configured(model: "PreTrainedModel") -> tuple[tuple[float | None, ...], float | None]:
    """Read the numbers by which logits may be scaled, and the one that may cap them."""
    config = model.config.get_text_config()
    numbers = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"))
    scales = tuple(number if isinstance(number, int | float) else None for number in numbers)
    return scales, getattr(config, "final_logit_softcapping", None)


@torch.no_grad()
def _nearest(ways: list[_Finish], ramp_V: Tensor, logits_V: Tensor) -> _Finish | None:
    """Find the way from the ramp to the logits."""
    best, distance = min(((way, _distance(way, ramp_V, logits_V)) for way in ways), key=lambda pair: pair[1])
    rounding = 4 * max(torch.finfo(t.dtype).eps for t in (ramp_V, logits_V)) * float(logits_V.abs().max())
    return best if distance <= rounding else None


def _distance(way: _Finish, ramp_V: Tensor, logits_V: Tensor) -> float:
    found_V = ramp_V.to(torch.promote_types(ramp_V.dtype, torch.float32), copy=True)
    way.apply_(found_V)
    return float((found_V - logits_V).abs().max())


def _chunked_loss(
    head: _Head, x_ND: Tensor, target_N: Tensor, divisor: float, ramp_B1V: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss and the ramp, which whoever waits for gradients of the head's result knows the pass by."""
    loss = torch.zeros((), device=x_ND.device, dtype=torch.promote_types(x_ND.dtype, torch.float32))
    gradient_ND = torch.zeros_like(x_ND)
    parameters: dict[Tensor, Tensor] = {}  # of the head that are trained, with their gradients
    for x_CD, gradient_CD, target_C in _chunks(head, x_ND, gradient_ND, target_N):
        used = len(x_CD)
        x_CD = _filled(x_CD.detach()).requires_grad_(x_ND.requires_grad)
        z_CV = head.logits(x_CD)
        loss += _losses_(z_CV.detach(), target_C, head.finish, z_CV.requires_grad).sum()
        if not z_CV.requires_grad:
            continue
        leaves = list(_leaves(z_CV))
        for leaf, gradient in zip(leaves, torch.autograd.grad(z_CV, leaves, z_CV.detach()), strict=True):
            if leaf is x_CD:
                gradient_CD.copy_(gradient[:used])
            elif leaf in parameters:
                parameters[leaf] += gradient
            else:
                parameters[leaf] = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if not (x_ND.requires_grad or parameters):
        return loss / divisor, ramp_B1V
    z_CV = None  # whose memory the next may have
    gradients = [gradient_ND, *(gradient.to(p.dtype) for p, gradient in parameters.items())]
    return _Known.apply(loss, divisor, ramp_B1V, len(gradients), *gradients, x_ND, *parameters)


def _chunks(head: _Head, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Divide what there is of the trained tokens (N, …) by as many as the head takes at once."""
    logits = _CHUNK_LOGITS_ON_CPU if tensors[0].device.type == "cpu" else _CHUNK_LOGITS
    size = max(_CHUNK_TOKENS, logits // weights.size(head.module)[0] // _CHUNK_STEP * _CHUNK_STEP)
    return rounds(list(zip(*(of_N.split(size) for of_N in tensors), strict=True)))


def _filled(x_CD: Tensor) -> Tensor:
    return F.pad(x_CD, (0, 0, 0, -len(x_CD) % _CHUNK_STEP))


@torch.no_grad()
def _losses_(z_CV: Tensor, target_C: Tensor, finish: _Finish, with_gradient: bool = False) -> Tensor:
    """Return the losses of the chunk's tokens, (C,); the gradient of their sum with respect to z takes its place.

    Rows without a target have no part in it. On a CPU a few rows at a time, which stay in its cache meanwhile.
    """
    exact = torch.promote_types(z_CV.dtype, torch.float32)
    losses_C: list[Tensor] = []
    rows = len(z_CV) if z_CV.device.type != "cpu" else max(1, _CACHED_LOGITS // z_CV.shape[1])
    pieces = zip(z_CV[: len(target_C)].split(rows), target_C[:, None].split(rows), strict=True)
    for z, target in rounds(list(pieces)):
        p = z.to(exact, copy=True)
        slope = finish.apply_(p)
        highest, reached = p.amax(1, keepdim=True), p.gather(1, target)
        total = p.sub_(highest).exp_().sum(1, keepdim=True)
        losses_C.append((highest + total.log() - reached).squeeze(1))
        if with_gradient:
            p.mul_(1 / total).scatter_add_(1, target, torch.full_like(reached, -1.0))
            z.copy_(p if slope is None else p.mul_(slope))
    if with_gradient:
        z_CV[len(target_C) :] = 0
    return torch.cat(losses_C)


def _leaves(result: Tensor) -> Iterator[Tensor]:
    """Yield what the result was computed from that takes a gradient."""
    nodes, seen = [result.grad_fn], set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [before for before, _ in node.next_functions]


class _Known(Function):
    """A number whose gradients are known already, and a copy of a tensor beside it."""

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, divisor: float, beside: Tensor, count: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.divisor = divisor
        ctx.save_for_backward(*tensors[:count])
        ctx.set_materialize_grads(False)
        return loss / divisor, beside.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the gradient of a trained head is as large as the head. A second backward pass is refused, as ever.
        gradients = [gradient.mul_(outer[0] / ctx.divisor) for gradient in ctx.saved_tensors]
        return (None, None, None, None, *(None for _ in gradients), *gradients)
