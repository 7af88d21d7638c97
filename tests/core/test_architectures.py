"""Roles, names and patterns find the right modules in every architecture that is tried here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import inlay
from inlay.errors import TargetError
from inlay.models import weights
from inlay.models.block_end import final_norm
from inlay.models.sites import Sites, ends_with

from ..architectures import build
from ..shapes import SHAPES, Shape

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HALVES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 2,
}

# model_type -> how to build one small model, and the last parts of its attention's and feed-forward's linear layers
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "llama": (SHAPES["llama"].model, "q_proj k_proj v_proj o_proj", "gate_proj up_proj down_proj"),
    "gpt2": (SHAPES["gpt2"].model, "attn.c_attn attn.c_proj", "mlp.c_fc mlp.c_proj"),
    "bert": (
        SHAPES["bert"].model,
        "query key value attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "t5": (
        SHAPES["t5"].model,
        "SelfAttention.q SelfAttention.k SelfAttention.v SelfAttention.o "
        "EncDecAttention.q EncDecAttention.k EncDecAttention.v EncDecAttention.o",
        "wi_0 wi_1 wo",
    ),
    "roberta": (
        lambda: t.RobertaModel(t.RobertaConfig(**SMALL)),
        "query key value attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "xlm-roberta": (
        lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**SMALL)),
        "query key value attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "camembert": (
        lambda: t.CamembertModel(t.CamembertConfig(**SMALL)),
        "query key value attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "electra": (
        lambda: t.ElectraModel(t.ElectraConfig(embedding_size=16, **SMALL)),
        "query key value attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "mpnet": (
        lambda: t.MPNetModel(t.MPNetConfig(**SMALL)),
        "attn.q attn.k attn.v attn.o",
        "intermediate.dense layer.*.output.dense",
    ),
    "deberta": (
        lambda: t.DebertaModel(t.DebertaConfig(**SMALL)),
        "in_proj attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "deberta-v2": (
        lambda: t.DebertaV2Model(t.DebertaV2Config(**SMALL)),
        "query_proj key_proj value_proj attention.output.dense",
        "intermediate.dense layer.*.output.dense",
    ),
    "distilbert": (
        lambda: t.DistilBertModel(
            t.DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=50, eos_token_id=1)
        ),
        "q_lin k_lin v_lin out_lin",
        "lin1 lin2",
    ),
    "albert": (
        lambda: t.AlbertModel(t.AlbertConfig(embedding_size=16, **SMALL)),
        "query key value attention.dense",
        "ffn ffn_output",
    ),
    "bart": (
        lambda: t.BartForConditionalGeneration(t.BartConfig(**HALVES)),
        "q_proj k_proj v_proj out_proj",
        "fc1 fc2",
    ),
    "mbart": (
        lambda: t.MBartForConditionalGeneration(t.MBartConfig(**HALVES)),
        "q_proj k_proj v_proj out_proj",
        "fc1 fc2",
    ),
    "opt": (
        lambda: t.OPTForCausalLM(t.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **SMALL)),
        "q_proj k_proj v_proj out_proj",
        "fc1 fc2",
    ),
    "gpt_neox": (
        lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SMALL)),
        "query_key_value attention.dense",
        "dense_h_to_4h dense_4h_to_h",
    ),
    "qwen2": (
        lambda: t.Qwen2ForCausalLM(t.Qwen2Config(num_key_value_heads=2, **SMALL)),
        "q_proj k_proj v_proj o_proj",
        "gate_proj up_proj down_proj",
    ),
    "gemma2": (
        lambda: t.Gemma2ForCausalLM(t.Gemma2Config(num_key_value_heads=2, head_dim=8, **SMALL)),
        "q_proj k_proj v_proj o_proj",
        "gate_proj up_proj down_proj",
    ),
    "phi3": (
        lambda: t.Phi3ForCausalLM(t.Phi3Config(num_key_value_heads=2, **SMALL)),
        "qkv_proj o_proj",
        "gate_up_proj down_proj",
    ),
    "vit": (
        lambda: t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=16,
                patch_size=8,
            )
        ),
        "q_proj k_proj v_proj o_proj",
        "fc1 fc2",
    ),
}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def built(architecture: str) -> tuple[nn.Module, Sites]:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture][0]().eval()
    assert model.config.model_type == architecture
    return model, Sites(model)


@every_architecture
def test_attention_and_feedforward_share_out_the_linear_layers_of_the_blocks(architecture: str) -> None:
    model, sites = built(architecture)
    attention, feedforward = sites.find(("attention",)), sites.find(("feedforward",))
    assert not set(attention) & set(feedforward)
    in_blocks = [
        name
        for name, m in sites.modules()
        if weights.is_linear(m) and any(name.startswith(block + ".") for block in sites.blocks)
    ]
    assert sorted(attention + feedforward) == sorted(in_blocks)
    assert len(sites.blocks) == {"albert": 1, "t5": 4, "bart": 4, "mbart": 4}.get(architecture, 2)

    _, attention_ends, feedforward_ends = ARCHITECTURES[architecture]
    for found, ends in ((attention, attention_ends.split()), (feedforward, feedforward_ends.split())):
        used = {end for end in ends for name in found if fits(name, end)}
        assert used == set(ends)
        assert all(any(fits(name, end) for end in ends) for name in found), found


def fits(name: str, end: str) -> bool:
    """`layer.*.output.dense` means the block's own output.dense, not its attention's."""
    if "*" in end:
        return name.endswith(".output.dense") and ".attention." not in name
    return ends_with(name, end)


def test_the_projection_behind_the_attention_of_gpt2_is_no_feedforward() -> None:
    _, sites = built("gpt2")
    assert not [name for name in sites.find(("feedforward",)) if ".attn." in name]
    assert [name for name in sites.find(("attention",)) if name.endswith("attn.c_proj")]


@every_architecture
def test_all_linear_leaves_out_output_embeddings_and_heads(architecture: str) -> None:
    model, sites = built(architecture)
    found = sites.find(("all-linear",))
    assert set(sites.find(("attention", "feedforward"))) <= set(found)
    get = getattr(model, "get_output_embeddings", lambda: None)
    outputs = [name for name, m in sites.modules() if m is get()]
    assert not set(outputs) & set(found)
    assert not [name for name in found if name.startswith(("lm_head", "classifier", "score"))]
    inside = {name for name, m in sites.modules() if weights.is_linear(m)} - set(outputs) - {"classifier"}
    assert set(found) == inside


def test_all_linear_leaves_out_a_classifier_head(shape: Shape) -> None:
    model = shape.classifier()
    sites = Sites(model)
    assert sites.heads == {"bert": ("classifier",), "t5": ("classification_head",)}.get(shape.name, ("score",))
    assert not [name for name in sites.find(("all-linear",)) if name.startswith(sites.heads[0])]
    assert not [name for name in dict(sites.body()) if name.startswith(sites.heads[0])]


def test_experts_whose_weights_are_fused_are_no_linear_layers() -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(num_key_value_heads=2, num_local_experts=2, **SMALL))
    sites = Sites(model)
    assert len(sites.find(("attention",))) == 8
    with pytest.raises(TargetError, match="'feedforward' selects only experts"):
        sites.find(("feedforward",))


@every_architecture
def test_a_block_ends_where_its_source_says(architecture: str) -> None:
    """The output of a block is the output of a normalization in it exactly if `final_norm` names that one."""
    model, sites = built(architecture)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name.lower():  # else a norm could look like nothing at all
                p += 0.1 * torch.randn(p.shape)
    ends = dict(sites.block_ends())
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, args: Any, result: Any) -> None:
            outputs[name] = result[0] if isinstance(result, tuple) else result
            if args:
                inputs[name] = args[0]

        return hook

    for name, module in sites.modules():
        if name in sites.blocks or "norm" in type(module).__name__.lower():
            module.register_forward_hook(watch(name))
    run(model)

    for block in sites.blocks:
        last = [
            name
            for name in outputs
            if name.startswith(block + ".")
            and outputs[name].shape == outputs[block].shape
            and torch.equal(outputs[name], outputs[block])
        ]
        norm = final_norm(sites.blocks[block])
        assert last == ([] if norm is None else [f"{block}.{norm}"])
        assert (block in ends) == (norm is None)
        if norm is not None:
            host = ends[last[0]]
            torch.testing.assert_close(host(inputs[last[0]]), outputs[block])  # it reads the sum by position


def run(model: nn.Module) -> None:
    with torch.no_grad():
        if model.config.model_type == "vit":
            model(pixel_values=torch.randn(2, 3, 16, 16))
            return
        ids_BT = torch.randint(3, 50, (2, 5))
        model(input_ids=ids_BT, **({"decoder_input_ids": ids_BT} if model.config.is_encoder_decoder else {}))


POST_NORM = (
    "albert",
    "bart",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "mpnet",
    "roberta",
)


@pytest.mark.parametrize("architecture", POST_NORM)
def test_the_bottleneck_sits_at_a_block_s_final_norm_and_starts_as_the_base(architecture: str) -> None:
    model, sites = built(architecture)
    ends = [name for name, _ in sites.block_ends()]
    assert not set(ends) & set(sites.blocks)
    ids_BT = torch.randint(3, 50, (2, 5))
    given = {"input_ids": ids_BT, **({"decoder_input_ids": ids_BT} if model.config.is_encoder_decoder else {})}
    before = model(**given)[0]
    adapter = inlay.attach(model, inlay.Pfeiffer(reduction_factor=4))
    torch.testing.assert_close(model(**given)[0], before)
    hosts = [name for name in adapter.deltas if name not in adapter.heads]
    assert hosts == ends
    model(**given)[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for n, p in adapter.named_parameters() if ".up." in n)


def test_a_mixer_ends_with_what_it_uses_last() -> None:
    """Qwen3.5 lists its output before projections that are as wide."""
    ends = {end for _, end in Sites(build("qwen3_5_text")).sublayer_ends()}
    assert {f"model.layers.{i}.linear_attn.out_proj" for i in range(3)} <= ends
    assert not any("in_proj" in end for end in ends)
