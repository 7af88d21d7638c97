"""IA3 against the paper's formulas, written out by hand, and on what computes keys and values in each architecture."""

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.methods.additive.keys_values import keys_values
from inlay.methods.additive.scaling import ScaleInput, ScaleOutput
from inlay.models import weights
from inlay.models.sites import Sites

from ..core.test_architectures import ARCHITECTURES, SMALL, run
from ..shapes import BERT, GPT2, LLAMA, SHAPES, T5, Shape, disturb, logits
from .test_lora_hosts import Packed


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def double(adapter: inlay.Adapter) -> None:
    for p in adapter.parameters():
        p.data = p.data.double()


# The formulas


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("at_input", [False, True])
def test_a_layer_s_output_or_input_is_multiplied(at_input: bool, bias: bool, flipped: bool) -> None:
    if flipped and not bias:
        pytest.skip("a Conv1D always has a bias")
    host = (Conv1D(5, 7) if flipped else nn.Linear(7, 5, bias=bias)).double()
    if bias:
        nn.init.normal_(host.bias)
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.IA3(targets=("0",), feedforward=("0",) if at_input else ()))
    double(adapter)
    (delta,) = adapter.deltas.values()
    assert delta.ia3_l.shape == ((1, 7) if at_input else (5, 1))
    assert torch.equal(delta.ia3_l, torch.ones_like(delta.ia3_l))
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 5, dtype=torch.float64)
    weight = (host.weight.T if flipped else host.weight).detach()
    added = host.bias.detach() if bias else 0
    for disturbed in (False, True):
        if disturbed:
            disturb(adapter, 0.5)
        l_ = delta.ia3_l.detach().flatten().clone().requires_grad_()
        expected = (x * l_) @ weight.T + added if at_input else (x @ weight.T + added) * l_
        y = model(x)
        close(y, expected)
        own = torch.autograd.grad((y * target).sum(), (x, delta.ia3_l))
        theirs = torch.autograd.grad((expected * target).sum(), (x, l_))
        close(own[0], theirs[0])
        close(own[1].flatten(), theirs[1])
        assert own[1].abs().max() > 0
    adapter.merge()
    close(model(x), expected)


def llama_by_hand(layer: Any, scales: list[Tensor]) -> None:
    """Attention with l_k and l_v at the keys and values, and a feed-forward with l_ff inside, as the paper has them."""
    l_k, l_v, l_ff = scales
    attention, feedforward = layer.self_attn, layer.mlp
    k, v = attention.k_proj.forward, attention.v_proj.forward
    attention.k_proj.forward = lambda x: l_k * k(x)
    attention.v_proj.forward = lambda x: l_v * v(x)
    feedforward.forward = lambda x: feedforward.down_proj(
        l_ff * (feedforward.act_fn(feedforward.gate_proj(x)) * feedforward.up_proj(x))
    )


def test_a_model_equals_the_paper_s_formulas_written_by_hand() -> None:
    shape = SHAPES["llama"]
    model, plain = shape.model().double(), shape.model().double()
    adapter = inlay.attach(model, inlay.IA3())
    double(adapter)
    disturb(adapter, 0.5)
    copies = {n: p.detach().flatten().clone().requires_grad_() for n, p in adapter.named_parameters()}
    for i, layer in enumerate(plain.model.layers):
        ends = ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
        llama_by_hand(layer, [copies[f"model.layers.{i}.{end}.ia3_l"] for end in ends])
    y, expected = logits(model, shape), logits(plain, shape)
    close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for n, p in adapter.named_parameters():
        close(p.grad.flatten(), copies[n].grad, 1e-8)


def test_the_start_is_the_base_bit_for_bit_and_all_vectors_learn_from_the_first_step(shape: Shape) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = shape.model(dtype).requires_grad_(False)  # attention takes another kernel when its bias is trained
        before = logits(model, shape)
        adapter = inlay.attach(model, inlay.IA3(), heads=())
        assert torch.equal(logits(model, shape), before)
        logits(model, shape).float().square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in adapter.parameters())


def test_the_count_is_the_formula(shape: Shape) -> None:
    """d_k + d_v + d_ff for each layer, with cross-attention 2 d_k + 2 d_v + d_ff; GPT-2's queries have none."""
    expected = {
        "llama": LLAMA.num_hidden_layers * (16 + 16 + LLAMA.intermediate_size),
        "gpt2": GPT2.n_layer * (32 + 32 + 4 * 32),
        "bert": BERT.num_hidden_layers * (32 + 32 + BERT.intermediate_size),
        "t5": T5.num_layers * (64 + T5.d_ff) + T5.num_decoder_layers * (2 * 64 + T5.d_ff),
    }
    adapter = inlay.attach(shape.model(), inlay.IA3(), heads=())
    assert sum(p.numel() for p in adapter.parameters()) == expected[shape.name]


def test_the_count_in_t0_3b_is_the_published_one() -> None:
    config = t.T5Config(d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        model = t.T5ForConditionalGeneration(config)
    assert sum(p.numel() for p in inlay.attach(model, inlay.IA3()).parameters()) == 540_672


def test_a_small_change_counts_in_bfloat16_where_a_rounded_factor_would_be_one() -> None:
    host = nn.Linear(64, 64, bias=False).bfloat16()
    model = nn.Sequential(host)
    adapter = inlay.attach(model, inlay.IA3(targets=("0",)))
    x = torch.randn(100, 64).bfloat16()
    before = model(x)
    with torch.no_grad():
        adapter.deltas["0"].ia3_l += 3e-3  # half of the distance from 1 to the next bfloat16 is 3.9e-3
    assert torch.equal(adapter.deltas["0"].ia3_l.bfloat16(), torch.ones(64, 1).bfloat16())
    share = ((model(x) - before).float() * before.float()).sum() / before.float().square().sum()
    assert 1e-3 < share.item() < 6e-3


def test_a_packed_layer_is_a_host() -> None:
    torch.manual_seed(0)
    packed = Packed(False, "parameter")
    width = packed.in_features
    model = nn.ModuleDict({"a": packed})
    model.forward = lambda x: model["a"](x)
    x = torch.randn(2, width)
    before = model(x)
    adapter = inlay.attach(model, inlay.IA3(targets=("a",)))
    disturb(adapter)
    close(model(x), before * adapter.deltas["a"].ia3_l.flatten(), 1e-6)


# Keys, values and the feed-forward's last layer


# The layers of each architecture that give keys and values; one for both if they follow queries in it.
LAYERS = {
    **dict.fromkeys(("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta"), ("key", "value")),
    **dict.fromkeys(("bart", "gemma2", "llama", "mbart", "opt", "qwen2", "vit"), ("k_proj", "v_proj")),
    **dict.fromkeys(("mpnet", "t5"), ("k", "v")),
    "deberta-v2": ("key_proj", "value_proj"),
    "distilbert": ("k_lin", "v_lin"),
    "gpt2": ("c_attn",),
    "phi3": ("qkv_proj",),
}


@pytest.mark.parametrize("architecture", LAYERS)
def test_values_scaled_by_zero_vanish_and_keys_scaled_by_zero_make_queries_irrelevant(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture][0]().eval().requires_grad_(False)
    sites = Sites(model)
    layers = keys_values(sites)
    ends = [n for n, m in sites.modules() if n in _attention_ends(sites, layers)]
    assert ends
    adapter = inlay.attach(model, inlay.IA3(), heads=())

    def attended() -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = [model.get_submodule(n).register_forward_pre_hook(lambda _, args: seen.append(args[0])) for n in ends]
        torch.manual_seed(1)
        run(model)
        for hook in hooks:
            hook.remove()
        return seen

    key, value = LAYERS[architecture][0], LAYERS[architecture][-1]
    fused = key == value
    state = {n: p.clone() for n, p in adapter.state_dict().items()}

    def scale(end: str, first_half: bool, factor: float) -> None:
        with torch.no_grad():
            for name, delta in adapter.deltas.items():
                if name.endswith("." + end) and isinstance(delta, ScaleOutput):
                    half = len(delta.ia3_l) // 2
                    part = delta.ia3_l if not fused else delta.ia3_l[:half] if first_half else delta.ia3_l[half:]
                    part.fill_(factor)

    assert all(x.abs().max() > 0 for x in attended())
    scale(value, False, 0)
    assert all(x.abs().max() == 0 for x in attended())
    adapter.load_state_dict(state)
    plain = attended()
    scale(key, True, 0)
    before = attended()
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, before, strict=True))
    with torch.no_grad():
        for name in sites.find(("attention",)):
            host = model.get_submodule(name)
            if name in layers and layers[name] > 0:
                rows = host.weight.T if weights.is_flipped(host) else host.weight
                rows[: layers[name]] *= 3
            elif name not in layers and name not in ends:
                host.weight.mul_(3)
    for a, b in zip(attended(), before, strict=True):
        close(a, b, 1e-5)


def _attention_ends(sites: Sites, layers: dict[str, int]) -> list[str]:
    """The output projection of every attention, cross-attention as well: the other one that is no query."""
    inside = [n for n in sites.find(("attention",)) if n not in layers]
    return [n for n in inside if n.rpartition(".")[2] in ("o", "o_proj", "out_proj", "out_lin", "dense", "c_proj")]


def test_other_decoders_have_the_layers_that_their_names_say() -> None:
    builds: dict[str, Any] = {
        "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(num_key_value_heads=2, head_dim=8, **SMALL)),
        "gemma3_text": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(num_key_value_heads=2, head_dim=8, **SMALL)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(num_key_value_heads=2, **SMALL)),
        "mt5": lambda: t.MT5ForConditionalGeneration(
            t.MT5Config(d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=50)
        ),
        "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**SMALL)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(num_key_value_heads=2, head_dim=8, **SMALL)),
        "smollm3": lambda: t.SmolLM3ForCausalLM(t.SmolLM3Config(num_key_value_heads=2, **SMALL)),
    }
    for name, build in builds.items():
        model = build()
        assert model.config.model_type == name
        adapter = inlay.attach(model, inlay.IA3())
        ends = {n.rpartition(".")[2] for n, delta in adapter.deltas.items() if isinstance(delta, ScaleOutput)}
        assert ends == ({"k", "v"} if name == "mt5" else {"k_proj", "v_proj"})
        feedforward = [n for n, delta in adapter.deltas.items() if isinstance(delta, ScaleInput)]
        assert len(feedforward) == len(Sites(model).blocks)
        assert {n.rpartition(".")[2] for n in feedforward} <= {"down_proj", "wo", "fc2"}


@pytest.mark.parametrize(
    ("name", "outputs", "inputs"),
    [
        ("llama", ["self_attn.k_proj", "self_attn.v_proj"], "layers.0.mlp.down_proj"),
        ("gpt2", ["attn.c_attn"], "h.0.mlp.c_proj"),
        ("bert", ["attention.self.key", "attention.self.value"], "layer.0.output.dense"),
        ("t5", ["SelfAttention.k", "SelfAttention.v"], "block.0.layer.1.DenseReluDense.wo"),
    ],
)
def test_the_hosts_are_the_paper_s(name: str, outputs: list[str], inputs: str) -> None:
    adapter = inlay.attach(SHAPES[name].model(), inlay.IA3(), heads=())
    first = [n for n in adapter.deltas if ".1." not in n.replace("layer.1.Dense", "") and "decoder" not in n]
    assert len(first) == len(outputs) + 1
    assert all(any(n.endswith("." + end) for n in first) for end in [*outputs, inputs])


def test_a_layer_whose_queries_keys_and_values_alternate_is_scaled_whole_as_in_peft() -> None:
    model = t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SMALL))
    adapter = inlay.attach(model, inlay.IA3())
    found = {n.rpartition(".")[2]: (type(d), tuple(d.ia3_l.shape)) for n, d in adapter.deltas.items()}
    assert found == {"query_key_value": (ScaleOutput, (96, 1)), "dense_4h_to_h": (ScaleInput, (1, 48))}


def test_queries_that_share_one_key_come_before_it() -> None:
    config = t.FalconConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=50, multi_query=True)
    adapter = inlay.attach(t.FalconForCausalLM(config), inlay.IA3())
    (fused,) = (d for d in adapter.deltas.values() if isinstance(d, ScaleOutput))
    assert (fused.start, len(fused.ia3_l)) == (32, 16)


def test_a_model_without_attention_is_refused_with_the_way_out() -> None:
    with pytest.raises(TargetError, match="has no attention whose keys and values could be told; name layers"):
        inlay.attach(t.MambaForCausalLM(t.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=50)), inlay.IA3())


def test_of_experts_only_keys_and_values_are_scaled() -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2, num_local_experts=2, **SMALL))
    adapter = inlay.attach(model, inlay.IA3())
    assert [n.rpartition(".")[2] for n in adapter.deltas] == ["k_proj", "v_proj"] * 2


# Settings


def test_a_pattern_or_an_end_chooses_what_is_scaled_at_its_input() -> None:
    for feedforward in ("down_proj", r".*\.mlp\..*"):
        adapter = inlay.attach(
            SHAPES["llama"].model(), inlay.IA3(targets=("v_proj", "mlp.down_proj"), feedforward=feedforward)
        )
        kinds = {n.rpartition(".")[2]: type(delta) for n, delta in adapter.deltas.items()}
        assert kinds == {"v_proj": ScaleOutput, "down_proj": ScaleInput}
    with pytest.raises(TargetError, match="feedforward 'up_proj' is none of the 2 modules that targets selects"):
        inlay.attach(SHAPES["llama"].model(), inlay.IA3(targets=("v_proj",), feedforward=("up_proj",)))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError, match="method.feedforward chooses among method.targets, which is empty"):
        inlay.IA3(feedforward=("wo",))
    with pytest.raises(SettingsError, match=r"method.feedforward is '\(', which is no regular expression"):
        inlay.IA3(targets=("wo",), feedforward=("(",))
    assert inlay.IA3(targets="wo") == inlay.IA3(targets=("wo",))  # type: ignore[arg-type]
