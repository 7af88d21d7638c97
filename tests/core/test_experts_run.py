"""Changed experts in a running model: its implementations, dtypes, checkpointing, compilation, two at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import inlay

from ..mixtures import ids, logits, mixture
from ..shapes import disturb
from .test_experts import attached


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_every_implementation_of_experts_runs_the_changed_ones(name: str) -> None:
    model = mixture(name)
    adapter = inlay.attach(model, inlay.LoRA(rank=3, targets=("experts",)))
    disturb(adapter, 0.3)
    found = {}
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        model.config._experts_implementation = implementation
        model.zero_grad()
        out = logits(model)
        out.square().mean().backward()
        found[implementation] = [out.detach(), *(p.grad.clone() for p in adapter.parameters())]
        with inlay.using(model):
            assert (logits(model) - out).abs().max() > 0.1
    for other in ("batched_mm", "grouped_mm"):
        for a, b in zip(found["eager"], found[other], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_checkpointed_step_is_the_same_step() -> None:
    model = mixture("mixtral")
    adapter = inlay.attach(model, inlay.LoRA(rank=3))
    disturb(adapter)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train().zero_grad()
        logits(model).square().mean().backward()
        found.append([p.grad.clone() for p in adapter.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_base_in_16_bits_stays_so_and_the_factors_do_not() -> None:
    model = mixture("mixtral", torch.bfloat16)
    adapter = inlay.attach(model, inlay.LoRA(rank=3, targets=("experts",)))
    disturb(adapter, 0.3)
    host, delta = model.model.layers[0].mlp.experts, adapter.deltas["model.layers.0.mlp.experts"]
    own = host.down_proj.detach()
    exact = own.double() + 32 / 3 * delta.of("down_proj").lora_B.double() @ delta.of("down_proj").lora_A.double()
    changed = delta.fold({"down_proj": own})["down_proj"]
    assert changed.dtype == torch.bfloat16
    torch.testing.assert_close(changed.double(), exact, rtol=2**-8, atol=0.05)
    logits(model).float().square().mean().backward()
    assert {p.dtype for p in adapter.parameters()} == {p.grad.dtype for p in adapter.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_autocast_does_not_round_the_experts_themselves() -> None:
    model = mixture("mixtral")
    inlay.attach(model, inlay.LoRA(rank=3, targets=("experts",)))
    seen = []
    host = model.model.layers[0].mlp.experts
    host.register_forward_pre_hook(lambda module, _: seen.append(module.__dict__["down_proj"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits(model)
    assert torch.equal(seen[0], host._parameters["down_proj"])


def test_a_call_makes_one_new_tensor_of_a_stack_and_leaves_none_behind() -> None:
    model = mixture("mixtral", torch.bfloat16)
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("experts",)))
    delta, host = adapter.deltas["model.layers.0.mlp.experts"], model.model.layers[0].mlp.experts
    own = host.down_proj.detach()
    made: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(t, Tensor) and t.numel() >= own.numel() and t.data_ptr() != own.data_ptr():
                    made.append(t.numel())
            return result

    with torch.no_grad(), Watch():
        delta.fold({"down_proj": own})
    assert made == [own.numel()]
    logits(model)
    assert not {"down_proj", "gate_up_proj"} & host.__dict__.keys()


def test_two_adapters_at_once_add_up() -> None:
    model, first = attached("mixtral")
    second = inlay.attach(model, inlay.LoRA(rank=2, targets=("experts.down_proj",)), name="second")
    for delta in second.deltas.values():
        delta.double()
    disturb(second, 0.2)
    base = mixture("mixtral", torch.float64)
    base.config._experts_implementation = "eager"
    state: dict[str, Tensor] = dict(base.named_parameters())
    for adapter in (first, second):
        for host, _module, delta in adapter.hosts():
            for p, folded in delta.fold({p: state[f"{host}.{p}"] for p in delta.folds}).items():
                state[f"{host}.{p}"] = folded
    expected = functional_call(base, state, kwargs={"input_ids": ids(), "use_cache": False}).logits
    with inlay.using(model, "default", "second"):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_compiled_whole(name: str) -> None:
    model = mixture(name)
    adapter = inlay.attach(model, inlay.LoRA(rank=3))
    disturb(adapter)
    for implementation in ("batched_mm", "grouped_mm"):
        model.config._experts_implementation = implementation
        torch.testing.assert_close(
            torch.compile(logits_of(model), fullgraph=True, backend="aot_eager")(ids()),
            logits(model),
            rtol=1e-4,
            atol=1e-4,
        )


def logits_of(model: Any) -> Any:
    return lambda ids_BT: model(input_ids=ids_BT, use_cache=False).logits
