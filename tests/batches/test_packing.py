from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.batches.chunked_loss import IGNORED, causal_loss, trained_tokens
from inlay.batches.packing import Shuffled, best_fit, can_pack, packed, padded
from inlay.models import document_attention
from inlay.models.document_attention import attend_by_document
from inlay.models.documents import Documents

from ..shapes import LLAMA, SHAPES, VOCABULARY, Shape, disturb, method
from ..training.state_models import state_models
from .texts import some_texts

PACKABLE = sorted(name for name in inlay.METHODS if "prompt" not in name and name != "p-tuning")
WAYS = ["eager", "sdpa", document_attention.NAME]
of_each_shape = pytest.mark.parametrize("shape", [SHAPES["llama"], SHAPES["gpt2"]], ids=lambda shape: shape.name)


@pytest.fixture(autouse=True)
def _restored_configurations() -> Iterator[None]:
    """The shapes' models share their configurations, which say how attention is computed."""
    before = {name: shape.config._attn_implementation for name, shape in SHAPES.items()}
    yield
    for name, way in before.items():
        SHAPES[name].config._attn_implementation = way


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_by_one(model: Any, texts: list[dict[str, list[Any]]]) -> Tensor:
    """The mean loss over all trained tokens, by transformers, with each text in a call of its own."""
    total, count = torch.zeros(()), 0
    for text in texts:
        ids, trained = torch.tensor(text["input_ids"]), torch.tensor(text["trained"])
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = total + F.cross_entropy(logits[:-1][trained[1:]], ids[1:][trained[1:]], reduction="sum")
        count += int(trained[1:].sum())
    return total / count


def same_as_one_by_one(model: Any, tolerance: float = 1e-5) -> None:
    texts = some_texts()
    exact = one_by_one(model, texts)
    expected = gradients(model, exact)
    for batch in (packed(texts), packed(texts, 12), padded(texts)):
        loss = causal_loss(model, batch, trained_tokens(batch))
        torch.testing.assert_close(loss, exact, atol=tolerance, rtol=tolerance)
        found = gradients(model, loss)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            error = (found[name] - gradient).abs().max()
            assert error <= tolerance * gradient.abs().max() + 1e-2 * tolerance, name


def made(name: str, shape: Shape, way: str, dtype: torch.dtype = torch.float32) -> Any:
    model = shape.model(dtype)
    disturb(inlay.attach(model, method(name, shape)))
    if way == document_attention.NAME:
        assert attend_by_document(model)
    else:
        model.set_attn_implementation(way)
    return model


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PACKABLE)
@of_each_shape
def test_packed_and_padded_rows_have_the_losses_and_gradients_of_single_texts(
    name: str, shape: Shape, way: str
) -> None:
    model = made(name, shape, way)
    assert can_pack(model)
    same_as_one_by_one(model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lora", "full", "prefix"])
@of_each_shape
def test_in_bfloat16_they_are_nearly_the_same(name: str, shape: Shape, way: str) -> None:
    model = made(name, shape, way, torch.bfloat16)
    assert can_pack(model)
    same_as_one_by_one(model, 0.05)


@pytest.mark.parametrize("name", ["prompt", "p-tuning", "multitask-prompt"])
@of_each_shape
def test_a_soft_prompt_is_not_packed_but_padded_rows_are_right(name: str, shape: Shape) -> None:
    model = made(name, shape, document_attention.NAME)
    assert not can_pack(model)
    texts = some_texts()
    batch = padded(texts)
    loss = causal_loss(model, batch, trained_tokens(batch))
    torch.testing.assert_close(loss, one_by_one(model, texts))


def test_models_that_would_mix_texts_are_not_packed() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "pad_token_id": 0}
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(**small, state_size=4, eos_token_id=1))
    assert not can_pack(mamba)
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(**small, n_head=4))
    assert not can_pack(bloom)
    assert not can_pack(SHAPES["t5"].model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(state_models()))
def test_models_with_a_state_are_not_packed_however_little_of_it_remains(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(state_models()[name]).to(dtype)
    inlay.attach(model, inlay.NormTuning())
    assert not can_pack(model)
    assert all(p.grad is None for p in model.parameters())
    if dtype == torch.float32:
        texts = some_texts()
        batch = padded(texts)
        loss = causal_loss(model, batch, trained_tokens(batch))
        torch.testing.assert_close(loss, one_by_one(model, texts), atol=1e-5, rtol=1e-5)


def test_a_model_that_counts_positions_through_the_row_is_not_packed() -> None:
    class Counting(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any, position_ids: Any = None, **kwargs: Any) -> Any:
            return super().forward(input_ids, **kwargs)

    assert can_pack(transformers.LlamaForCausalLM(LLAMA))
    assert not can_pack(Counting(LLAMA))


def test_a_faint_trace_of_another_text_is_noticed_in_bfloat16() -> None:
    class Leaking(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any, position_ids: Any = None, **kwargs: Any) -> Any:
            result = super().forward(input_ids, position_ids=position_ids, **kwargs)
            result.logits = result.logits + 0.01 * result.logits[:, :1]
            return result

    torch.manual_seed(0)
    assert can_pack(transformers.LlamaForCausalLM(LLAMA).bfloat16())
    assert not can_pack(Leaking(LLAMA).bfloat16())


def test_dropout_does_not_keep_a_model_from_being_packed() -> None:
    config = transformers.GPT2Config(**SHAPES["gpt2"].config.to_dict() | {"resid_pdrop": 0.5})
    assert can_pack(transformers.GPT2LMHeadModel(config).train())


def test_trying_packing_out_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = SHAPES["llama"].model().train()
    model.model.norm.eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    can_pack(model)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("way", WAYS)
@of_each_shape
def test_another_text_in_the_row_changes_nothing(shape: Shape, way: str) -> None:
    model = made("lora", shape, way)
    texts, others = some_texts(), some_texts()
    others[2]["input_ids"] = [2] * 9  # the first in the row, since it is the longest
    outputs = []
    for chosen in (texts, others):
        batch = packed(chosen)
        inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
        outputs.append(model(**inputs, use_cache=False).logits[0])
    assert not torch.allclose(outputs[0][:9], outputs[1][:9], atol=1e-3)
    torch.testing.assert_close(outputs[0][9:34], outputs[1][9:34], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_finds_the_texts_again(reentrant: bool) -> None:
    model = made("full", SHAPES["llama"], document_attention.NAME).train()
    on = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    on({"use_reentrant": reentrant})
    same_as_one_by_one(model)


def test_a_window_is_kept_within_each_text() -> None:
    config = transformers.MistralConfig(**LLAMA.to_dict() | {"sliding_window": 4})
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(config).train()
    wide = transformers.MistralForCausalLM(transformers.MistralConfig(**LLAMA.to_dict() | {"sliding_window": 99}))
    wide.load_state_dict(model.state_dict())
    assert not torch.allclose(one_by_one(wide, some_texts()), one_by_one(model, some_texts()), atol=1e-4)
    expected = one_by_one(model, some_texts())
    assert attend_by_document(model)
    same_as_one_by_one(model)
    batch = packed(some_texts())
    torch.testing.assert_close(causal_loss(model, batch, trained_tokens(batch)), expected)


@pytest.mark.parametrize("padding", ["right", "left", "both", "inside", "none"])
@of_each_shape
def test_padding_is_seen_as_sdpa_sees_it(shape: Shape, padding: str) -> None:
    model = shape.model()
    mask = torch.ones(3, 8, dtype=torch.long)
    if padding in ("right", "both"):
        mask[1, 5:] = 0
    if padding in ("left", "both"):
        mask[2, :3] = 0
    if padding == "inside":
        mask[0, 3] = 0
    inputs = {"input_ids": torch.randint(2, VOCABULARY, (3, 8)), "attention_mask": mask}
    expected = model(**inputs).logits
    assert attend_by_document(model)
    torch.testing.assert_close(model(**inputs).logits[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
@of_each_shape
def test_generation_is_that_of_sdpa(name: str, shape: Shape) -> None:
    model = made(name, shape, "sdpa").eval()
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    inputs = {"input_ids": torch.randint(2, VOCABULARY, (2, 6)), "attention_mask": mask}
    settings: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs, **settings)
    assert attend_by_document(model)
    assert torch.equal(model.generate(**inputs, **settings), expected)
    assert torch.equal(model.generate(**inputs, **settings, use_cache=False), expected)


def test_each_text_is_attended_to_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = made("lora", SHAPES["llama"], document_attention.NAME), []
    own = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        seen.append((query.shape[2], key.shape[2], kwargs["attn_mask"]))
        return own(query, key, value, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    batch = packed(some_texts())
    causal_loss(model, batch, 1)
    assert Counter(n for n, _, _ in seen[: len(seen) // 2]) == Counter(
        [9, 7, 7, 5, 3, 2, 1, 9, 9, 9, 3]
    )  # 30 of padding
    assert all(queries == keys and mask is None for queries, keys, mask in seen)


def test_a_model_in_float64_is_not_rounded() -> None:
    model = SHAPES["llama"].model().double()
    assert attend_by_document(model)
    same_as_one_by_one(model, 1e-12)
    batch = packed(some_texts())
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    by_text = model(**inputs, use_cache=False).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(by_text, model(**inputs, use_cache=False).logits, atol=1e-12, rtol=1e-12)


def test_the_models_own_scale_of_scores_is_kept() -> None:
    config = transformers.GraniteConfig(**LLAMA.to_dict() | {"attention_multiplier": 2.0})
    torch.manual_seed(0)
    model = transformers.GraniteForCausalLM(config)
    expected = one_by_one(model, some_texts())
    assert attend_by_document(model)
    batch = packed(some_texts())
    torch.testing.assert_close(causal_loss(model, batch, trained_tokens(batch)), expected, atol=1e-6, rtol=1e-6)


def test_dropout_in_the_attention_is_kept() -> None:
    config = transformers.LlamaConfig(**LLAMA.to_dict() | {"attention_dropout": 0.5})
    model = transformers.LlamaForCausalLM(config).train()
    assert attend_by_document(model)
    batch = packed(some_texts())
    assert causal_loss(model, batch, 1) != causal_loss(model, batch, 1)
    model.eval()
    same_as_one_by_one(model)


def test_models_that_cannot_attend_by_document_are_left_alone() -> None:
    model = SHAPES["llama"].model()
    model.set_attn_implementation("eager")
    both_parts = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA.to_dict()))
    both_parts.config.is_encoder_decoder = True  # there are such models that can do all the rest, and join masks
    for other in (model, SHAPES["t5"].model(), both_parts):
        before = other.config._attn_implementation
        assert not attend_by_document(other)
        assert other.config._attn_implementation == before


def test_the_kernel_for_all_texts_at_once_gets_what_the_texts_get_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself needs a GPU; this is a plain one with its arguments."""
    lengths_seen = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int, **kw: Any
    ) -> Any:
        assert kw["window_size"] == (-1, 0)
        lengths = ends_q.diff().tolist()
        assert ends_q.dtype == torch.int32
        assert max(lengths) == max_q == max_k
        assert torch.equal(ends_q, ends_k)
        lengths_seen.append(lengths)
        parts = [
            F.scaled_dot_product_attention(
                *(x.transpose(0, 1) for x in part), is_causal=True, scale=kw["scale"], enable_gqa=kw["enable_gqa"]
            ).transpose(0, 1)
            for part in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        ]
        return torch.cat(parts)

    model, batch = made("lora", SHAPES["llama"], document_attention.NAME), packed(some_texts(), 12)
    expected = causal_loss(model, batch, 1)
    monkeypatch.setattr(document_attention, "_kernel", lambda: kernel)
    monkeypatch.setattr(document_attention, "_fits_kernel", lambda *_: True)
    found = causal_loss(model, batch, 1)
    torch.testing.assert_close(found, expected)
    assert len(batch["input_ids"]) > 1
    assert sum(lengths_seen[0]) == batch["input_ids"].numel()


def test_best_fit_fills_rows() -> None:
    assert best_fit([5, 3, 9, 1, 7, 7, 2], 12) == [[2, 1], [4, 0], [5, 6, 3]]
    assert best_fit([6, 5, 4, 3], 9) == [[0, 3], [1, 2]]
    assert best_fit([20, 3, 3], 6) == [[0], [1, 2]]  # too long for a row, and not cut
    lengths = [1 + (37 * i) % 100 for i in range(1000)]
    rows = best_fit(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(1000))
    assert all(sum(lengths[i] for i in row) <= 256 for row in rows)
    assert len(rows) <= 1.01 * sum(lengths) / 256 + 1


def test_a_packed_batch_says_where_texts_begin() -> None:
    batch = packed(
        [{"input_ids": [7, 8], "trained": [True, True]}, {"input_ids": [4, 5, 6], "trained": [False, True, True]}]
    )
    assert batch["input_ids"].shape == (1, 32)
    assert batch["input_ids"][0, :5].tolist() == [4, 5, 6, 7, 8]
    assert batch["position_ids"][0, :8].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert batch["labels"][0, :6].tolist() == [IGNORED, 5, 6, IGNORED, 8, IGNORED]
    assert batch["attention_mask"][0].tolist() == [1] * 5 + [0] * 27
    assert batch["position_ids"].max() == 2  # no further than a table of positions may go
    assert trained_tokens(batch) == 3


def test_padded_rows_stay_in_order() -> None:
    batch = padded([{"input_ids": [7, 8], "trained": [True, True]}, {"input_ids": [4], "trained": [True]}])
    assert batch["attention_mask"].tolist() == [[1, 1] + [0] * 6, [1] + [0] * 7]
    assert batch["labels"].tolist() == [[IGNORED, 8] + [IGNORED] * 6, [IGNORED] * 8]
    assert "position_ids" not in batch


def test_a_mask_without_texts_of_its_own_is_left_to_sdpa() -> None:
    mask = {"mask_function": lambda b, h, q, k: k <= q, "device": "cpu"}
    assert document_attention.find_documents(2, 4, 4, **mask) is None
    assert isinstance(document_attention.find_documents(2, 4, 6, q_offset=2, **mask), Tensor)
    both_ways = {"mask_function": lambda b, h, q, k: k == k, "device": "cpu", "allow_is_causal_skip": False}
    assert isinstance(document_attention.find_documents(2, 4, 4, **both_ways), Tensor)
    padding = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert isinstance(document_attention.find_documents(2, 4, 4, attention_mask=padding, **both_ways), Tensor)
    found = document_attention.find_documents(2, 4, 4, attention_mask=padding, **mask)
    assert isinstance(found, Documents)
    assert [[d.length for d in row] for row in found.rows] == [[4], [2, 2]]
    assert found.ends.tolist() == [0, 4, 6, 8]


def test_an_epoch_of_shuffled_rows_has_each_row_once() -> None:
    order = Shuffled(103, 8, seed=3)
    first = list(order)
    assert sorted(i for batch in first for i in batch) == list(range(103))
    assert len(first) == len(order) == 13
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    assert list(Shuffled(103, 8, seed=4)) != first
