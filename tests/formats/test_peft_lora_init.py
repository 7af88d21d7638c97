"""LoRA's starts are saved as plain LoRA, which Hugging Face PEFT reads; where PEFT has the start, it is the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.formats import peft as format_
from inlay.models import weights

from ..methods.test_eva import batches, overlap
from ..shapes import SHAPES, Shape, disturb
from .matrix import variants_and_builds
from .test_peft import QUERY_VALUE, both_equal, close, inputs, task_type

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")

STARTS = ("gaussian", "orthogonal", "pissa", "olora", "eva")
starts_and_builds = variants_and_builds(STARTS, called="initialization")


def attached(shape: Shape, build: Any, initialization: Any, **settings: Any) -> tuple[Any, inlay.Adapter]:
    model = build()
    method = inlay.LoRA(rank=4, alpha=8, targets=QUERY_VALUE[shape.name], initialization=initialization, **settings)
    adapter = inlay.attach(model, method)
    given = [{k: t for k, t in b.items() if k != "labels"} for b in batches(3)]
    for batch in given:
        if "decoder_input_ids" in inputs(shape, model, labels=False):
            batch["decoder_input_ids"] = batch["input_ids"][:, :3]
    method.initialize_from_data(adapter, iter(given))
    disturb(adapter)
    return model, adapter


@starts_and_builds
def test_peft_and_we_read_it_as_plain_lora(initialization: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    model, adapter = attached(shape, build, initialization)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == (8 if initialization in ("pissa", "olora") else 4)
    tensors = load_file(tmp_path / format_.TENSORS)
    assert all("start_" not in key for key in tensors)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))

    again = build()
    loaded = inlay.load(again, tmp_path)
    assert isinstance(loaded.method, inlay.LoRA)
    assert loaded.method.initialization == "kaiming"  # where it began no longer matters: every tensor is in the file
    both_equal(again, model, inputs(shape, model))
    loaded.save(tmp_path / "again")
    assert all(torch.equal(t, tensors[k]) for k, t in load_file(tmp_path / "again" / format_.TENSORS).items())


@pytest.mark.parametrize("stabilized", [False, True])
@pytest.mark.parametrize("initialization", ["pissa", "olora", "eva"])
def test_scales_and_patterns_hold_at_twice_the_rank(initialization: str, stabilized: bool, tmp_path: Path) -> None:
    """PEFT refuses to convert its own pissa adapters when rank_stabilized and patterns come together."""
    shape = SHAPES["bert"]
    patterns = {"rank_pattern": {"layer.0.*value": 6}, "alpha_pattern": {"query": 5.0}}
    model, adapter = attached(shape, shape.classifier, initialization, rank_stabilized=stabilized, **patterns)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(shape.classifier(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))
    again = shape.classifier()
    loaded = inlay.load(again, tmp_path)
    both_equal(again, model, inputs(shape, model))
    for host, delta in adapter.deltas.items():
        if hasattr(delta, "scale"):
            assert loaded.deltas[host].scale == pytest.approx(delta.scale, rel=1e-12)


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_output_and_gradients_are_those_of_peft_s_own_start(initialization: str, shape: Shape) -> None:
    """PEFT writes the residual into its base. On GPT-2's transposed layers its olora is wrong: the next test."""
    if initialization == "olora" and shape.name == "gpt2":
        pytest.skip("PEFT's olora takes a transposed weight the wrong way round")
    settings = {
        "init_lora_weights": initialization,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": [*QUERY_VALUE[shape.name]],
    }
    build = shape.model
    theirs = peft.get_peft_model(build(), peft.LoraConfig(task_type=task_type(shape, build()), **settings)).eval()
    model = build()
    method = inlay.LoRA(rank=4, alpha=8, targets=QUERY_VALUE[shape.name], initialization=initialization)  # type: ignore[arg-type]
    adapter = inlay.attach(model, method)
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for host, _, delta in adapter.hosts():
        if not hasattr(delta, "lora_A"):
            continue
        layer = theirs.get_submodule(f"base_model.model.{host}")
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        close((b @ a).detach(), (delta.lora_B @ delta.lora_A).detach(), 1e-5)  # the same start, up to signs
        step_a, step_b = (
            0.1 * torch.randn(a.shape, generator=generator),
            0.1 * torch.randn(b.shape, generator=generator),
        )
        signs = (a * delta.lora_A).sum(1).sign().detach()
        with torch.no_grad():
            a += step_a
            b += step_b
            delta.lora_A += signs[:, None] * step_a
            delta.lora_B += signs * step_b
        pairs += [(a, delta.lora_A, signs[:, None]), (b, delta.lora_B, signs)]
    both_equal(model, theirs, inputs(shape, model))
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    for its, ours, signs in pairs:
        close(ours.grad, signs * its.grad, 1e-4)


def test_olora_is_right_on_transposed_layers_where_peft_s_is_wrong() -> None:
    """PEFT decomposes the (I, O) weight as if it were (O, I). On GPT-2's square projections with random weights the
    logits are off by 0.1 and more before any training; on rectangular ones it fails. Here the start is the base."""
    shape = SHAPES["gpt2"]
    base = shape.model()
    expected = base(**shape.inputs()).logits
    square = r".*attn\.c_proj"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=square, init_lora_weights="olora", fan_in_fan_out=True)
    theirs = peft.get_peft_model(shape.model(), config).eval()
    assert (theirs(**shape.inputs()).logits - expected).abs().max() > 1e-2
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights="olora", fan_in_fan_out=True)
    with pytest.raises(RuntimeError):
        peft.get_peft_model(shape.model(), config)(**shape.inputs())

    for targets in (square, "c_attn", "c_fc"):
        model = shape.model()
        adapter = inlay.attach(model, inlay.LoRA(rank=4, targets=(targets,), initialization="olora"))
        close(model(**shape.inputs()).logits, expected, 1e-6)
        for _, host, delta in adapter.hosts():
            assert isinstance(host, Conv1D)
            q, r = torch.linalg.qr(weights.read(host)["weight"].detach())
            close((delta.lora_B @ delta.lora_A).detach(), q[:, :4] @ r[:4], 1e-5)


def test_eva_finds_the_directions_that_peft_finds(shape: Shape) -> None:
    if shape.name == "t5":
        pytest.skip("PEFT's own forward does not feed T5's decoder")
    given = [{k: t for k, t in b.items() if k != "labels"} for b in batches(8)]
    query, value = QUERY_VALUE[shape.name]
    config = peft.LoraConfig(
        r=4,
        target_modules=[query, value],
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=1.0, use_label_mask=False, tau=0.99),
    )
    theirs = peft.get_peft_model(shape.classifier(), config).eval()
    peft.initialize_lora_eva_weights(theirs, given, show_progress_bar=False, gather_distributed_inputs=False)
    model = shape.classifier()
    method = inlay.LoRA(rank=4, targets=(query, value), initialization="eva", eva_rank_ratio=1.0)
    adapter = inlay.attach(model, method)
    method.initialize_from_data(adapter, iter(given))
    for host, delta in adapter.deltas.items():
        if hasattr(delta, "lora_A"):
            their_a = theirs.get_submodule(f"base_model.model.{host}").lora_A["default"].weight.detach()
            assert overlap(delta.lora_A.detach(), nn.functional.normalize(their_a)) > 0.9
