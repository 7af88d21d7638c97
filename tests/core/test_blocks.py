"""Blocks, their parts and their ends, on models that mix tokens in other ways than by attention alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import inlay
from inlay.errors import TargetError
from inlay.methods.additive.bottleneck import Bottleneck
from inlay.models.block_end import UNKNOWN, final_norm
from inlay.models.sites import Sites

from .test_architectures import HALVES, SMALL

TEXT: dict[str, Any] = {k: v for k, v in SMALL.items() if k != "max_position_embeddings"}
FOUR = TEXT | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}

# Blocks, and of these: with attention, with another mixer, with a feed-forward.
Counts = tuple[int, int, int, int]
HYBRIDS: dict[str, tuple[Callable[[], nn.Module], Counts]] = {
    "lfm2": (
        lambda: t.Lfm2ForCausalLM(
            t.Lfm2Config(**FOUR, layer_types=["conv", "conv", "conv", "full_attention"], block_auto_adjust_ff_dim=False)
        ),
        (4, 1, 3, 4),
    ),
    "qwen3_5": (lambda: t.Qwen3_5ForCausalLM(t.Qwen3_5TextConfig(**FOUR, **DELTA_NET)), (4, 1, 3, 4)),
    "qwen3_next": (lambda: t.Qwen3NextForCausalLM(t.Qwen3NextConfig(**FOUR, **DELTA_NET, **EXPERTS)), (4, 1, 3, 4)),
    "recurrent_gemma": (
        lambda: t.RecurrentGemmaForCausalLM(t.RecurrentGemmaConfig(**FOUR, lru_width=32)),
        (4, 1, 3, 4),
    ),
    "jamba": (
        lambda: t.JambaForCausalLM(
            t.JambaConfig(
                **TEXT | {"num_hidden_layers": 4},
                num_key_value_heads=2,
                num_experts=2,
                attn_layer_period=2,
                attn_layer_offset=1,
                expert_layer_period=2,
                use_mamba_kernels=False,
                mamba_d_state=4,
            )
        ),
        (4, 2, 2, 4),
    ),
    "falcon_h1": (lambda: t.FalconH1ForCausalLM(t.FalconH1Config(**FOUR, **MAMBA, mamba_d_ssm=64)), (4, 4, 4, 4)),
    "bamba": (
        lambda: t.BambaForCausalLM(
            t.BambaConfig(**TEXT | {"num_hidden_layers": 4}, num_key_value_heads=2, attn_layer_indices=[1], **MAMBA)
        ),
        (4, 1, 3, 4),
    ),
    "mamba": (
        lambda: t.MambaForCausalLM(t.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50)),
        (2, 0, 2, 0),
    ),
    "rwkv": (
        lambda: t.RwkvForCausalLM(t.RwkvConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50, context_length=16)),
        (2, 2, 0, 2),
    ),
    "wav2vec2": (
        lambda: t.Wav2Vec2Model(
            t.Wav2Vec2Config(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                conv_dim=(16, 16),
                conv_stride=(5, 4),
                conv_kernel=(10, 8),
                num_conv_pos_embedding_groups=4,
                vocab_size=40,
            )
        ),
        (2, 2, 0, 2),
    ),
    "swin": (
        lambda: t.SwinModel(
            t.SwinConfig(embed_dim=8, depths=[2, 2], num_heads=[2, 2], image_size=32, patch_size=2, window_size=4)
        ),
        (4, 4, 0, 4),
    ),
    "segformer": (
        lambda: t.SegformerModel(
            t.SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2])
        ),
        (4, 4, 0, 4),
    ),
}

every_hybrid = pytest.mark.parametrize("name", HYBRIDS)


def hybrid(name: str) -> nn.Module:
    torch.manual_seed(0)
    return HYBRIDS[name][0]().eval()


@every_hybrid
def test_blocks_are_the_layers_whether_they_attend_or_not(name: str) -> None:
    sites = Sites(hybrid(name))
    parts = list(sites.parts.values())
    found = (
        len(parts),
        sum(bool(p.attention) for p in parts),
        sum(bool(p.mixers) for p in parts),
        sum(bool(p.feedforwards) for p in parts),
    )
    assert found == HYBRIDS[name][1]


@every_hybrid
def test_the_roles_share_out_the_linear_layers(name: str) -> None:
    sites = Sites(hybrid(name))
    shared = [n for role in ("attention", "mixer", "feedforward") for n in sites._role(role)]
    assert len(shared) == len(set(shared))
    assert set(sites.find(("all-linear",))) & {n for n in shared if sites.place(n).block} == {
        n for n in set(shared) & set(sites.find(("all-linear",)))
    }
    for role in ("attention", "mixer", "feedforward"):
        assert all(sites.place(n).role == role for n in sites._role(role))


@every_hybrid
def test_every_sub_layer_has_its_bottleneck(name: str) -> None:
    model = hybrid(name)
    blocks, attending, mixing, feeding = HYBRIDS[name][1]
    adapter = inlay.attach(model, inlay.Houlsby(size=4))
    found = [n for n, d in adapter.deltas.items() if isinstance(d, Bottleneck)]
    assert len(found) == max(attending, mixing, min(blocks, attending + mixing)) + feeding
    adapter.detach()
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4))
    assert len([d for d in adapter.deltas.values() if isinstance(d, Bottleneck)]) == blocks
    adapter.detach()
    if not feeding:
        with pytest.raises(TargetError, match="no feed-forward that an adapter could stand beside"):
            inlay.attach(model, inlay.Parallel())
    else:
        adapter = inlay.attach(model, inlay.Parallel())
        assert len([d for d in adapter.deltas.values() if isinstance(d, Bottleneck)]) == feeding


@every_hybrid
def test_last_layers_are_the_last_of_all(name: str) -> None:
    model = hybrid(name)
    adapter = inlay.attach(model, inlay.LastLayers(layers=1))
    last = list(Sites(model).stacks.values())[-1]
    assert any(host.startswith(list(last)[-1] + ".") for host in adapter.deltas)


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next", "jamba"])
@pytest.mark.parametrize("method", [inlay.Houlsby(size=4), inlay.Parallel(), inlay.Pfeiffer(reduction_factor=4)])
def test_bottlenecks_start_as_the_base_and_all_learn(name: str, method: Any) -> None:
    model = hybrid(name)
    ids_BT = torch.randint(3, 50, (2, 5))
    before = model(input_ids=ids_BT).logits
    adapter = inlay.attach(model, method)
    torch.testing.assert_close(model(input_ids=ids_BT).logits, before)
    with torch.no_grad():
        for _, delta in adapter.deltas.items():
            if isinstance(delta, Bottleneck):
                delta.up.weight.normal_(std=0.1)
    model(input_ids=ids_BT).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in adapter.named_parameters() if ".down." in n)


# Mixtures of experts

MIXTURES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mixtral": (
        lambda: t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2, num_local_experts=4, **SMALL)),
        "mlp",
    ),
    "phimoe": (lambda: t.PhimoeForCausalLM(t.PhimoeConfig(num_key_value_heads=2, num_local_experts=4, **SMALL)), "mlp"),
    "llama4": (
        lambda: t.Llama4ForCausalLM(
            t.Llama4TextConfig(
                num_key_value_heads=2, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, **SMALL
            )
        ),
        "feed_forward",
    ),
    "gpt_oss": (
        lambda: t.GptOssForCausalLM(
            t.GptOssConfig(num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2, **SMALL)
        ),
        "mlp",
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_feed_forward_of_experts_is_one_module_and_the_adapter_stands_around_it(name: str) -> None:
    torch.manual_seed(0)
    model = MIXTURES[name][0]().eval()
    sites = Sites(model)
    own = f"model.layers.1.{MIXTURES[name][1]}"
    assert sites.feedforwards()[1] == ("model.layers.1", own, own)
    adapter = inlay.attach(model, inlay.Parallel(scale=2))
    delta = adapter.deltas[own]
    with torch.no_grad():
        delta.up.weight.normal_()
    seen: dict[str, Tensor] = {}

    def watch(_: nn.Module, args: Any, result: Any) -> None:
        seen["x"], seen["y"] = args[0], result[0] if isinstance(result, tuple) else result

    model.get_submodule(own).register_forward_hook(watch)
    ids_BT = torch.randint(3, 50, (2, 5))
    model(input_ids=ids_BT)
    adapted = seen["y"]
    with inlay.using(model):
        model.get_submodule(own)(seen["x"])
    expected = seen["y"] + 2 * delta.change(seen["x"]).view_as(seen["y"])
    torch.testing.assert_close(adapted, expected)


@pytest.mark.parametrize("name", ["phimoe", "llama4"])
def test_a_router_is_no_host(name: str) -> None:
    model = MIXTURES[name][0]()
    sites = Sites(model)
    assert len(sites.routers) == 2
    for role in ("all-linear", "feedforward"):
        assert not sites.routers & set(sites._role(role))
    with pytest.raises(TargetError, match="router, which gives more than one tensor"):
        inlay.attach(model, inlay.LoRA(targets=("router",)))
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    model(input_ids=torch.randint(3, 50, (2, 5))).logits.sum().backward()
    assert not [n for n in adapter.deltas if n.endswith("router")]


def test_a_sparse_adapter_beside_does_not_look_like_experts() -> None:
    model = t.LlamaForCausalLM(t.LlamaConfig(**SMALL))
    expected = Sites(model).feedforwards()
    inlay.attach(model, inlay.SparseMask(rank=1, selection="random"), "sparse")
    assert Sites(model).feedforwards() == expected
    inlay.attach(model, inlay.Houlsby(size=4), "b")


def test_a_gate_of_one_output_is_left_out_of_a_role_and_refused_by_name() -> None:
    config = t.Qwen2MoeConfig(num_key_value_heads=2, **EXPERTS, **SMALL)
    model = t.Qwen2MoeForCausalLM(config)
    adapter = inlay.attach(model, inlay.SparseMask(rank=1, selection="random"))
    assert not [n for n in adapter.deltas if n.endswith("shared_expert_gate")]
    assert [n for n in adapter.deltas if n.endswith("q_proj")]
    with pytest.raises(TargetError, match="entries of model.layers.0.mlp.shared_expert_gate, which has 32"):
        inlay.attach(t.Qwen2MoeForCausalLM(config), inlay.SparseMask(rank=1, targets=("shared_expert_gate",)))


# Coverage


def test_coverage_counts_what_is_reached_and_says_why_the_rest_is_not() -> None:
    model = MIXTURES["mixtral"][0]()
    body = dict(Sites(model).body())
    total = sum(p.numel() for m in body.values() for p in m._parameters.values() if p is not None)
    adapter = inlay.attach(model, inlay.LoHa(rank=2))
    found = adapter.coverage
    linear = sum(model.get_submodule(n).weight.numel() for n in adapter.deltas)
    assert found.parameters == total
    assert found.share == pytest.approx(linear / total)
    assert found.share + sum(g.share for g in found.left_out) == pytest.approx(1)
    reasons = {g.reason: g.names for g in found.left_out}
    assert reasons["experts: loha changes plain linear layers"] == (
        "model.layers.0.mlp.experts",
        "model.layers.1.mlp.experts",
    )
    assert reasons["router"] == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert reasons["embeddings: loha changes plain linear layers"] == ("model.embed_tokens",)
    adapter.detach()
    attention = inlay.attach(model, inlay.LoRA(rank=2, targets="attention")).coverage
    assert {g.reason for g in attention.left_out} >= {"not among the targets: attention", "router"}


# Where blocks end

ENDS: dict[str, Callable[[], nn.Module]] = {
    "opt after": lambda: t.OPTModel(
        t.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False, **SMALL)
    ),
    "gpt1": lambda: t.OpenAIGPTModel(t.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=64)),
    "xlnet": lambda: t.XLNetModel(t.XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=48, vocab_size=50)),
    "fnet": lambda: t.FNetModel(t.FNetConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=50)),
    "olmo2": lambda: t.Olmo2Model(t.Olmo2Config(**TEXT)),
    "marian": lambda: t.MarianModel(t.MarianConfig(**HALVES | {"decoder_vocab_size": 50})),
    "m2m_100": lambda: t.M2M100Model(t.M2M100Config(**HALVES)),
    "gptj": lambda: t.GPTJModel(t.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=50)),
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**SMALL, cls_token_id=1, sep_token_id=2)),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_the_source_says_of_a_block_s_end_is_what_happens(name: str) -> None:
    torch.manual_seed(0)
    model = ENDS[name]().eval()
    given: dict[str, list[Tensor]] = {}
    for full, module in model.named_modules():
        if full:
            module.register_forward_hook(
                lambda _, args, result, full=full: given.setdefault(full, []).append(
                    result[0] if isinstance(result, tuple | list) else result
                )
            )
    ids_BT = torch.randint(3, 50, (2, 5))
    more = {"decoder_input_ids": ids_BT} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        model(input_ids=ids_BT, **more)
    blocks = Sites(model).blocks
    assert blocks
    for block, module in blocks.items():
        norm = final_norm(module)
        assert norm != UNKNOWN
        last = [
            full
            for full, results in given.items()
            if full.startswith(block + ".")
            and "norm" in type(model.get_submodule(full)).__name__.lower()
            and isinstance(results[-1], Tensor)
            and results[-1].shape == given[block][-1].shape
            and torch.equal(results[-1], given[block][-1])
        ]
        assert last == ([] if norm is None else [f"{block}.{norm}"])


class Closed(nn.Module):
    """A block whose source does not say where it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.down(self.up(self.norm(x)))]).sum(0)


def test_a_block_whose_end_is_not_known_is_refused() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([Closed(), Closed()])})
    with pytest.raises(TargetError, match=r"where layers\.0, a Closed, adds to its residual is not known"):
        inlay.attach(model, inlay.Pfeiffer())
    assert not inlay.adapters(model)
