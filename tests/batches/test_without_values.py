"""A step runs on tensors without values, and makes the same tensors as on real ones."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import inlay
from inlay.batches.batch import Batch, Collated
from inlay.batches.chunked_loss import causal_loss, trained_tokens
from inlay.batches.packing import packed, padded
from inlay.models.document_attention import attend_by_document
from inlay.models.fake_tensors import true_masks
from inlay.models.known_documents import knowing

from ..shapes import SHAPES, disturb, method
from .texts import some_texts


def labelled(batch: Collated) -> Collated:
    """The rows of a batch with a label each."""
    tensors = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return Collated(tensors | {"labels": torch.arange(len(batch["input_ids"])) % 3}, batch.documents, batch.tokens)


def classifier_loss(model: Any, batch: Batch) -> Tensor:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return nn.functional.cross_entropy(model(**inputs).logits.float(), batch["labels"])


def faked(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors without values in the place of the model's; tied ones stay one."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, t in own.items():
                if t is not None:
                    own[name] = made[t] if t in made else made.setdefault(t, mode.from_tensor(t))


class Made(TorchDispatchMode):
    """Counts the shapes of all that is computed, and the looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[Any, ...]] = Counter()
        self.looks: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default):
            self.looks[str(func)] += 1
        if all(each.alias_info is None for each in func._schema.returns):  # no view
            self.shapes.update((t.dtype, *t.shape) for t in tree_leaves(result) if isinstance(t, Tensor) and t.ndim)
        return result


def loss_of(model: nn.Module, batch: Collated) -> Tensor:
    if batch.trained is not None:
        return causal_loss(model, batch, trained_tokens(batch))
    with knowing(batch.documents):
        return classifier_loss(model, batch)


def step(model: nn.Module, adapter: Any, batch: Collated, fake: bool) -> Made:
    """The second step of a training, of which the passes are counted: the first finds out what the model does."""
    mode: Any = FakeTensorMode() if fake else nullcontext()
    if fake:
        faked(model, mode)
        batch = batch.mapped(mode.from_tensor)
    with mode, true_masks() if fake else nullcontext():
        loss_of(model, batch)
        with Made() as made:
            loss_of(model, batch).backward()
        if (penalty := adapter.method.penalty(adapter)) is not None:
            penalty.backward()
        assert all(p.grad is not None for p in adapter.parameters())
        nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        torch.optim.AdamW(adapter.parameters(), lr=1e-3, fused=True).step()
        adapter.method.after_step(adapter, 1, 10)
    return made


def is_packed(method_name: str) -> bool:
    return method_name not in ("prompt", "p-tuning", "multitask-prompt")


RAGGED, EVEN = (9, 7, 3), (8, 8, 8)  # of which the model drops the mask
KINDS = [("llama", "packed"), ("llama", "padded"), ("bert", "classifier")]
CASES = [
    *((name, *kind, RAGGED) for name in inlay.METHODS for kind in KINDS if kind[1] != "packed" or is_packed(name)),
    *((name, *kind, EVEN) for name in ("lora", "prompt") for kind in KINDS if kind[1] != "packed" or is_packed(name)),
]


@pytest.mark.parametrize(("method_name", "name", "kind", "lengths"), CASES)
def test_a_step_makes_the_same_tensors_with_and_without_values(
    method_name: str, name: str, kind: str, lengths: tuple[int, ...]
) -> None:
    shape, found = SHAPES[name].shallow, []
    for fake in (False, True):
        model: Any = shape.model().train()
        adapter = inlay.attach(model, method(method_name, shape))
        disturb(adapter)
        texts = some_texts(lengths)
        if kind == "packed":
            assert attend_by_document(model)
            batch = packed(texts, 16)
        else:
            batch = padded(texts) if kind == "padded" else labelled(padded(texts))
        found.append(step(model, adapter, batch, fake))
    real, planned = found
    assert planned.shapes == real.shapes
    if kind == "packed" and method_name != "dora":  # which looks for rows that it has cancelled, once a step
        assert not real.looks
