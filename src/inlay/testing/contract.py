"""The contract that every method keeps, as checks of a method on a small model. A check raises AssertionError."""

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..attached.adapter import Adapter, adapters, attach
from ..core.active import using
from ..core.delta import WeightDelta
from ..core.method import Method
from ..errors import AdapterStateError
from ..formats.peft_config import read_config
from ..formats.peft_format import format_of
from ..methods import METHODS
from ..methods.loading import load
from ..models import weights
from .assertions import close, raises
from .several_adapters import (
    an_exception_inside_the_model_leaves_nothing_behind,
    named_adapters_and_the_base_switch,
    rows_of_a_batch_can_have_their_own_adapters,
    two_adapters_at_once_both_count,
)
from .shapes import Shape, attached, disturb, logits


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def is_weight_method(adapter: Adapter) -> bool:
    """Tell whether the adapter changes weights and nothing else."""
    return all(isinstance(delta, WeightDelta) for delta in adapter.deltas.values())


def keeps_the_base_and_starts_as_the_base(method: Method, shape: Shape) -> None:
    model = shape.model()
    base = {n: p.clone() for n, p in model.named_parameters()}
    with torch.no_grad():  # with gradients attention takes another kernel for a frozen bias, which rounds otherwise
        before = logits(model, shape)
    adapter = attach(model, method)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in base.items())
    with torch.no_grad():
        now = logits(model, shape)
    if adapter.method.virtual_tokens == 0:
        close(now, before, 5e-6)
    else:
        assert now.shape == before.shape


def trains_only_itself_and_all_of_itself(method: Method, shape: Shape) -> None:
    model = shape.model().train()
    adapter = attached(model, method)
    trained = {id(p) for p in adapter.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    logits(model, shape).square().sum().backward()
    for n, p in model.named_parameters():
        assert (p.grad is not None) == (id(p) in trained), n
        # a key's bias moves every score of a row alike, which softmax does not see
        if p.grad is not None and not n.endswith(
            ("key.bias", "k.adapters.default.bias", "k_proj.adapters.default.bias")
        ):
            assert p.grad.abs().sum() > 0 or "key.adapters" in n, n


def detach_restores_the_model(method: Method, shape: Shape) -> None:
    model = shape.model()
    next(model.parameters()).requires_grad_(False)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    before, keys = logits(model, shape), list(model.state_dict())
    adapter = attached(model, method)
    assert not torch.allclose(logits(model, shape), before, atol=1e-3)
    if not adapter.removable:
        with raises(AdapterStateError, match="trained the base model itself"):
            adapter.detach()
        return
    adapter.detach()
    assert torch.equal(logits(model, shape), before)
    assert list(model.state_dict()) == keys
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert not adapters(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def merge_equals_forward_and_unmerge_is_exact(method: Method, shape: Shape) -> None:
    model = shape.model()
    adapter = attached(model, method)
    adapted = logits(model, shape)
    base = {n: p.clone() for n, p in model.named_parameters()}
    try:
        adapter.merge()
    except AdapterStateError:
        adds_biases = getattr(adapter.method, "add_missing", False)
        assert not is_weight_method(adapter) or adds_biases
        assert all(torch.equal(base[n], p) for n, p in model.named_parameters())
        close(logits(model, shape), adapted, 0)
        return
    assert any(not torch.equal(base[n], p) for n, p in model.named_parameters())
    close(logits(model, shape), adapted)
    with raises(AdapterStateError, match="is merged"), using(model):
        pass
    adapter.unmerge()
    assert all(torch.equal(base[n], p) for n, p in model.named_parameters())


def output_and_gradients_equal_those_of_the_folded_weights_in_float64(method: Method, shape: Shape) -> None:
    model = shape.model().double()
    adapter = attached(model, method)
    if not is_weight_method(adapter):
        return  # not a change of weights; its own tests compare it with a plain formula
    for p in adapter.parameters():
        p.data = p.data.double()
    y = logits(model, shape)
    y.square().mean().backward()
    gradients = {n: _gradient(p) for n, p in adapter.named_parameters()}
    model.zero_grad()

    folded = {}
    for host_name, host, delta in adapter.hosts():
        assert isinstance(delta, WeightDelta)
        for part, p in delta.fold(weights.read(host, delta.folds)).items():
            if part in host._parameters and host._parameters[part] is not None:
                folded[f"{host_name}.{part}"] = p.T if part == "weight" and weights.is_flipped(host) else p
            elif part == "bias":
                return  # adds a bias that the plain model has no place for
    with using(model):
        plain = functional_call(model, folded, (), shape.inputs()).logits
    plain.square().mean().backward()
    close(y, plain, 1e-10)
    for n, p in adapter.named_parameters():
        close(gradients[n], _gradient(p), 1e-10)


def updates_survive_a_bfloat16_base(method: Method, shape: Shape) -> None:
    model = shape.model(torch.bfloat16)
    adapter = attached(model, method, scale=0.05)
    ours = {id(p) for p in adapter.parameters()}
    base = {n: p.clone() for n, p in model.named_parameters() if id(p) not in ours}
    start = {n: p.clone() for n, p in adapter.named_parameters()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-5, weight_decay=0)
    logits(model, shape).float().square().mean().backward()
    gradients = {n: _gradient(p).clone() for n, p in adapter.named_parameters()}
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        logits(model, shape).float().square().mean().backward()
    for n, p in adapter.named_parameters():
        assert p.dtype == gradients[n].dtype == torch.float32
        assert (p != start[n])[gradients[n].abs() > 1e-6].all(), n
    assert any((g.abs() > 1e-6).any() for g in gradients.values())
    after = dict(model.named_parameters())
    assert all(p.dtype == torch.bfloat16 and torch.equal(after[n], p) for n, p in base.items())


def a_bfloat16_base_gives_nearly_the_same_output(method: Method, shape: Shape) -> None:
    exact, rounded = shape.model(), shape.model(torch.bfloat16)
    attached(exact, method)
    torch.manual_seed(0)
    adapter = attached(rounded, method)
    adapter.load_state_dict(adapters(exact)["default"].state_dict())
    y = logits(rounded, shape)
    assert y.dtype == torch.bfloat16 or adapter.heads  # a head in float32 computes in the activations' dtype too
    expected = logits(exact, shape)
    assert (y.float() - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()


def gradient_checkpointing_gives_the_same_gradients(method: Method, shape: Shape) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = shape.model().train()
        torch.manual_seed(0)
        adapter = attached(model, method)
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        logits(model, shape, use_cache=False).square().mean().backward()
        gradients.append([p.grad for p in adapter.parameters()])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-6)


def attach_and_detach_after_compile_take_effect_in_one_graph(method: Method, shape: Shape) -> None:
    torch.compiler.reset()
    model = shape.model().requires_grad_(False)  # else freezing it would force the recompilation under test
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        before = logits(compiled, shape, use_cache=False)
        adapter = attached(model, method)
        attached_logits = logits(compiled, shape, use_cache=False)
        close(attached_logits, logits(model, shape, use_cache=False))
        assert not torch.allclose(attached_logits, before, atol=1e-3)
        if adapter.removable:
            adapter.detach()
            close(logits(compiled, shape, use_cache=False), before, 1e-6)


def awkward_adapter_names_change_nothing(method: Method, shape: Shape) -> None:
    plain = shape.model()
    state = attached(plain, method).state_dict()
    expected = logits(plain, shape)
    for adapter_name in ("layers", "weight", "keys", "adapters", "a-b", "0"):
        model = shape.model()
        attached(model, method, adapter_name, 0.2).load_state_dict(state)
        assert torch.equal(logits(model, shape), expected), adapter_name


def saved_and_loaded_it_gives_the_same_output(method: Method, shape: Shape) -> None:
    for build in (shape.model, shape.classifier):
        with TemporaryDirectory() as temporary:
            _saved_and_loaded(method, shape, build, Path(temporary))


def _saved_and_loaded(method: Method, shape: Shape, build: Callable[[], nn.Module], folder: Path) -> None:
    model, again = build(), build()
    adapter = attached(model, method)
    drawn = torch.get_rng_state()
    adapter.save(folder)
    assert torch.equal(torch.get_rng_state(), drawn)  # a run that goes on from here draws the same
    loaded = load(again, folder)
    assert torch.equal(logits(again, shape), logits(model, shape))
    if type(loaded.method) is type(adapter.method):  # else it is saved as the simpler method that it has become
        assert list(loaded.state_dict()) == list(adapter.state_dict())
    config = read_config(folder)
    assert sum(format_of(cls).reads(config) for cls in METHODS.values()) == 1
    loaded.save(folder / "again")
    assert (folder / "again" / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()


def deepcopy_is_independent(method: Method, shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    base = logits(model, shape)
    adapter = attached(model, method)
    y = logits(model, shape)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, shape), y)
    disturb(adapter)
    assert torch.equal(logits(twin, shape), y)
    if adapter.removable:
        adapters(twin)["default"].detach()
        assert torch.equal(logits(twin, shape), base)
        assert not torch.equal(logits(model, shape), base)


def a_model_without_values_tells_the_same_count(method: Method, shape: Shape) -> None:
    with torch.device("meta"):
        empty = shape.model_class(shape.config)
    planned = attach(empty, method)
    real = attach(shape.model(), method)
    assert [(n, p.shape) for n, p in planned.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]


def generation_is_the_same_with_padding_and_without_a_cache(method: Method, shape: Shape) -> None:
    if not shape.generates:
        return  # does not generate
    model: Any = shape.model()
    attached(model, method)
    ids_BT = shape.inputs()["input_ids"][:1]
    settings: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

    def generate(padding: int, use_cache: bool) -> list[int]:
        padded = torch.cat([torch.zeros(1, padding, dtype=torch.long), ids_BT], dim=1)
        mask = torch.cat([torch.zeros(1, padding, dtype=torch.long), torch.ones_like(ids_BT)], dim=1)
        return model.generate(input_ids=padded, attention_mask=mask, use_cache=use_cache, **settings)[0, -5:].tolist()

    plain = generate(0, True)
    assert generate(0, False) == plain
    if shape.name != "t5":  # its relative positions are counted from the left edge only by distance: padding is masked
        assert generate(3, True) == plain


CHECKS: tuple[Callable[[Method, Shape], None], ...] = (
    keeps_the_base_and_starts_as_the_base,
    trains_only_itself_and_all_of_itself,
    detach_restores_the_model,
    merge_equals_forward_and_unmerge_is_exact,
    output_and_gradients_equal_those_of_the_folded_weights_in_float64,
    updates_survive_a_bfloat16_base,
    a_bfloat16_base_gives_nearly_the_same_output,
    gradient_checkpointing_gives_the_same_gradients,
    attach_and_detach_after_compile_take_effect_in_one_graph,
    named_adapters_and_the_base_switch,
    rows_of_a_batch_can_have_their_own_adapters,
    an_exception_inside_the_model_leaves_nothing_behind,
    awkward_adapter_names_change_nothing,
    saved_and_loaded_it_gives_the_same_output,
    deepcopy_is_independent,
    a_model_without_values_tells_the_same_count,
    two_adapters_at_once_both_count,
    generation_is_the_same_with_padding_and_without_a_cache,
)
