"""Norm tuning trains the weight and bias of every normalization, in float32 whatever the base's dtype."""

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import inlay
from inlay.errors import TargetError
from inlay.models.modules import is_norm
from inlay.models.sites import Sites

from ..core.test_architectures import SMALL
from ..shapes import BERT, GPT2, LLAMA, SHAPES, T5, Shape, disturb, logits


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_it_trains_every_parameter_of_a_norm_and_nothing_else(shape: Shape) -> None:
    model = shape.model()
    names = [n for n, _ in model.named_parameters()]
    adapter = inlay.attach(model, inlay.NormTuning(), heads=())
    assert [n for n, _ in adapter.named_parameters()] == [n for n in names if "norm" in n.lower() or ".ln_" in n]


def test_the_count_is_the_formula(shape: Shape) -> None:
    """d for an RMSNorm, 2d for a LayerNorm; two in a block, three in T5's decoder; and one at the end, BERT's first."""
    expected = {
        "llama": 2 * LLAMA.num_hidden_layers * 32 + 32,
        "gpt2": 2 * (2 * GPT2.num_hidden_layers * 32 + 32),
        "bert": 2 * (2 * BERT.num_hidden_layers * 32 + 32),
        "t5": (2 * T5.num_layers + 1 + 3 * T5.num_decoder_layers + 1) * 32,
    }
    adapter = inlay.attach(shape.model(), inlay.NormTuning(), heads=())
    assert sum(p.numel() for p in adapter.parameters()) == expected[shape.name]


def test_the_count_in_bert_base_is_known() -> None:
    with torch.device("meta"):
        model = t.BertModel(t.BertConfig())
    adapter = inlay.attach(model, inlay.NormTuning())
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 768 * (2 * 12 + 1)


def test_it_equals_a_copy_of_the_model_whose_own_norms_were_changed(shape: Shape) -> None:
    model, copy = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.NormTuning(), heads=())
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.double()
    state = adapter.state_dict()
    theirs = dict(copy.named_parameters())
    with torch.no_grad():
        for n, tensor in state.items():
            theirs[n].copy_(tensor)
    close(logits(model, shape), logits(copy, shape))
    for each in (model, copy):
        logits(each, shape).square().mean().backward()
    for n, p in adapter.named_parameters():
        close(p.grad, theirs[n].grad)
        assert p.grad.abs().max() > 0


def test_every_norm_has_a_gradient_at_the_first_step_and_starts_as_the_base_s_own(shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    own = {n: p.clone() for n, p in model.named_parameters()}
    adapter = inlay.attach(model, inlay.NormTuning(), heads=())
    assert torch.equal(logits(model, shape), before)
    assert all(torch.equal(p, own[n]) for n, p in adapter.named_parameters())
    logits(model, shape).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())


def test_merging_writes_the_weights_bit_for_bit(shape: Shape) -> None:
    model = shape.model()
    adapter = inlay.attach(model, inlay.NormTuning(), heads=())
    disturb(adapter)
    y = logits(model, shape)
    adapter.merge()
    assert torch.equal(logits(model, shape), y)
    merged = dict(model.named_parameters())
    assert all(torch.equal(merged[n], tensor) for n, tensor in adapter.state_dict().items())


def test_a_bfloat16_base_is_trained(shape: Shape) -> None:
    """PEFT bug 0: a hundred steps of 1e-4 change nothing in bfloat16; see tests/formats/test_peft_norm.py."""
    model = shape.model(torch.bfloat16)
    with torch.no_grad():
        for m in model.modules():
            if is_norm(m):
                m.weight.fill_(1)
    adapter = inlay.attach(model, inlay.NormTuning(), heads=())
    before = logits(model, shape)
    start = {n: p.clone() for n, p in adapter.named_parameters()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4, weight_decay=0)
    for _ in range(100):
        logits(model, shape).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = torch.cat([(p != start[n]).flatten() for n, p in adapter.named_parameters()])
    assert moved.float().mean() > 0.99
    assert not torch.equal(logits(model, shape), before)
    assert {m.weight.dtype for m in model.modules() if is_norm(m)} == {torch.bfloat16}


# Which modules are norms


class ScaleNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))


class HeadNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fn = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LayerNorm(3), True),
        (nn.LayerNorm((2, 3)), True),
        (nn.LayerNorm(3, elementwise_affine=False), False),
        (nn.RMSNorm(3), True),
        (nn.GroupNorm(1, 3), True),
        (ScaleNorm(), True),
        (HeadNorm(), False),
        (PreNorm(), False),
        (nn.BatchNorm1d(3), True),
        (nn.BatchNorm1d(3, affine=False), False),
        (nn.Linear(3, 3), False),
        (nn.PReLU(), False),
    ],
)
def test_a_norm_is_known_by_its_kind_and_its_parameters(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) == expected


CONFIGS: dict[str, tuple[Any, int]] = {
    "roberta": (lambda: t.RobertaModel(t.RobertaConfig(**SMALL)), 1 + 2 * 2),
    "gemma2": (lambda: t.Gemma2ForCausalLM(t.Gemma2Config(num_key_value_heads=2, head_dim=8, **SMALL)), 1 + 4 * 2),
    "qwen3": (lambda: t.Qwen3ForCausalLM(t.Qwen3Config(num_key_value_heads=2, head_dim=8, **SMALL)), 1 + 4 * 2),
    "opt": (lambda: t.OPTForCausalLM(t.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **SMALL)), 1 + 2 * 2),
    "mixtral": (
        lambda: t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2, num_local_experts=2, **SMALL)),
        1 + 2 * 2,
    ),
}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_norms_of_other_architectures_are_found(architecture: str) -> None:
    build, count = CONFIGS[architecture]
    torch.manual_seed(0)
    model = build().eval()
    ids_BT = torch.randint(3, 50, (2, 5))
    before = model(ids_BT)[0]
    adapter = inlay.attach(model, inlay.NormTuning())
    assert len(adapter.deltas) == count
    assert torch.equal(model(ids_BT)[0], before)
    for p in adapter.parameters():  # gemma's weight is a difference from 1: what is trained is the parameter itself
        p.data += 0.1
    assert not torch.allclose(model(ids_BT)[0], before, atol=1e-3)
    model(ids_BT)[0].square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())


def test_some_norms_can_be_chosen() -> None:
    adapter = inlay.attach(SHAPES["llama"].model(), inlay.NormTuning(targets=("input_layernorm", r"model\.norm")))
    assert list(adapter.deltas) == ["model.layers.0.input_layernorm", "model.layers.1.input_layernorm", "model.norm"]
    assert inlay.NormTuning(targets="norm") == inlay.NormTuning(targets=("norm",))  # type: ignore[arg-type]


def test_a_head_s_own_norm_is_left_to_the_head() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(32)

    model = SHAPES["bert"].classifier()
    model.classifier = nn.Sequential(Head(), nn.Linear(32, 3))
    assert not [n for n in Sites(model).find(("norms",), hosts=is_norm) if n.startswith("classifier")]


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(TargetError, match="target 'q_proj' matches only Linear, which this method cannot adapt"):
        inlay.attach(SHAPES["llama"].model(), inlay.NormTuning(targets=("q_proj",)))
    with pytest.raises(TargetError, match="targets 'norms' match no module of Sequential; it has none"):
        inlay.attach(nn.Sequential(nn.Linear(3, 3)), inlay.NormTuning())
    with pytest.raises(TargetError, match="targets 'norms' match no module of LlamaForCausalLM; it has embed_tokens"):
        inlay.attach(SHAPES["llama"].model(), inlay.LoRA(targets=("norms",)))
