"""A prefix that comes through the cache's argument: in half precision, run again for its gradients, and compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor

import inlay

from ..shapes import disturb
from .prompt_models import DECODERS, made

BY_CACHE = ("gptj", "codegen", "gpt_neo", "falcon", "bloom", "mpt")
by_cache = pytest.mark.parametrize("name", BY_CACHE)


def adapted(name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, inlay.Adapter]:
    model = made(DECODERS[name]).to(dtype)
    torch.manual_seed(0)
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=4, **settings))
    disturb(adapter)
    return model, adapter


def rows() -> dict[str, Tensor]:
    """Two rows, one of them padded on the left."""
    ids_BT = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :3] = 0
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


def of_text(logits_BTV: Tensor) -> Tensor:
    return logits_BTV[rows()["attention_mask"].bool()]


@by_cache
def test_in_bfloat16_it_is_nearly_the_same_and_its_numbers_stay_in_float32(name: str) -> None:
    exact, adapter = adapted(name)
    model, half = adapted(name, torch.bfloat16)
    half.load_state_dict(adapter.state_dict())
    expected, y = of_text(exact(**rows()).logits), of_text(model(**rows()).logits)
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    y.float().square().sum().backward()
    for p in half.parameters():
        assert p.dtype == p.grad.dtype == torch.float32
        assert p.grad.abs().max() > 0


@by_cache
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_run_again_for_their_gradients_get_the_same(name: str, projection: bool, reentrant: bool) -> None:
    model, adapter = adapted(name, projection=projection, hidden_size=8)
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    model.train()
    gradients: list[list[Tensor]] = []
    for _ in range(2):
        of_text(model(**rows()).logits).square().sum().backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
        model.zero_grad()
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(second, first, atol=1e-6, rtol=1e-5)
        assert first.abs().max() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Bloom's own function, when it is traced
@by_cache
@pytest.mark.parametrize("padded", [False, True])
def test_it_compiles_in_one_graph(name: str, padded: bool) -> None:
    torch.compiler.reset()
    model, adapter = adapted(name)
    given = rows() if padded else {"input_ids": rows()["input_ids"]}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(of_text(compiled(**given).logits), of_text(model(**given).logits), atol=1e-5, rtol=1e-5)
    adapter.detach()
    torch.testing.assert_close(of_text(compiled(**given).logits), of_text(model(**given).logits), atol=1e-5, rtol=1e-5)
