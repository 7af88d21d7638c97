"""LoftQ's start against the singular value decomposition of what quantization has changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.bases.quantized import quantize
from inlay.errors import SettingsError, TargetError
from inlay.methods.starts.loftq import LoftQ, correction
from inlay.models import weights

from ..quantized_models import WIDE, every_shape, packed_layers
from ..shapes import Shape, disturb, logits

RANK = 4


def error_left(original_OI: Tensor, quantized_OI: Tensor, rank: int) -> float:
    """What the best approximation of this rank leaves of the difference."""
    values = torch.linalg.svdvals((original_OI - quantized_OI).double())
    return float(values[rank:].square().sum().sqrt())


@torch.no_grad()
def error_of(original_OI: Tensor, quantized_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> float:
    return float((original_OI - quantized_OI - scale * b_OR @ a_RI).double().norm())


def from_files(shape: Shape, folder: Path, **settings: Any) -> Any:
    """A model that was saved in `folder` and loaded from there, as `from_pretrained` leaves it."""
    model = shape.model()
    model.save_pretrained(folder, **settings)
    return type(model).from_pretrained(folder)


def corrected(shape: Shape, folder: Path, method: inlay.LoRA | None = None) -> tuple[nn.Module, inlay.Adapter]:
    model = from_files(shape, folder)
    quantize(model, torch.float32)
    adapter = inlay.attach(model, method or inlay.LoRA(rank=RANK))
    LoftQ().from_data(model, adapter.deltas, iter(()), 1.0)  # pyright: ignore[reportArgumentType]
    return model, adapter


@pytest.mark.parametrize("size", [(96, 64), (600, 500)], ids=["small", "large"])
@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0])
def test_the_correction_is_the_best_of_its_rank(size: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    original_OI = torch.randn(size, generator=generator)
    quantized_OI = (4 * original_OI).round() / 4
    a_RI, b_OR = correction(original_OI, quantized_OI, RANK, scale)
    assert a_RI.dtype == b_OR.dtype == torch.float32
    expected = error_left(original_OI, quantized_OI, RANK)
    assert error_of(original_OI, quantized_OI, a_RI, b_OR, scale) == pytest.approx(expected, rel=1e-5)
    assert expected < 0.999 * (original_OI - quantized_OI).norm()
    torch.testing.assert_close(a_RI.norm(dim=1), b_OR.norm(dim=0), rtol=1e-4, atol=0)


@every_shape
def test_every_quantized_weight_gets_as_near_to_the_original_as_its_rank_allows(shape: Shape, tmp_path: Path) -> None:
    plain = shape.model()
    method = inlay.LoRA(rank=RANK, alpha=3, rank_stabilized=True, rank_pattern={r".*(v_proj|key|c_attn|k)": 6})
    _, adapter = corrected(shape, tmp_path, method)
    ranks = set()
    for name, host, delta in adapter.hosts():
        if not isinstance(host, nn.Linear) or not weights.is_packed(host):
            continue
        assert isinstance(delta, inlay.methods.reparameterized.low_rank.LowRank)
        original_OI = weights.read(plain.get_submodule(name))["weight"].detach()
        quantized_OI = weights.read(host)["weight"]
        ranks.add(rank := len(delta.lora_A))
        left = error_of(original_OI, quantized_OI, delta.lora_A, delta.lora_B, delta.scale)
        assert left == pytest.approx(error_left(original_OI, quantized_OI, rank), rel=1e-5)
        assert left < (original_OI - quantized_OI).norm()
    assert ranks == {RANK, 6}


@every_shape
def test_outputs_start_nearer_to_those_of_the_base_before_quantization(shape: Shape, tmp_path: Path) -> None:
    original = logits(shape.model(), shape)
    model, _ = corrected(shape, tmp_path, inlay.LoRA(rank=32))
    with inlay.using(model):
        uncorrected = (logits(model, shape) - original).norm()
    assert (logits(model, shape) - original).norm() < 0.6 * uncorrected


def test_plain_layers_beside_quantized_ones_start_as_ever(tmp_path: Path) -> None:
    model, adapter = corrected(WIDE["t5"], tmp_path)
    starts = {name: delta.lora_B.abs().max() for name, delta in adapter.deltas.items() if "lm_head" not in name}
    assert {name for name, start in starts.items() if start == 0} == {n for n in starts if n.endswith(".wo")}
    assert {name for name, start in starts.items() if start > 0} == {name for name, _ in packed_layers(model)}


def test_the_base_keeps_its_bits_and_the_same_start_comes_out_again(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    fresh = shape.model()
    quantize(fresh, torch.float32)
    bits = {name: layer.weight for name, layer in packed_layers(fresh)}
    states = []
    for _ in range(2):
        model, adapter = corrected(shape, tmp_path)
        assert all(torch.equal(layer.weight, bits[name]) for name, layer in packed_layers(model))
        states.append(adapter.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_originals_are_found_in_several_files(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    model = from_files(shape, tmp_path / "several", max_shard_size="50KB")
    assert len(list((tmp_path / "several").glob("model*.safetensors"))) > 1
    quantize(model, torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(rank=RANK))
    LoftQ().from_data(model, adapter.deltas, iter(()), 1.0)  # pyright: ignore[reportArgumentType]
    expected = corrected(shape, tmp_path / "one")[1].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter.state_dict().items())


def test_originals_are_found_without_the_prefix_that_a_classifier_puts_before_them(tmp_path: Path) -> None:
    shape = WIDE["bert"]
    shape.model().base_model.save_pretrained(tmp_path)
    model = shape.model_class.from_pretrained(tmp_path, num_labels=3)  # pyright: ignore[reportFunctionMemberAccess]
    quantize(model, torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(rank=RANK))
    LoftQ().from_data(model, {n: d for n, d in adapter.deltas.items() if n != "classifier"}, iter(()), 1.0)  # pyright: ignore
    assert all(d.lora_B.any() for n, d in adapter.deltas.items() if n != "classifier")


def test_originals_are_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, asked = WIDE["llama"], []
    model, adapter = corrected(shape, tmp_path)
    expected = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    model.config._name_or_path = "someone/model"
    model.config._commit_hash = "abc"

    def cached(name: str, file: str, revision: str) -> str:
        asked.append((name, revision))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    disturb(adapter)
    LoftQ().from_data(model, adapter.deltas, iter(()), 1.0)  # pyright: ignore[reportArgumentType]
    assert asked == [("someone/model", "abc")]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter.state_dict().items())


@pytest.mark.parametrize("kind", [inlay.LoRA, inlay.DoRA])
def test_as_an_initialization_it_starts_the_model_as_the_corrected_one(kind: type[inlay.LoRA], tmp_path: Path) -> None:
    shape = WIDE["llama"]
    model = from_files(shape, tmp_path)
    quantize(model, torch.float32)
    method = kind(rank=RANK, initialization="loftq")
    adapter = inlay.attach(model, method)
    method.initialize_from_data(adapter, iter(()))
    corrected_too, _ = corrected(shape, tmp_path, inlay.LoRA(rank=RANK))
    torch.testing.assert_close(logits(model, shape), logits(corrected_too, shape), atol=1e-5, rtol=1e-5)
    adapter.save(tmp_path / "adapter")
    again = from_files(shape, tmp_path)
    quantize(again, torch.float32)
    inlay.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again, shape), logits(model, shape))
    with pytest.raises(SettingsError, match="in full precision"):
        inlay.attach(shape.model(), method)
    with pytest.raises(SettingsError, match="alpha is 0; loftq needs it above 0"):
        kind(alpha=0, initialization="loftq")
    with pytest.raises(TargetError, match="loftq cannot find as many directions"):
        inlay.attach(corrected_too, kind(rank=65, initialization="loftq"), "more")


def test_a_base_in_full_precision_is_refused() -> None:
    hosts = dict(WIDE["llama"].model().model.layers[0].self_attn.named_children())
    with pytest.raises(SettingsError, match="loftq.* q_proj is a Linear in full precision.*quantize the base or"):
        LoftQ().check_hosts(hosts)
    model = WIDE["llama"].model()
    quantize(model, torch.float32)
    LoftQ().check_hosts(dict(model.model.layers[0].self_attn.named_children()))


def fails(shape: Shape, model: nn.Module, match: str) -> None:
    """The start is refused and leaves the adapter as it was."""
    adapter = inlay.attach(model, inlay.LoRA(rank=RANK))
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    with pytest.raises(SettingsError, match=match):
        LoftQ().from_data(model, adapter.deltas, iter(()), 1.0)  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.state_dict().items())


def test_a_model_that_came_from_no_files_is_refused(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    model = shape.model()
    quantize(model, torch.float32)
    fails(shape, model, "the model does not tell its folder; load the base with")
    model = from_files(shape, tmp_path)
    quantize(model, torch.float32)
    model.config._name_or_path = "someone/nothing"
    fails(shape, model, "'someone/nothing' is no folder and not in the hub's cache")


def test_a_folder_without_the_original_weight_is_refused(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    model = from_files(shape, tmp_path)
    quantize(model, torch.float32)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    fails(shape, model, r"model\.layers\.0\.self_attn\.q_proj\.weight .* there are none named model\*\.safetensors")
    WIDE["bert"].model().save_pretrained(tmp_path)
    model = from_files(shape, tmp_path / "whole")
    quantize(model, torch.float32)
    model.config._name_or_path = str(tmp_path)
    fails(shape, model, r"model\.layers\.0\.self_attn\.q_proj\.weight .* there hold \d+ others")


def test_weights_that_are_not_those_of_the_model_are_refused(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    model = from_files(shape, tmp_path)
    quantize(model, torch.float32)
    other = shape.model()
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.normal_()
    other.save_pretrained(tmp_path)
    fails(shape, model, r"layers\.1\.mlp\.down_proj\.weight in .* was quantized from: they differ by \d+%")
    other.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(32, 64))
    other.save_pretrained(tmp_path)
    fails_on(shape, tmp_path, tmp_path / "again", r"it has shape \(32, 64\) there, \(128, 64\) here")


def test_files_that_are_quantized_themselves_are_refused(tmp_path: Path) -> None:
    shape = WIDE["llama"]
    packed = shape.model()
    quantize(packed, torch.float32)
    packed.save_pretrained(tmp_path)
    fails_on(shape, tmp_path, tmp_path / "again", r"q_proj.weight in .* it is quantized there too \(torch.uint8\)")


def fails_on(shape: Shape, files: Path, own_folder: Path, match: str) -> None:
    model = from_files(shape, own_folder)
    quantize(model, torch.float32)
    model.config._name_or_path = str(files)
    fails(shape, model, match)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_what_is_saved_is_plain_lora_which_peft_runs_on_the_quantized_base(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    shape = WIDE["llama"]
    model, adapter = corrected(shape, tmp_path / "base")
    disturb(adapter, 0.02)
    adapter.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == RANK
    base = type(model).from_pretrained(
        tmp_path / "base",
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        ),
    )
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    weights.keep_trainable(theirs)
    assert any(type(m).__module__ == "peft.tuners.lora.bnb" for m in theirs.modules())
    torch.testing.assert_close(logits(theirs, shape), logits(model, shape), atol=1e-5, rtol=1e-5)
