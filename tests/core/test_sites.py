"""Names, ends of names, patterns and heads select the right modules, and nothing is ignored."""

from pathlib import Path

import pytest
import torch
import transformers as t
from torch import nn

import inlay
from inlay.errors import InlayError, TargetError
from inlay.models.sites import Sites, ends_with, shortest_suffixes

from ..shapes import SHAPES, Shape
from .test_architectures import SMALL


def llama() -> Sites:
    return Sites(SHAPES["llama"].model())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("q_proj", ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        ("self_attn.q_proj", ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        ("layers.1.mlp.up_proj", ["model.layers.1.mlp.up_proj"]),
        ("model.layers.1.mlp.up_proj", ["model.layers.1.mlp.up_proj"]),
        ("lm_head", ["lm_head"]),
        (r".*\.0\.mlp\.(up|down)_proj", ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"]),
        (r"model\.layers\.1\..*q_proj", ["model.layers.1.self_attn.q_proj"]),
    ],
)
def test_a_target_is_the_end_of_a_name_or_a_pattern_of_the_whole(target: str, expected: list[str]) -> None:
    assert llama().find((target,)) == expected


def test_what_targets_select_comes_once_and_in_the_order_of_the_model() -> None:
    sites = llama()
    assert sites.find(("v_proj", "q_proj", "attention")) == sites.find(("attention",))


@pytest.mark.parametrize("target", ["proj", "_proj", "q_pro", "layers.0", "lm_hea", "q_proj.weight", "", "Q_PROJ"])
def test_a_part_of_a_name_is_no_match(target: str) -> None:
    with pytest.raises(TargetError):
        llama().find((target,))


def test_one_of_several_targets_that_matches_nothing_is_an_error() -> None:
    """PEFT bug 5: a misspelled name is ignored when another one matches."""
    with pytest.raises(TargetError) as caught:
        llama().find(("q_proj", "v_porj"))
    assert str(caught.value) == (
        "targets 'v_porj' match no module of LlamaForCausalLM; did you mean v_proj? "
        "It has q_proj ×2, k_proj ×2, v_proj ×2, o_proj ×2, gate_proj ×2, up_proj ×2, down_proj ×2, lm_head ×1"
    )


def test_a_misspelled_role_is_an_error_that_names_it() -> None:
    with pytest.raises(TargetError, match=r"did you mean all-linear\?"):
        llama().find(("all_linear",))


def test_no_targets_are_an_error() -> None:
    with pytest.raises(TargetError, match="targets is empty; name modules or a role: all-linear, attention"):
        llama().find(())


def test_a_broken_pattern_is_an_error() -> None:
    with pytest.raises(TargetError, match=r"no module has the name '\(q_proj', which is no regular expression"):
        llama().find(("(q_proj",))


@pytest.mark.parametrize(
    ("target", "kinds"),
    [("self_attn", "LlamaAttention"), ("norm", "LlamaRMSNorm"), (r".*\.mlp|.*act_fn", "LlamaMLP, SiLUActivation")],
)
def test_containers_and_kinds_that_cannot_be_adapted_are_refused(target: str, kinds: str) -> None:
    with pytest.raises(TargetError, match=f"matches only {kinds}, which this method cannot adapt"):
        llama().find((target,))


def test_a_head_named_as_a_target_is_refused(shape: Shape) -> None:
    model = shape.classifier()
    head = Sites(model).heads[0]
    target = {"t5": "classification_head.dense"}.get(shape.name, head)
    with pytest.raises(TargetError, match=rf"matches only {target}, which is trained whole as the model's head"):
        inlay.attach(model, inlay.LoRA(targets=(target,)))
    assert not inlay.adapters(model)


def test_a_name_that_a_head_has_as_well_means_the_modules_outside_the_head() -> None:
    model = t.RobertaForSequenceClassification(t.RobertaConfig(**SMALL))
    found = Sites(model).find(("dense",))
    assert len(found) == 6
    assert not [name for name in found if name.startswith("classifier")]


def test_layers_inside_slots_are_no_hosts() -> None:
    model = SHAPES["bert"].model()
    expected = Sites(model).find(("all-linear",)), [n for n, _ in Sites(model).modules()], len(Sites(model).blocks)
    inlay.attach(model, inlay.Pfeiffer(), "down")
    inlay.attach(model, inlay.LoRA(), "up")
    sites = Sites(model)
    assert (sites.find(("all-linear",)), [n for n, _ in sites.modules()], len(sites.blocks)) == expected
    for target in ("down", "up", r".*adapters.*", "adapters.down.up"):
        with pytest.raises(TargetError, match="match no module"):
            sites.find((target,))


def test_an_unknown_head_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(TargetError, match=r"head 'scor' is no module of .*; did you mean score\?"):
        Sites(SHAPES["llama"].classifier(), ("scor",))


def test_a_model_without_blocks_has_no_block_ends() -> None:
    with pytest.raises(TargetError, match="Sequential has no transformer blocks"):
        list(Sites(nn.Sequential(nn.Linear(3, 3))).block_ends())


def test_the_projection_inside_torch_s_own_attention_is_no_host() -> None:
    """nn.MultiheadAttention reads the weights of its output projection and never calls it: no hook would run."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    assert {name.rpartition(".")[2] for name in Sites(model).find(("all-linear",))} == {"linear1", "linear2"}
    with pytest.raises(TargetError, match="NonDynamicallyQuantizableLinear, which this method cannot adapt"):
        Sites(model).find(("out_proj",))
    model.eval()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        before = model(x)
        for p in adapter.parameters():
            p.add_(1)
        assert not torch.allclose(model(x), before)


# The ends of names that a checkpoint lists


@pytest.mark.parametrize(
    "targets",
    [
        ("all-linear",),
        ("attention",),
        ("feedforward",),
        (r".*\b1\b.*(q|q_proj|query|c_attn)",),
        (r".*\b0\b.*(wo|down_proj|output\.dense|c_proj)", "attention"),
    ],
)
def test_the_shortest_suffixes_select_the_same_modules_in_peft(targets: tuple[str, ...], shape: Shape) -> None:
    peft = pytest.importorskip("peft")
    exists = pytest.importorskip("peft.tuners.tuners_utils").check_target_module_exists
    for model in (shape.model(), shape.classifier()):
        sites = Sites(model)
        hosts = sites.find(targets)
        suffixes = shortest_suffixes(model, hosts)
        config = peft.LoraConfig(target_modules=suffixes, modules_to_save=list(sites.heads))
        assert [name for name, _ in model.named_modules() if exists(config, name)] == hosts
        assert len(suffixes) <= len(hosts)
        assert all(any(ends_with(host, suffix) for host in hosts) for suffix in suffixes)


def test_suffixes_are_as_short_as_can_be() -> None:
    model = SHAPES["llama"].model()
    sites = Sites(model)
    assert shortest_suffixes(model, sites.find(("q_proj", "v_proj"))) == ["q_proj", "v_proj"]
    assert shortest_suffixes(model, sites.find(("layers.1.mlp.up_proj",))) == ["1.mlp.up_proj"]
    assert shortest_suffixes(model, sites.find(("lm_head",))) == ["lm_head"]
    gpt2 = SHAPES["gpt2"].model()
    assert shortest_suffixes(gpt2, Sites(gpt2).find(("attention",))) == ["c_attn", "attn.c_proj"]
    plain = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleDict({"a": nn.Linear(2, 2)})})
    assert shortest_suffixes(plain, ["b.a"]) == ["b.a"]


def test_a_host_whose_name_is_the_end_of_another_name_is_named_by_a_pattern(tmp_path: Path) -> None:
    """`a` is the end of `b.a` too, and PEFT matches the names of a list as ends."""

    def named() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleDict({"a": nn.Linear(2, 2), "c": nn.Linear(2, 2)})})

    plain = named()
    adapter = inlay.attach(plain, inlay.LoRA(rank=1, targets=(r"a|b\.c",)))
    adapter.save(tmp_path)
    loaded = inlay.load(named(), tmp_path)
    assert list(loaded.deltas) == list(adapter.deltas) == ["a", "b.c"]
    pattern = shortest_suffixes(plain, ["a", "b.c"])
    assert pattern == r"a|b\.c"


def test_errors_are_inlay_errors() -> None:
    assert issubclass(TargetError, InlayError)
    assert TargetError.exit_code == 2


def test_a_place_is_the_block_the_role_and_the_name_in_there() -> None:
    sites = Sites(SHAPES["t5"].classifier())
    found = sites.place("transformer.decoder.block.1.layer.1.EncDecAttention.q")
    assert (found.block, found.role, found.within) == (
        "transformer.decoder.block.1",
        "attention",
        "layer.1.EncDecAttention.q",
    )
    assert sites.place("transformer.encoder.block.0.layer.1.DenseReluDense.wo").role == "feedforward"
    outside = Sites(SHAPES["bert"].classifier()).place("bert.pooler.dense")
    assert (outside.block, outside.role, outside.within) == (None, "outside", "bert.pooler.dense")
    assert Sites(SHAPES["gpt2"].classifier()).place("transformer.h.1.attn.c_proj").role == "attention"
    assert Sites(SHAPES["gpt2"].classifier()).place("transformer.h.1.mlp.c_proj").role == "feedforward"
