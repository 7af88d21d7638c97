from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import inlay
from inlay.batches import chunked_loss
from inlay.batches.chunked_loss import (
    IGNORED,
    causal_loss,
    logits_of_rows,
    losses_of_rows,
    trained_of_rows,
    trained_tokens,
)

from ..shapes import LLAMA, SHAPES, VOCABULARY, Shape, disturb, method
from .heads import Multiplied, Shifted, WithoutHead, finishing_models, small, wild

CHUNK, STEP = 8, 4
GENERATING = [SHAPES["llama"], SHAPES["gpt2"]]
of_each_shape = pytest.mark.parametrize("shape", GENERATING, ids=lambda shape: shape.name)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_CHUNK_TOKENS", CHUNK)
    monkeypatch.setattr(chunked_loss, "_CHUNK_LOGITS_ON_CPU", 1)
    monkeypatch.setattr(chunked_loss, "_CHUNK_STEP", STEP)
    monkeypatch.setattr(chunked_loss, "_CACHED_LOGITS", 2 * VOCABULARY)


def some_batch(rows: int = 4, tokens: int = 9) -> dict[str, Tensor]:
    """Prompts without loss, and padding after some rows."""
    ids = torch.randint(2, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(5))
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row in range(rows):
        labels[row, : 1 + row % 3] = IGNORED
        labels[row, tokens - row :] = IGNORED
        mask[row, tokens - row :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def filled(batch: dict[str, Tensor]) -> int:
    """Tokens that go through the head: the last chunk is filled up."""
    return -(-trained_tokens(batch) // STEP) * STEP


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).abs().max()
        assert error <= tolerance * gradient.abs().max() + 1e-3 * tolerance, name


def in_one_call(model: Any, batch: dict[str, Tensor], divisor: float, calls: int = 1) -> Tensor:
    """The loss, computed with so many calls of the model: a second one computes all logits."""
    seen = []
    hook = model.register_forward_hook(lambda *_: seen.append(None))
    loss = causal_loss(model, batch, divisor)
    hook.remove()
    assert len(seen) == calls
    return loss


def both(model: Any, batch: dict[str, Tensor], tolerance: float = 1e-5, calls: int = 1) -> None:
    """Ours and transformers' own loss have one value and one gradient."""
    ours = in_one_call(model, batch, trained_tokens(batch), calls)
    found = gradients(model, ours)
    theirs = model(**batch, use_cache=False).loss
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=tolerance, rtol=tolerance)
    same(found, gradients(model, theirs), tolerance)


@pytest.mark.parametrize("name", inlay.METHODS)
@of_each_shape
def test_every_methods_loss_and_gradients_are_those_of_transformers(name: str, shape: Shape) -> None:
    model = shape.model()
    disturb(inlay.attach(model, method(name, shape)))
    both(model, some_batch())


@pytest.mark.parametrize(
    "settings",
    [
        inlay.LoRA(targets=("lm_head",)),
        inlay.METHODS["dora"](targets=("lm_head",)),
        inlay.METHODS["loha"](targets=("lm_head",)),
        inlay.METHODS["oft"](targets=("lm_head",)),
        inlay.METHODS["vera"](targets=("lm_head",)),
    ],
    ids=lambda settings: settings.name,
)
@of_each_shape
def test_an_adapter_at_the_head_gets_exact_gradients(settings: Any, shape: Shape) -> None:
    model = shape.model()
    disturb(inlay.attach(model, settings))
    both(model, some_batch())


@of_each_shape
def test_a_head_that_is_trained_whole_gets_exact_gradients(shape: Shape) -> None:
    model = shape.model()
    disturb(inlay.attach(model, method("lora", shape), heads=("lm_head",)))
    both(model, some_batch())


def test_a_plain_model_with_a_bias_at_its_head_gets_exact_gradients() -> None:
    config = transformers.PhiConfig(**small(), tie_word_embeddings=False)
    model = wild(transformers.PhiForCausalLM(config))
    assert model.get_output_embeddings().bias is not None
    both(model, some_batch())


@of_each_shape
def test_gradient_checkpointing_changes_nothing(shape: Shape) -> None:
    model = shape.model().train()
    disturb(inlay.attach(model, method("lora", shape)))
    expected = gradients(model, causal_loss(model, some_batch(), 3))
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    same(gradients(model, causal_loss(model, some_batch(), 3)), expected, 1e-6)


def test_models_that_scale_or_cap_their_logits_keep_doing_so() -> None:
    for model in finishing_models():
        both(model, some_batch())


def test_in_float64_the_gradients_are_those_of_the_plain_formula() -> None:
    batch = some_batch()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    for model in (*finishing_models(), SHAPES["llama"].model(), SHAPES["gpt2"].model()):
        model.double()
        ours = in_one_call(model, batch, 5)
        found = gradients(model, ours)
        logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        exact = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum") / 5
        torch.testing.assert_close(ours, exact, atol=1e-12, rtol=1e-12)
        same(found, gradients(model, exact), 1e-12)


def test_the_losses_of_rows_are_those_of_each_row_alone() -> None:
    torch.manual_seed(0)
    own = [kind(LLAMA) for kind in (Shifted, WithoutHead)]
    batch = some_batch()
    for model in (*finishing_models(), *own, *(SHAPES[name].model() for name in ("llama", "gpt2", "t5"))):
        model.double()
        found_B = losses_of_rows(model, batch)
        alone = [causal_loss(model, {key: t[row : row + 1] for key, t in batch.items()}, 1).item() for row in range(4)]
        torch.testing.assert_close(found_B.tolist(), alone, atol=1e-12, rtol=1e-12)
        assert not found_B.requires_grad
    assert [trained_tokens({"labels": batch["labels"][row : row + 1, 1:]}) for row in range(4)] == [
        *trained_of_rows({"labels": batch["labels"][:, 1:]})
    ]


def test_a_scale_that_is_used_otherwise_than_by_most_is_found_by_a_second_call() -> None:
    torch.manual_seed(0)
    model = Multiplied(transformers.LlamaConfig(**LLAMA.to_dict() | {"logit_scale": 0.3}))
    both(model, some_batch(), calls=2)
    both(model, some_batch())


@pytest.mark.parametrize(("kind", "calls"), [(Shifted, 2), (WithoutHead, 1)])
def test_a_model_with_a_head_of_its_own_kind_computes_its_own_logits(kind: Any, calls: int) -> None:
    torch.manual_seed(0)
    model = kind(LLAMA)
    both(model, some_batch(), calls=calls)
    both(model, some_batch())  # once it is known


def rows_are_right(model: Any, batch: dict[str, Tensor]) -> None:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        expected_BTV = model(**inputs, use_cache=False).logits
    found_BTV, text = torch.stack(list(logits_of_rows(model, batch))), batch["attention_mask"].bool()
    torch.testing.assert_close(found_BTV[text], expected_BTV[text], atol=1e-5, rtol=1e-5)


@of_each_shape
def test_rows_go_through_the_model_together_and_through_its_head_one_by_one(shape: Shape) -> None:
    model, calls = shape.model(), []
    disturb(inlay.attach(model, method("lora", shape)))
    rows_are_right(model, some_batch())
    model.register_forward_hook(lambda *_: calls.append("model"))
    model.get_output_embeddings().register_forward_hook(lambda _, __, z_BTV: calls.append(tuple(z_BTV.shape[:2])))
    list(logits_of_rows(model, some_batch(rows=3, tokens=9)))
    assert calls == [(3, 1), "model", (1, 9), (1, 9), (1, 9)]


@pytest.mark.parametrize("kind", [Shifted, WithoutHead])
def test_rows_of_a_model_with_a_head_of_its_own_kind_go_through_it_one_by_one(kind: Any) -> None:
    torch.manual_seed(0)
    rows_are_right(kind(LLAMA), some_batch())


def test_rows_of_models_that_scale_or_cap_their_logits_have_them_so() -> None:
    for model in finishing_models():
        rows_are_right(model, some_batch())


def test_an_encoder_decoder_learns_what_its_decoder_should_say() -> None:
    model = SHAPES["t5"].model()
    disturb(inlay.attach(model, method("lora", SHAPES["t5"])))
    batch = some_batch()
    batch["labels"] = batch["labels"][:, 2:].contiguous()
    both(model, batch)


@of_each_shape
@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_bfloat16_model_gets_its_softmax_in_float32(name: str, shape: Shape) -> None:
    model = shape.model(torch.bfloat16)
    disturb(inlay.attach(model, method(name, shape)))
    batch = some_batch()
    ours = in_one_call(model, batch, trained_tokens(batch))
    found = gradients(model, ours)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs, use_cache=False).logits
    assert logits.dtype == torch.bfloat16
    exact = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())
    assert ours.dtype == torch.float32
    assert abs(ours.item() - exact.item()) < 1e-4  # in bfloat16 numbers of this size are 0.03 apart
    same(found, gradients(model, exact), 0.03)


@of_each_shape
def test_micro_batches_add_up_to_the_batch(shape: Shape) -> None:
    model = shape.model()
    disturb(inlay.attach(model, method("lora", shape)))
    batch = some_batch()
    count = trained_tokens(batch)
    whole = causal_loss(model, batch, count)
    expected = gradients(model, whole)
    pieces = [{k: v[rows] for k, v in batch.items()} for rows in (slice(3), slice(3, 4))]
    assert sum(map(trained_tokens, pieces)) == count
    parts = [causal_loss(model, piece, count) for piece in pieces]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    same(gradients(model, parts[0] + parts[1]), expected, 1e-5)


def test_the_head_sees_trained_tokens_only_and_a_chunk_at_a_time() -> None:
    model = SHAPES["llama"].model()
    inlay.attach(model, inlay.LoRA())
    batch, seen = some_batch(), []
    calls, own = [], model.lm_head.forward
    model.lm_head.forward = lambda x: seen.append(x.flatten(0, -2).shape[0]) or own(x)
    model.lm_head.register_forward_hook(lambda *_: calls.append(None))
    causal_loss(model, batch, 1).backward()
    assert len(calls) == 1  # whatever others do around a call, such as to gather the weights of it, is done once
    assert trained_tokens(batch) % STEP
    assert sum(seen) == filled(batch) < batch["input_ids"].numel()
    assert max(seen) == CHUNK


class Watch(TorchDispatchMode):
    """The size of the largest tensor that is made, and the multiplications in products with one side of this length."""

    def __init__(self, side: int):
        super().__init__()
        self.side, self.largest, self.multiplications = side, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
        if func._schema.name in ("aten::mm", "aten::addmm"):
            (rows, inner), columns = args[-2].shape, args[-1].shape[1]
            if self.side in (rows, inner, columns):
                self.multiplications += rows * inner * columns
        return result


def test_a_frozen_head_costs_two_products_and_a_trained_one_three() -> None:
    batch = some_batch()
    for trained in (False, True):
        model = SHAPES["llama"].model()
        model.lm_head.weight.requires_grad_(trained)
        with Watch(VOCABULARY) as seen:
            causal_loss(model, batch, 1).backward()
        assert seen.multiplications == (3 if trained else 2) * filled(batch) * VOCABULARY * 32
        assert (model.lm_head.weight.grad is not None) == trained


def test_a_frozen_body_costs_no_gradient_of_its_output() -> None:
    batch, model = some_batch(), SHAPES["llama"].model().requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    with Watch(VOCABULARY) as seen:
        causal_loss(model, batch, 1).backward()
    assert seen.multiplications == 2 * filled(batch) * VOCABULARY * 32
    both(model, batch)


def test_the_gradient_of_a_bfloat16_head_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = SHAPES["llama"].model(torch.bfloat16), some_batch(rows=8, tokens=60)
    found = []
    for tokens in (1, 10**6):  # in a chunk
        monkeypatch.setattr(chunked_loss, "_CHUNK_TOKENS", tokens)
        found.append(gradients(model, causal_loss(model, batch, 1))["lm_head.weight"].float())
    assert (found[0] - found[1]).norm() < 0.004 * found[1].norm()


def test_logits_far_apart_do_not_overflow() -> None:
    model = SHAPES["llama"].model()
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)
    both(model, some_batch())


def test_no_tensor_is_as_large_as_the_logits() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small() | {"vocab_size": 2000}))
    inlay.attach(model, inlay.LoRA())
    batch = some_batch(rows=8, tokens=32)
    with Watch(2000) as seen:
        causal_loss(model, batch, 1).backward()
    assert seen.largest < trained_tokens(batch) * 2000 / 2
    with Watch(2000) as seen:
        model(**batch).loss.backward()
    assert seen.largest >= batch["input_ids"].numel() * 2000


def test_a_batch_that_trains_no_token_has_a_loss_of_zero_that_can_go_backward() -> None:
    model = SHAPES["llama"].model()
    adapter = inlay.attach(model, inlay.LoRA())
    batch = some_batch()
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    loss = causal_loss(model, batch, 10)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in adapter.parameters())


def test_without_gradients_it_is_the_same_number() -> None:
    model = SHAPES["llama"].model()
    batch = some_batch()
    loss = causal_loss(model, batch, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again = causal_loss(model, batch, 3)
        assert not again.requires_grad
        assert again.item() == loss.item()


def test_the_factor_of_the_backward_pass_counts() -> None:
    model = SHAPES["llama"].model()
    batch = some_batch()
    once = gradients(model, causal_loss(model, batch, 3))
    same(gradients(model, 0.25 * causal_loss(model, batch, 3)), {k: g / 4 for k, g in once.items()}, 1e-6)


def test_a_second_backward_pass_is_refused() -> None:
    model = SHAPES["llama"].model()
    loss = causal_loss(model, some_batch(), 3)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_nothing_stays_at_the_head_even_if_the_model_fails() -> None:
    model = SHAPES["llama"].model()
    inlay.attach(model, inlay.LoRA(targets=("lm_head",)))
    before = dict(model.lm_head.__dict__)
    causal_loss(model, some_batch(), 3)
    assert model.lm_head.__dict__ == before
    with pytest.raises(IndexError):
        causal_loss(model, some_batch() | {"input_ids": torch.full((4, 9), VOCABULARY)}, 3)
    assert model.lm_head.__dict__ == before
    assert not model.lm_head.adapters.is_aside
