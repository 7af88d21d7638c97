"""Experts as Hugging Face PEFT has them: its target_parameters both ways, and files with a module for each expert."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import inlay
from inlay.errors import CheckpointError

from ..edited import unseal
from ..mixtures import logits, mixture
from ..shapes import disturb

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own, about adapters that it converts

NAMES = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4", "granitemoe", "aria", "jetmoe")
BOTH = ["experts.gate_up_proj", "experts.down_proj"]
PARAMETERS = dict.fromkeys(NAMES, BOTH) | {"jetmoe": ["input_linear.weight", "output_linear.weight"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "both": {},
    "one": {"only": 1},
    "first": {"only": 0, "use_rslora": True, "rank_pattern": {".*(gate_up_proj|weight)": 5}},
    "all-linear": {"target_modules": "all-linear", "target_parameters": None},
}


def theirs(name: str, folder: Path, **settings: Any) -> Tensor:
    """The logits of a mixture with an adapter of PEFT's, which is saved."""
    parameters = PARAMETERS[name] if (only := settings.pop("only", None)) is None else [PARAMETERS[name][only]]
    config = {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": [],
        "target_parameters": parameters,
        "init_lora_weights": False,
    }
    torch.manual_seed(3)
    model = peft.get_peft_model(mixture(name), peft.LoraConfig(**config | settings))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if ".lora_B." in key:
                p.normal_(std=0.2)
    model.eval().save_pretrained(folder)
    return logits(model).detach()


def read_by_peft(name: str, folder: Path) -> Tensor:
    return logits(peft.PeftModel.from_pretrained(mixture(name), folder).eval()).detach()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_what_peft_writes_is_read_and_given_back(name: str, setting: str, tmp_path: Path) -> None:
    if (name, setting) == ("llama4", "all-linear"):
        pytest.skip("PEFT wraps the router, which returns a tuple, and fails")
    expected = theirs(name, tmp_path / "theirs", **SETTINGS[setting])
    model = mixture(name)
    assert (logits(model) - expected).abs().max() > 0.1
    adapter = inlay.load(model, tmp_path / "theirs")
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    adapter.save(tmp_path / "ours")
    torch.testing.assert_close(read_by_peft(name, tmp_path / "ours"), expected, rtol=1e-5, atol=1e-5)
    adapter.detach()
    again = inlay.load(model, tmp_path / "ours")
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, adapter.state_dict()[key]), key


OURS: dict[str, dict[str, Any]] = {
    "experts": {"targets": ("experts",)},
    "parameter": {"targets": ("down_proj",), "rank_pattern": {"experts.down_proj": 7}, "rank_stabilized": True},
    "module pattern": {
        "targets": ("feedforward",),
        "rank_pattern": {"1.mlp.experts": 2},
        "alpha_pattern": {"experts": 9},
    },
    "all-linear": {"targets": ("all-linear",)},
}


@pytest.mark.parametrize("setting", OURS)
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "deepseek_v3", "gpt_oss"])
def test_peft_reads_what_is_written(name: str, setting: str, tmp_path: Path) -> None:
    """Layers called gate_proj too, which PEFT would take for the experts of older releases on some of these models."""
    model = mixture(name)
    adapter = inlay.attach(model, inlay.LoRA(rank=3, alpha=5, **OURS[setting]))
    disturb(adapter, 0.2)
    expected = logits(model).detach()
    adapter.save(tmp_path)
    torch.testing.assert_close(read_by_peft(name, tmp_path), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_loaded(name, tmp_path), expected, rtol=0, atol=0)


def _loaded(name: str, folder: Path) -> Tensor:
    model = mixture(name)
    inlay.load(model, folder)
    return logits(model).detach()


# How transformers 4 had the experts of some mixtures: where, gate and up, down.
OLD = {
    "mixtral": ("block_sparse_moe.experts", "mlp.experts", ("w1", "w3"), "w2"),
    "phimoe": ("block_sparse_moe.experts", "mlp.experts", ("w1", "w3"), "w2"),
    "minimax": ("block_sparse_moe.experts", "mlp.experts", ("w1", "w3"), "w2"),
    "qwen3_moe": ("mlp.experts", "mlp.experts", ("gate_proj", "up_proj"), "down_proj"),
    "olmoe": ("mlp.experts", "mlp.experts", ("gate_proj", "up_proj"), "down_proj"),
    "jamba": ("feed_forward.experts", "feed_forward.experts", ("gate_proj", "up_proj"), "down_proj"),
}


def old_file(
    name: str,
    folder: Path,
    wanted: tuple[str, ...] = (),
    experts: tuple[int, ...] = (0, 1, 2, 3),
    router: bool = False,
    **settings: Any,
) -> Tensor:
    """Write a file with a module for each expert; the logits of the base with each change added to its place."""
    before, now, parts, down = OLD[name]
    base, tensors = mixture(name), {}
    generator = torch.Generator().manual_seed(4)
    for layer in range(len(base.model.layers)):
        for expert in experts:
            for n, part in enumerate((*parts, down)):
                if wanted and part not in wanted:
                    continue
                weight = base.get_parameter(f"model.layers.{layer}.{now}.{'down_proj' if n == 2 else 'gate_up_proj'}")
                rows = weight.shape[1] // (1 if n == 2 else 2)
                place = weight.data[expert, (n % 2) * rows :][:rows]
                rank = settings.get("rank_pattern", {}).get(part, 3)
                alpha = settings.get("alpha_pattern", {}).get(part, 5)
                a = torch.randn(rank, weight.shape[2], generator=generator) / 3
                b = torch.randn(rows, rank, generator=generator) / 3
                place += alpha / (rank**0.5 if settings.get("use_rslora") else rank) * b @ a
                module = f"base_model.model.model.layers.{layer}.{before}.{expert}.{part}"
                tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        if router:
            a, b = torch.randn(3, 32, generator=generator) / 3, torch.randn(4, 3, generator=generator) / 3
            base.model.layers[layer].mlp.gate.weight.data += 5 / 3 * b @ a
            module = f"base_model.model.model.layers.{layer}.{before.removesuffix('experts')}gate"
            tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    targets = [*(wanted or (*parts, down)), *(["gate"] if router else [])]
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": targets} | settings
    folder.mkdir(exist_ok=True)
    unseal(folder)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return logits(base).detach()


@pytest.mark.parametrize("name", OLD)
def test_a_module_for_each_expert_is_read_as_one_change(name: str, tmp_path: Path) -> None:
    expected = old_file(name, tmp_path / "old")
    torch.testing.assert_close(_loaded(name, tmp_path / "old"), expected, rtol=1e-5, atol=1e-5)
    model = mixture(name)
    inlay.load(model, tmp_path / "old").save(tmp_path / "new")
    torch.testing.assert_close(_loaded(name, tmp_path / "new"), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read_by_peft(name, tmp_path / "new"), expected, rtol=1e-5, atol=1e-5)
    if name in ("mixtral", "qwen3_moe"):
        torch.testing.assert_close(read_by_peft(name, tmp_path / "old"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"wanted": ("w1",)},
        {"wanted": ("w3", "w2")},
        {"experts": (1, 3)},
        {"use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": r".*experts\.\d+\.(w1|w2|w3)"},
        {"rank_pattern": {"w1": 2, "w2": 4}, "alpha_pattern": {"w3": 7}},
        {"router": True, "rank_pattern": {"w1": 2}, "lora_dropout": 0.1},
    ],
)
def test_parts_of_the_experts_that_peft_cannot_convert_are_read_too(settings: dict[str, Any], tmp_path: Path) -> None:
    expected = old_file("mixtral", tmp_path, **settings)
    torch.testing.assert_close(_loaded("mixtral", tmp_path), expected, rtol=1e-5, atol=1e-5)


def test_old_factors_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    old_file("mixtral", tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.model.layers.1.block_sparse_moe.experts.2.w3.lora_B.weight"
    model = mixture("mixtral")
    for change, message in (
        ({key: tensors[key][:-1].clone()}, r"experts\.2\.w3\.lora_A\.weight and its lora_B are .* do not fit"),
        ({key: None}, r"experts\.2\.w3\.lora_A\.weight has no other factor beside it"),
    ):
        changed = {k: t for k, t in (tensors | change).items() if t is not None}
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=message):
            inlay.load(model, tmp_path)
    assert not inlay.adapters(model)


def test_factors_of_another_number_of_experts_are_refused_by_name(tmp_path: Path) -> None:
    theirs("mixtral", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"do not fit model\.layers\.0\.mlp\.experts\.\w+ of this model, 8 experts"
    ):
        inlay.load(mixture("mixtral", num_local_experts=8, hidden_size=64), tmp_path)


def test_a_parameter_that_is_no_stack_of_experts_is_refused_by_name(tmp_path: Path) -> None:
    theirs("gpt_oss", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for entry in ("experts.gate_up_proj_bias", "norm.weight"):
        config["target_parameters"] = [entry]
        unseal(tmp_path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=rf"target_parameters selects model.*{entry.split('.')[-1]}, which"):
            inlay.load(mixture("gpt_oss"), tmp_path)


@pytest.mark.parametrize("version", ["0.18.0", "0.19.1"])
@pytest.mark.parametrize("square", [False, True])
def test_files_of_before_peft_took_the_last_dimension_for_the_input(version: str, square: bool, tmp_path: Path) -> None:
    """A square matrix does not tell which it is; the release that wrote the file does."""
    inner = 32 if square else 48
    base = mixture("mixtral", intermediate_size=inner)
    torch.manual_seed(5)
    a, b = torch.randn(4 * 3, 32 if version == "0.18.0" else inner) / 3, torch.randn(0)
    b = torch.randn(inner if version == "0.18.0" else 32, 3 * 4) / 3
    tensors = {}
    for layer in (0, 1):
        key = f"base_model.model.model.layers.{layer}.mlp.experts"
        tensors |= {f"{key}.lora_A.weight": a.clone(), f"{key}.lora_B.weight": b.clone()}
        for expert in range(4):
            change = b.view(len(b), 3, 4)[:, :, expert] @ a.view(4, 3, -1)[expert]
            change = change.T if version == "0.18.0" else change
            base.model.layers[layer].mlp.experts.down_proj.data[expert] += 5 / 3 * change
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": [], "peft_version": version}
    config["target_parameters"] = ["experts.down_proj"]
    unseal(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = mixture("mixtral", intermediate_size=inner)
    inlay.load(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-5, atol=1e-5)


def test_layers_and_experts_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """down_proj is a layer of the shared expert, and a parameter of the others that such an entry does not mean."""
    for n, targets in enumerate((["down_proj", "q_proj"], r".*(down|q)_proj")):
        torch.manual_seed(6)
        model = peft.get_peft_model(
            mixture("qwen2_moe"), peft.LoraConfig(r=3, target_modules=targets, init_lora_weights=False)
        )
        model.eval().save_pretrained(tmp_path / str(n))
        torch.testing.assert_close(_loaded("qwen2_moe", tmp_path / str(n)), logits(model), rtol=1e-5, atol=1e-5)
