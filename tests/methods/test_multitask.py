"""Multitask prompt tuning against its formula and against prompt tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inlay
from inlay.errors import SettingsError
from inlay.methods.prompts.task_prompt import TaskPrompt

from ..shapes import ROWS, SHAPES, Shape, disturb, logits

P, K = 5, 3
ranks = pytest.mark.parametrize("rank", [1, 2])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def attached(model: Any, **settings: Any) -> tuple[Any, Any, TaskPrompt]:
    """The model with disturbed parts in its own dtype, the adapter, and its prompt."""
    adapter = inlay.attach(model, inlay.MultitaskPrompt(**({"tokens": P, "tasks": K} | settings)))
    disturb(adapter, 0.5)
    for p in adapter.parameters():
        p.data = p.data.to(model.dtype)
    (prompt,) = (d for d in adapter.deltas.values() if isinstance(d, TaskPrompt))
    return model, adapter, prompt


def written_out(prompt: TaskPrompt, task: int) -> tuple[Tensor, list[Tensor]]:
    """The task's (P, D) prompt, and copies of the parameters that it is computed from."""
    p_PD, u_KPR, v_KRD = parameters = [p.detach().clone().requires_grad_() for p in prompt.parameters()]
    product_PD = sum(u_KPR[task, :, r, None] * v_KRD[task, r] for r in range(u_KPR.shape[2]))
    return p_PD * product_PD, parameters


@ranks
def test_it_is_prompt_tuning_with_the_product_and_so_are_the_gradients(shape: Shape, rank: int) -> None:
    model, adapter, prompt = attached(shape.model().double(), task=1, rank=rank)
    expected_PD, parameters = written_out(prompt, 1)
    close(prompt.prompt(), expected_PD)
    y = logits(model, shape)
    ours = torch.autograd.grad(y.square().sum(), list(prompt.parameters()))

    plain = shape.model().double()
    other = inlay.attach(plain, inlay.PromptTuning(tokens=P))
    heads = {name: p for name, p in adapter.named_parameters() if "prompt" not in name and "prefix" not in name}
    for name, p in other.named_parameters():
        p.data = (heads[name] if name in heads else expected_PD).detach()
    learned = next(iter(other.deltas.values())).prompt_embeddings
    z = logits(plain, shape)
    close(y, z)
    (gradient_PD,) = torch.autograd.grad(z.square().sum(), learned)
    for a, b in zip(ours, torch.autograd.grad(expected_PD, parameters, gradient_PD), strict=True):
        close(a, b)
    for gradient_K in ours[1:]:
        assert [bool(g.abs().sum() > 0) for g in gradient_K] == [False, True, False]


@ranks
def test_every_task_starts_from_the_shared_prompt_of_vocabulary_tokens(shape: Shape, rank: int) -> None:
    """PEFT starts with products near 4e-4, and so with prompts near zero."""
    model = shape.model()
    adapter = inlay.attach(model, inlay.MultitaskPrompt(tokens=P, tasks=K, rank=rank))
    prompt = next(iter(adapter.deltas.values()))
    table = model.get_input_embeddings().weight
    for prompt.task in range(K):
        assert torch.equal(prompt.prompt(), prompt.prompt_embeddings)
    assert all((table == row).all(dim=1).any() for row in prompt.prompt_embeddings)
    prompt.task = 0
    logits(model, shape).square().mean().backward()
    assert prompt.prefix_task_cols.grad[0, :, 0].abs().min() > 0
    assert prompt.prefix_task_rows.grad[0].abs().sum(dim=1).min() > 0  # of every rank, so that they part
    if rank == 2:
        assert not torch.allclose(*prompt.prefix_task_rows.grad[0], rtol=0.1)


@ranks
def test_the_counts_are_those_of_the_formula(rank: int) -> None:
    method = inlay.MultitaskPrompt(tokens=P, tasks=K, rank=rank)
    adapter = inlay.attach(SHAPES["llama"].model(), method)
    assert sum(p.numel() for p in adapter.parameters()) == P * 32 + K * rank * (P + 32)
    assert method.virtual_tokens == P


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_rows_of_one_batch_can_be_of_their_own_tasks(name: str) -> None:
    shape = SHAPES[name]
    model, _, prompt = attached(shape.model().double())
    alone = []
    for prompt.task in range(K):
        alone.append(logits(model, shape))
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    prompt.task = torch.tensor([2, 0, 0, 1])
    y = logits(model, shape)
    close(y, torch.stack([alone[2][0], alone[0][1], alone[0][2], alone[1][3]]))
    y.square().sum().backward()
    assert all(g.abs().sum() > 0 for g in prompt.prefix_task_cols.grad)
    assert len(y) == ROWS


def test_the_task_is_kept_in_the_file(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model, adapter, _ = attached(shape.model(), task=2, rank=2)
    adapter.save(tmp_path)
    again = shape.model()
    assert inlay.load(again, tmp_path).method == adapter.method
    assert torch.equal(logits(again, shape), logits(model, shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "method.tokens is 0; it must be at least 1"),
        ({"tasks": 0}, "method.tasks is 0; it must be at least 1"),
        ({"rank": 0}, "method.rank is 0; it must be at least 1"),
        ({"tasks": 3, "task": 3}, "method.task is 3; with 3 tasks it must be 0 to 2"),
        ({"task": -1}, "method.task is -1; it must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.MultitaskPrompt(**settings)
