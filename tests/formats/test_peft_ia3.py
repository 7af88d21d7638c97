"""IA3 in PEFT's format, both ways: same outputs, loss and gradients, also where PEFT's targets are not the paper's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file

import inlay
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed

from ..core.test_architectures import SMALL
from ..shapes import SHAPES, Shape, disturb
from .matrix import variants_and_builds
from .test_peft import both_equal, close, inputs, task_type
from .test_refusals import edit_config, edit_tensors

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings, such as that unmerging is inexact

LAST = {"llama": "down_proj", "gpt2": "mlp.c_proj", "bert": "output.dense", "t5": "wo"}
KEYS = {"llama": "k_proj", "gpt2": "c_attn", "bert": "key", "t5": "k"}
PATTERN = {
    "llama": (r".*\.(v_proj|down_proj)", r".*mlp.*"),
    "gpt2": (r".*\.(attn\.c_proj|c_fc)", r".*c_fc"),
    "bert": (r".*layer\.1\..*(value|intermediate\.dense)", r".*dense"),
    "t5": (r".*(EncDecAttention\.v|wi_0|wo)", r".*\.wo"),
}
VARIANTS = ("peft_default", "keys", "pattern", "inputs_only")
every_variant_and_build = variants_and_builds(VARIANTS)


def choice(variant: str, shape: Shape) -> tuple[Any, Any]:
    """PEFT's target_modules and feedforward_modules."""
    return {
        "peft_default": (None, None),
        "keys": ([KEYS[shape.name]], []),
        "pattern": PATTERN[shape.name],
        "inputs_only": ([LAST[shape.name]], [LAST[shape.name]]),
    }[variant]


def trained_by_peft(shape: Shape, build: Any, variant: str, folder: Path) -> Any:
    model = build()
    kind = task_type(shape, model)
    targets, feedforward = choice(variant, shape)
    config = peft.IA3Config(
        task_type=kind,
        target_modules=targets,
        feedforward_modules=feedforward,
        modules_to_save=None if kind else ["classification_head"],
    )
    theirs = peft.get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    theirs.save_pretrained(str(folder))
    return theirs


@variants_and_builds(["paper", "keys", "pattern", "inputs_only"])
def test_peft_computes_the_same_from_our_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    model = build()
    settings: dict[str, Any] = {}
    if variant != "paper":
        settings = dict(zip(("targets", "feedforward"), choice(variant, shape), strict=True))
        settings = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    adapter = inlay.attach(model, inlay.IA3(**settings))
    disturb(adapter)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))
    assert not torch.allclose(model(**inputs(shape, model)).logits, build()(**inputs(shape, model)).logits, atol=1e-3)


@every_variant_and_build
def test_we_compute_the_same_from_peft_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    theirs = trained_by_peft(shape, build, variant, tmp_path / "peft")
    model = build()
    adapter = inlay.load(model, tmp_path / "peft")
    both_equal(model, theirs, inputs(shape, model))
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    expected = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.requires_grad
    }
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    ours = {keys[name]: p.grad for name, p in adapter.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name], 1e-4)
        assert gradient.abs().max() > 1e-6

    adapter.save(tmp_path / "ours")
    saved, again = load_file(tmp_path / "peft" / format_.TENSORS), load_file(tmp_path / "ours" / format_.TENSORS)
    assert saved.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in saved.items())
    inlay.load(build(), tmp_path / "ours").save(tmp_path / "second")
    assert (tmp_path / "ours" / format_.CONFIG).read_bytes() == (tmp_path / "second" / format_.CONFIG).read_bytes()


def test_the_paper_s_layers_are_the_default_where_peft_s_are_others(tmp_path: Path) -> None:
    """PEFT's default scales BERT's attention output as well (2 vectors too many here), GPT-2's queries (32 numbers too
    many in each of 2 layers), and Qwen2's queries instead of its keys."""
    counts = {}
    for name in ("bert", "gpt2"):
        shape = SHAPES[name]
        ours = inlay.attach(shape.model(), inlay.IA3(), heads=())
        theirs = peft.get_peft_model(shape.model(), peft.IA3Config())
        counts[name] = (
            sum(p.numel() for n, p in theirs.named_parameters() if "ia3_l" in n),
            sum(p.numel() for p in ours.parameters()),
        )
    assert counts == {"bert": (2 * (32 + 32 + 48 + 32), 2 * (32 + 32 + 48)), "gpt2": (2 * (96 + 128), 2 * (64 + 128))}

    def qwen() -> Any:
        torch.manual_seed(0)
        return t.Qwen2ForCausalLM(t.Qwen2Config(num_key_value_heads=2, **SMALL)).eval()

    def ends(names: Any) -> set[str]:
        return {n.split(".ia3_l")[0].rpartition(".")[2] for n in names}

    model = qwen()
    adapter = inlay.attach(model, inlay.IA3())
    theirs = peft.get_peft_model(qwen(), peft.IA3Config())
    assert ends(adapter.deltas) == {"k_proj", "v_proj", "down_proj"}
    assert ends(n for n, _ in theirs.named_parameters() if "ia3_l" in n) == {"q_proj", "v_proj", "down_proj"}
    disturb(adapter)
    adapter.save(tmp_path)
    ids = torch.randint(3, 50, (2, 6))
    close(model(ids).logits, peft.PeftModel.from_pretrained(qwen(), str(tmp_path)).eval()(ids).logits)


def test_merging_and_unmerging_a_zero_is_exact_where_peft_gives_up(tmp_path: Path) -> None:
    """PEFT unmerges by dividing by l + 1e-8: a zero wipes a row out, and it stays so (here 0.9 of its largest weight).
    Ours keeps the old bits."""
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.IA3())
    with torch.no_grad():
        for p in adapter.parameters():
            p.flatten()[0] = 0
    adapter.save(tmp_path)
    base = {n: p.clone() for n, p in model.named_parameters()}
    adapter.merge()
    adapter.unmerge()
    assert all(torch.equal(base[n], p) for n, p in model.named_parameters())
    theirs = peft.PeftModel.from_pretrained(shape.model(), str(tmp_path))
    theirs.merge_adapter()
    theirs.unmerge_adapter()
    key = "model.layers.0.self_attn.k_proj"
    row = theirs.get_submodule(f"base_model.model.{key}.base_layer").weight[0]
    assert row.abs().max() == 0
    assert base[f"{key}.weight"][0].abs().max() > 0.01


def test_the_queries_of_a_fused_layer_are_written_as_ones(tmp_path: Path) -> None:
    shape = SHAPES["gpt2"]
    adapter = inlay.attach(shape.model(), inlay.IA3())
    disturb(adapter)
    adapter.save(tmp_path)
    saved = load_file(tmp_path / format_.TENSORS)
    tensor = saved["base_model.model.transformer.h.0.attn.c_attn.ia3_l"]
    assert tensor.shape == (96, 1)
    assert torch.equal(tensor[:32], torch.ones(32, 1))
    assert torch.equal(tensor[32:], adapter.deltas["transformer.h.0.attn.c_attn"].ia3_l)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert config["target_modules"] == ["c_attn", "mlp.c_proj"]
    assert config["feedforward_modules"] == ["mlp.c_proj"]
    assert config["fan_in_fan_out"] is True


def test_names_that_peft_would_confuse_are_written_as_patterns(tmp_path: Path) -> None:
    """PEFT takes feed-forward modules by the end of their names without a dot: `proj` would be `v_proj` too."""

    def build() -> Any:
        torch.manual_seed(0)
        return torch.nn.ModuleDict({"v_proj": torch.nn.Linear(3, 3), "proj": torch.nn.Linear(3, 3)})

    adapter = inlay.attach(build(), inlay.IA3(targets=("v_proj", "proj"), feedforward=(r"(?:proj)",)))
    disturb(adapter)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert (config["target_modules"], config["feedforward_modules"]) == ("v_proj|proj", "proj")
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path))
    loaded = inlay.load(build(), tmp_path)
    for model in (theirs.base_model.model, loaded.model):
        x = torch.randn(2, 3)
        for name in ("v_proj", "proj"):
            close(model[name](x), adapter.model[name](x))


def test_an_end_without_a_dot_means_what_it_means_in_peft(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    theirs = peft.get_peft_model(shape.model(), config)
    theirs.save_pretrained(str(tmp_path))
    edit_config(tmp_path, feedforward_modules=["own_proj"])
    adapter = inlay.load(shape.model(), tmp_path)
    assert adapter.deltas["model.layers.0.mlp.down_proj"].ia3_l.shape == (1, 48)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": 2}, "scaling is 2; this changes what the adapter computes and is not known"),
        ({"feedforward_modules": ...}, "feedforward_modules is missing"),
        ({"feedforward_modules": None}, "feedforward_modules is null"),
        ({"feedforward_modules": []}, r"down_proj.ia3_l has shape \(1, 48\), its place \(32, 1\)"),
        ({"feedforward_modules": ["k_proj", "down_proj"]}, r"k_proj.ia3_l has shape \(16, 1\), its place \(1, 32\)"),
        ({"feedforward_modules": ["up_proj"]}, "is none of the 6 modules that targets selects"),
        ({"feedforward_modules": "("}, "a setting has a value that it cannot have"),
        ({"target_modules": ["k_proj", "down_proj"]}, "v_proj.ia3_l has no place"),
    ],
)
def test_a_config_that_means_something_else_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    inlay.attach(SHAPES["llama"].model(), inlay.IA3()).save(tmp_path)
    edit_config(tmp_path, **changes)
    model = SHAPES["llama"].model()
    with pytest.raises(inlay.errors.CheckpointError, match=message):
        inlay.load(model, tmp_path)
    assert not inlay.adapters(model)


def test_a_missing_vector_is_refused(tmp_path: Path) -> None:
    inlay.attach(SHAPES["llama"].model(), inlay.IA3()).save(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.pop("base_model.model.model.layers.1.mlp.down_proj.ia3_l"))
    with pytest.raises(inlay.errors.CheckpointError, match=r"layers\.1\.mlp\.down_proj\.ia3_l is missing"):
        inlay.load(SHAPES["llama"].model(), tmp_path)
