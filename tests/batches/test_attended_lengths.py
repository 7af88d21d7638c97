"""Attention text by text on a CPU in 16 bits, which keeps kernels for every length that it has seen."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from inlay.batches.chunked_loss import causal_loss
from inlay.batches.packing import packed
from inlay.models import document_attention
from inlay.models.document_attention import attend_by_document

from ..shapes import LLAMA
from .test_chunked_loss import gradients, same
from .texts import some_texts

LENGTHS = (3, 5, 9, 16, 21)


def test_short_texts_are_attended_to_in_float32_and_long_ones_in_few_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_attention, "_SHORT", 6)
    monkeypatch.setattr(document_attention, "_LENGTH_STEP", 8)
    torch.manual_seed(0)
    models = [transformers.LlamaForCausalLM(LLAMA) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].bfloat16()
    assert all(map(attend_by_document, models))
    batch = packed(some_texts(LENGTHS))
    exact = gradients(models[0], causal_loss(models[0], batch, 9))

    seen, attention = set[tuple[int, torch.dtype]](), F.scaled_dot_product_attention

    def attended(*given: torch.Tensor, **named: object) -> torch.Tensor:
        seen.add((given[0].shape[2], given[0].dtype))
        return attention(*given, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    loss = causal_loss(models[1], batch, 9)
    assert {each for each in seen if each[1] == torch.float32} >= {(3, torch.float32), (5, torch.float32)}
    assert {length for length, dtype in seen if dtype == torch.bfloat16} == {16, 24}
    same({name: g.float() for name, g in gradients(models[1], loss).items()}, exact, 0.05)
