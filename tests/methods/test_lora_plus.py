"""LoRA+: the two factors have learning rates of their own."""

import pytest
import torch
from torch import nn

import inlay
from inlay.errors import SettingsError

from ..shapes import Shape, logits


def test_b_has_a_multiple_of_the_learning_rate_of_a_and_of_the_head(shape: Shape) -> None:
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.LoRA(rank=4, learning_rate_ratio=16))
    first, second = adapter.method.parameter_groups(adapter, 2e-4)
    assert (first["lr"], second["lr"]) == (2e-4, 2e-4 * 16)
    names = {id(p): name for name, p in adapter.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in second["params"]} == {"lora_B"}
    assert len(second["params"]) == sum(name.endswith("lora_B") for name in names.values())
    assert {id(p) for group in (first, second) for p in group["params"]} == names.keys()
    assert len(first["params"]) + len(second["params"]) == len(names)


def test_embeddings_and_convolutions_have_a_second_factor_too() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), nn.Conv1d(3, 4, 2))
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0", "1"), learning_rate_ratio=4))
    _, second = adapter.method.parameter_groups(adapter, 1.0)
    assert [id(p) for p in second["params"]] == [
        id(adapter.deltas["0"].lora_embedding_B),
        id(adapter.deltas["1"].lora_B),
    ]


def test_a_ratio_of_one_is_plain_lora() -> None:
    adapter = inlay.attach(nn.Sequential(nn.Linear(4, 4)), inlay.LoRA(rank=2))
    (group,) = adapter.method.parameter_groups(adapter, 1e-3)
    assert group["lr"] == 1e-3
    assert [id(p) for p in group["params"]] == [id(p) for p in adapter.parameters()]


def test_a_step_of_adam_moves_b_by_the_ratio_times_the_step_of_a(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=4, learning_rate_ratio=8, initialization="orthogonal"), heads=())
    start = {n: p.detach().clone() for n, p in adapter.named_parameters()}
    optimizer = torch.optim.AdamW(adapter.method.parameter_groups(adapter, 1e-4), weight_decay=0, eps=1e-30)
    logits(model, shape).square().sum().backward()
    optimizer.step()
    for name, p in adapter.named_parameters():
        step = (p - start[name]).abs()[p.grad != 0]
        expected = 8e-4 if name.endswith("lora_B") else 1e-4  # Adam's first step is the sign of the gradient
        torch.testing.assert_close(step, torch.full_like(step, expected), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_a_ratio_that_cannot_be_is_refused(ratio: float) -> None:
    with pytest.raises(SettingsError, match=f"method.learning_rate_ratio is {ratio}; it must be above 0"):
        inlay.LoRA(learning_rate_ratio=ratio)
