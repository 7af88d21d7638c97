from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.batches.batch import Batch, Collated, divided, rows_of, to_device, token_count
from inlay.batches.chunked_loss import IGNORED, causal_loss, trained_tokens
from inlay.batches.packing import packed, padded
from inlay.models.document_attention import attend_by_document

from ..shapes import LLAMA, SHAPES, disturb, method
from .texts import some_texts

TEXTS = some_texts()


def plain(batch: Batch) -> Batch:
    """The same batch, of which nothing is known beforehand."""
    return dict(batch)


def step(model: nn.Module, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    loss = causal_loss(model, batch, trained_tokens(batch))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def windowed(window: int) -> Any:
    torch.manual_seed(0)
    return transformers.MistralForCausalLM(transformers.MistralConfig(**LLAMA.to_dict() | {"sliding_window": window}))


def chunked() -> Any:
    """A model whose mask is none that attention by document knows: tokens see those of their chunk alone."""
    kinds = ["chunked_attention", "full_attention"]
    more = {"attention_chunk_size": 4, "num_local_experts": 2, "intermediate_size_mlp": 48, "layer_types": kinds}
    torch.manual_seed(0)
    return transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**LLAMA.to_dict() | more))


MODELS: dict[str, Any] = {
    "llama": lambda: SHAPES["llama"].model(),
    "gpt2": lambda: SHAPES["gpt2"].model(),
    "window": lambda: windowed(4),
    "wide window": lambda: windowed(8),
    "window of a row": lambda: windowed(16),
    "window of one": lambda: windowed(1),
    "chunks": chunked,
}


BATCHES = {
    "one row": packed(TEXTS),
    "rows": packed(TEXTS, 12),
    "one text": packed(TEXTS[2:3]),
    "a full row": packed([{key: 2 * value[:16] for key, value in TEXTS[2].items()}] * 2 + TEXTS[:1]),
    "padded": padded(TEXTS),
}


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_known_changes_no_bit(kind: str, rows: str) -> None:
    model, batch = MODELS[kind]().train(), BATCHES[rows]
    before = model.config._attn_implementation
    assert attend_by_document(model)
    found, expected = step(model, batch), step(model, plain(batch))
    model.config._attn_implementation = before
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["lora", "prefix"])
@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_what_is_known_changes_nothing_of_another_attention(name: str, way: str) -> None:
    model, batch = SHAPES["llama"].model().train(), packed(TEXTS, 12)
    disturb(inlay.attach(model, method(name, SHAPES["llama"])))
    model.set_attn_implementation(way)
    found, expected = step(model, batch), step(model, plain(batch))
    model.config._attn_implementation = "sdpa"
    assert all(map(torch.equal, found, expected))


def test_a_model_that_does_not_ask_for_the_texts_is_called_as_if_they_were_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Masking(transformers.LlamaForCausalLM):
        """One that looks for texts in the positions itself."""

        def forward(self, input_ids: Any, position_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
            if position_ids is not None and attention_mask is None:
                text_BT = (position_ids == 0).cumsum(1)
                attention_mask = (text_BT[:, None, :, None] == text_BT[:, None, None, :]).tril()
            elif attention_mask is not None:
                attention_mask = attention_mask.new_ones(1, 1, *2 * attention_mask.shape[1:], dtype=torch.bool).tril()
            return super().forward(input_ids, attention_mask, position_ids, **kwargs)

    model, batch = Masking(LLAMA), packed(TEXTS)
    assert attend_by_document(model)
    found, expected = step(model, batch), step(model, plain(batch))
    model.config._attn_implementation = "sdpa"
    assert all(map(torch.equal, found, expected))


def test_an_encoder_decoder_predicts_its_labels_where_they_are() -> None:
    model, batch = SHAPES["t5"].model().train(), padded(TEXTS)
    assert all(map(torch.equal, step(model, batch), step(model, plain(batch))))


@pytest.mark.parametrize("rows", BATCHES)
def test_rows_of_a_batch_are_known_as_well(rows: str) -> None:
    batch = BATCHES[rows]
    count = len(batch["input_ids"])
    for start in range(0, count, 2):
        part, same = rows_of(batch, start, start + 2), rows_of(plain(batch), start, start + 2)
        assert isinstance(part, Collated)
        assert part.trained is not None
        assert all(torch.equal(part[key], same[key]) for key in batch)
        assert trained_tokens(part) == trained_tokens(same)
        assert token_count(part) == token_count(same)
        target_BT = torch.nn.functional.pad(same["labels"][:, 1:], (0, 1), value=IGNORED)
        assert torch.equal(part.trained.at, (target_BT != IGNORED).flatten().nonzero().squeeze(1))
        assert part.documents == batch.documents[start : start + 2]
        assert all(sum(row) == part["input_ids"].shape[1] for row in part.documents)


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [(11, 8, [6, 5]), (16, 8, [8, 8]), (10, 4, [4, 3, 3]), (3, 8, [3]), (5, None, [5]), (16, 3, [3, 3, 3, 3, 2, 2])],
)
def test_rows_are_shared_out_evenly(rows: int, size: int | None, expected: list[int]) -> None:
    """Else a process with three rows waits for one with eight; a plan follows the first two parts, the largest."""
    batch = {"input_ids": torch.arange(rows)[:, None]}
    parts = divided(batch, size)
    assert [len(part["input_ids"]) for part in parts] == expected
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), batch["input_ids"])


def test_labels_that_are_put_in_later_are_those_that_count() -> None:
    batch = padded(TEXTS)
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    batch["labels"][0, 1] = 3
    assert trained_tokens(batch) == 1


def test_a_move_keeps_what_is_known() -> None:
    batch = packed(TEXTS)
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved, Collated)
    assert moved.trained is not None
    assert {t.device.type for t in (*moved.values(), moved.trained.at)} == {"meta"}
    assert trained_tokens(moved) == trained_tokens(batch)
    assert moved.documents == batch.documents
