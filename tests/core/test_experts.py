"""Which parameters are stacks of experts, how they are laid out, and what LoRA makes of them: checked in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.models.experts import Stack, expert_weights, matrices, packed
from inlay.models.sites import Sites

from ..mixtures import MIXTURES, ids, logits, mixture
from ..shapes import disturb

FLIPPED = ("gpt_oss", "llama4", "aria")
SCALE = 5 / 3


def attached(name: str, **settings: Any) -> tuple[Any, inlay.Adapter]:
    """A mixture in float64, with an adapter that has left its start."""
    model = mixture(name, torch.float64)
    model.config._experts_implementation = "eager"  # others know no float64
    settings = {"rank": 3, "alpha": 5, "targets": ("experts",)} | settings
    adapter = inlay.attach(model, inlay.LoRA(**settings))
    for delta in adapter.deltas.values():
        delta.double()
    disturb(adapter, 0.3)
    return model, adapter


def plainly(base: Any, factors: dict[str, Tensor], flipped: bool) -> Tensor:
    """The logits with each expert's matrix W + s B A written out, one after the other."""
    state: dict[str, Tensor] = dict(base.named_parameters())
    for key, a_ERI in factors.items():
        if key.endswith("lora_A"):
            name, b_EOR = key.removesuffix(".lora_A"), factors[key.removesuffix("A") + "B"]
            changes = [SCALE * b_OR @ a_RI for a_RI, b_OR in zip(a_ERI, b_EOR, strict=True)]
            changes = [change.T for change in changes] if flipped else changes
            state[name] = torch.stack([w + change for w, change in zip(state[name], changes, strict=True)])
    return functional_call(base, state, kwargs={"input_ids": ids(), "use_cache": False}).logits


@pytest.mark.parametrize("name", MIXTURES)
def test_every_expert_gets_its_own_change(name: str, tmp_path: Path) -> None:
    model, adapter = attached(name)
    base = mixture(name, torch.float64)
    base.config._experts_implementation = "eager"
    reached = {n for n, p in base.named_parameters() if p.ndim == 3 and p.shape[0] == 4}
    assert {f"{host}.{p}" for host, d in adapter.deltas.items() for p in d.folds} == reached
    assert len(reached) >= 2

    factors = {n: p.detach().clone().requires_grad_() for n, p in adapter.named_parameters()}
    out = logits(model)
    expected = plainly(base, factors, name in FLIPPED)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert (out - logits(base)).abs().max() > 0.1
    target = torch.randn_like(out)
    (out * target).sum().backward()
    gradients = torch.autograd.grad((expected * target).sum(), list(factors.values()))
    for (key, p), gradient in zip(adapter.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-10, msg=key)

    with torch.no_grad():
        adapter.merge()
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-10)
        adapter.unmerge()
        for delta in adapter.deltas.values():
            delta.float()  # as they are saved
        out = logits(model)
        adapter.save(tmp_path)
        kept = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
        adapter.detach()
        assert all(torch.equal(p, base.get_parameter(key)) for key, p in model.named_parameters())
        loaded = inlay.load(model, tmp_path)
        assert all(torch.equal(tensor, kept[key]) for key, tensor in loaded.state_dict().items())
        assert torch.equal(logits(model), out)


@pytest.mark.parametrize("name", MIXTURES)
def test_layouts(name: str) -> None:
    model = mixture(name)
    for _, module in Sites(model).modules():
        for parameter, stack in expert_weights(module).items():
            assert (stack.experts, stack.flipped) == (4, name in FLIPPED), parameter
            if parameter == "down_proj":
                assert stack.out_features == 32


class Experts(nn.Module):
    """Experts as nobody listed them."""

    def __init__(self, inner: int, flipped: bool = False, said: bool = False, count: int = 3):
        super().__init__()
        up, down = (count, inner, 8), (count, 8, inner)
        self.num_experts = count
        self.up = nn.Parameter(torch.randn(down if flipped else up))
        self.down = nn.Parameter(torch.randn(up if flipped else down))
        self.hidden_size = 8
        if said:
            self.is_transposed = flipped

    def forward(self, x_BTI: Tensor) -> Tensor:
        h = torch.einsum("bti,eji->betj" if self.up.shape[2] == 8 else "bti,eij->betj", x_BTI, self.up)
        return torch.einsum("betj,eoj->bto" if self.up.shape[2] == 8 else "betj,ejo->bto", h.relu(), self.down)


@pytest.mark.parametrize("flipped", [False, True])
def test_the_width_of_the_input_tells_the_layout_or_the_module_says_it(flipped: bool) -> None:
    assert expert_weights(Experts(6, flipped)) == {"up": Stack(3, 6, 8, flipped), "down": Stack(3, 8, 6, flipped)}
    square = expert_weights(Experts(8, flipped, said=True))
    assert square == {"up": Stack(3, 8, 8, flipped), "down": Stack(3, 8, 8, flipped)}


def test_a_square_stack_whose_layout_nobody_says_computes_the_same_either_way() -> None:
    model = nn.Sequential(Experts(8, flipped=True)).double()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, alpha=2, targets=("0",)))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    start = model(x)
    disturb(adapter)
    host: Any = model[0]
    changed = {k: p + adapter.deltas["0"].of(k).lora_B.double() @ adapter.deltas["0"].of(k).lora_A.double()
               for k, p in host._parameters.items()}  # fmt: skip
    out = model(x)
    adapter.detach()
    torch.testing.assert_close(model(x), start, rtol=0, atol=0)
    torch.testing.assert_close(functional_call(host, changed, x), out, rtol=0, atol=1e-12)


def test_what_has_three_dimensions_and_is_no_stack_of_experts() -> None:
    class Heads(nn.Module):  # as the gates of a recurrent block
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.other = (nn.Parameter(torch.randn(4, 8, 8)) for _ in range(2))

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_experts, self.table = 4, nn.Parameter(torch.randn(1, 16, 8))

    for module in (nn.Conv1d(4, 4, 3), nn.Conv1d(4, 8, 3), Heads(), Positions(), nn.Bilinear(3, 4, 5), nn.Linear(4, 4)):
        assert not expert_weights(module) | packed(module), type(module)


def test_two_tensors_that_follow_each_other_are_experts_without_a_count() -> None:
    module = Experts(6)
    del module.num_experts
    assert expert_weights(module) == {"up": Stack(3, 6, 8), "down": Stack(3, 8, 6)}


def test_a_stack_that_calls_itself_linear_is_no_linear_layer() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_experts, self.in_features, self.out_features = 3, 8, 6
            self.weight = nn.Parameter(torch.randn(3, 6, 8))

        def forward(self, x_ENI: Tensor) -> Tensor:
            return torch.bmm(x_ENI, self.weight.mT)

    model = nn.Sequential(Grouped())
    adapter = inlay.attach(model, inlay.LoRA(rank=2, alpha=2, targets=("0",)))
    disturb(adapter)
    factors = adapter.deltas["0"].of("weight")
    x_ENI = torch.randn(3, 5, 8)
    expected = torch.bmm(x_ENI, (model[0].weight + factors.lora_B @ factors.lora_A).mT)
    torch.testing.assert_close(model(x_ENI), expected, rtol=0, atol=1e-5)


def test_packed_experts_are_refused_by_name() -> None:
    model = mixture("mixtral")
    for layer in model.model.layers:
        own = layer.mlp.experts
        own.down_proj = nn.Parameter(torch.zeros(4, 32, 24, dtype=torch.uint8), requires_grad=False)
        own.gate_up_proj = nn.Parameter(own.gate_up_proj.data.to(torch.float8_e4m3fn), requires_grad=False)
    assert packed(own) == {"gate_up_proj": torch.float8_e4m3fn, "down_proj": torch.uint8}
    for target in ("experts", "mlp.experts"):
        with pytest.raises(TargetError, match=r"layers\.0\.mlp\.experts\.\w+ is torch\.\w+; load the base in 16 or 32"):
            inlay.attach(model, inlay.LoRA(targets=(target,)))
    adapter = inlay.attach(model, inlay.LoRA())
    assert not any("experts" in host for host in adapter.deltas)


def hosts(model: Any, targets: str, method: Any = inlay.LoRA) -> dict[str, tuple[str, ...]]:
    adapter = inlay.attach(model, method(targets=(targets,)))
    found = {host.removeprefix("model.layers."): getattr(delta, "folds", ()) for host, delta in adapter.deltas.items()}
    adapter.detach()
    return found


def test_experts_are_a_role_and_belong_to_others() -> None:
    model = mixture("mixtral")
    both = ("gate_up_proj", "down_proj")
    experts = {f"{n}.mlp.experts": both for n in (0, 1)}
    assert hosts(model, "experts") == hosts(model, "feedforward") == hosts(model, "mlp.experts") == experts
    attention = hosts(model, "attention")
    assert hosts(model, "all-linear") == attention | experts
    assert len(attention) == 8
    assert hosts(model, "experts.down_proj") == {f"{n}.mlp.experts": ("down_proj",) for n in (0, 1)}
    assert hosts(model, r".*gate_up_proj") == {f"{n}.mlp.experts": ("gate_up_proj",) for n in (0, 1)}
    assert hosts(model, r"model\.layers\.1\.mlp\.experts") == {"1.mlp.experts": both}
    assert hosts(model, "mlp.gate") == {f"{n}.mlp.gate": ("weight",) for n in (0, 1)}


def test_experts_within_attention_belong_to_attention() -> None:
    model = mixture("jetmoe")
    inside = {f"{n}.self_attention.experts.{part}_linear" for n in (0, 1) for part in ("input", "output")}
    assert inside <= hosts(model, "attention").keys()
    assert not inside & hosts(model, "feedforward").keys()
    assert inside < hosts(model, "experts").keys() < hosts(model, "all-linear").keys()


def test_methods_that_cannot_have_experts_leave_them_out_or_say_so() -> None:
    model = mixture("mixtral")
    for method in (inlay.DoRA, inlay.METHODS["vera"], inlay.METHODS["loha"], inlay.METHODS["oft"]):
        assert not any("experts" in host for host in hosts(model, "all-linear", method))
        for target in ("experts", "mlp.experts", "experts.down_proj", ".*down_proj"):
            with pytest.raises(TargetError, match="one parameter; this method cannot adapt them, lora can"):
                hosts(model, target, method)


def test_settings_that_experts_cannot_have_are_refused_before_anything_is_changed() -> None:
    model = mixture("mixtral")
    with pytest.raises(TargetError, match=r"dropout is 0\.1, but model\.layers\.0\.mlp\.experts"):
        inlay.attach(model, inlay.LoRA(dropout=0.1))
    with pytest.raises(TargetError, match=r"change_bias is set, but model\.layers\.0\.mlp\.experts"):
        inlay.attach(model, inlay.LoRA(change_bias=True))
    for initialization in ("pissa", "olora", "eva"):
        with pytest.raises(TargetError, match=f"initialization is {initialization}, which experts"):
            inlay.attach(model, inlay.LoRA(rank=2, initialization=initialization, targets=("experts",)))
    with pytest.raises(TargetError, match="pattern 'experts.gate_proj' fits none"):
        inlay.attach(model, inlay.LoRA(rank_pattern={"experts.gate_proj": 2}))
    with pytest.raises(SettingsError):
        inlay.LoRA(rank_pattern={"experts.gate_up_proj": 0})
    assert not inlay.adapters(model)


@pytest.mark.parametrize("initialization", ["kaiming", "gaussian", "orthogonal"])
def test_starts_are_the_base(initialization: Any) -> None:
    model = mixture("gpt_oss")
    before = logits(model)
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization=initialization, targets=("experts",)))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    for delta in adapter.deltas.values():
        a_ERI = delta.of("gate_up_proj").lora_A
        assert a_ERI.dtype == torch.float32
        assert a_ERI.shape == (4, 4, 32)
        assert all(not torch.equal(a_ERI[0], other) for other in a_ERI[1:])


def test_ranks_and_alphas_by_module_and_by_parameter() -> None:
    model = mixture("mixtral")
    method = inlay.LoRA(
        rank=4,
        alpha=8,
        rank_stabilized=True,
        targets=("experts",),
        rank_pattern={"experts.down_proj": 2, r"1\.mlp\.experts": 3},
        alpha_pattern={"0.mlp.experts": 5},
    )
    adapter = inlay.attach(model, method)
    found = {
        (host.split(".")[2], p): (d.of(p).lora_A.shape[1], d.of(p).scale)
        for host, d in adapter.deltas.items()
        for p in d.folds
    }
    assert found == {
        ("0", "gate_up_proj"): (4, 5 / 2),
        ("0", "down_proj"): (2, 5 / 2**0.5),
        ("1", "gate_up_proj"): (3, 8 / 3**0.5),
        ("1", "down_proj"): (2, 8 / 2**0.5),
    }


def test_the_second_factors_of_experts_have_their_own_learning_rate() -> None:
    adapter = inlay.attach(mixture("mixtral"), inlay.LoRA(learning_rate_ratio=16, targets=("experts",)))
    groups = adapter.method.parameter_groups(adapter, 1e-3)
    names = {id(p): name for name, p in adapter.named_parameters()}
    assert [g["lr"] for g in groups] == [1e-3, 16e-3]
    assert [{names[id(p)][-6:] for p in g["params"]} for g in groups] == [{"lora_A"}, {"lora_B"}]


def test_a_router_is_linear_in_its_weight() -> None:
    model, adapter = attached("mixtral", targets=("gate.weight",))
    router: Any = model.model.layers[0].mlp.gate
    factors = adapter.deltas["model.layers.0.mlp.gate"].of("weight")
    x_BI = torch.randn(5, 32, dtype=torch.float64)
    changed = router.weight + SCALE * factors.lora_B @ factors.lora_A
    own = router(x_BI)
    torch.testing.assert_close(own[0], F.linear(x_BI, changed), rtol=0, atol=1e-12)
    assert matrices(router) == {"weight": Stack(None, 4, 32)}
    assert not expert_weights(router)
