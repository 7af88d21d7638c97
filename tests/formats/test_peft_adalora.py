"""AdaLoRA's files are those of Hugging Face PEFT: same outputs, loss and gradients, before components go and after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5ForSequenceClassification

import inlay
from inlay import AdaLoRA
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed
from inlay.methods.reparameterized.components import components

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb
from .matrix import variants_and_builds
from .test_peft import LAYERS, QUERY_VALUE, REGEX, close, inputs, task_type

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about tied weights and factors of no rank

RANK = 4
VARIANTS = ("plain", "pruned", "dropout", "regex", "subset")
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_variant_and_build = variants_and_builds(VARIANTS)


def peft_config(variant: str, shape: Shape, task: str | None, **more: Any) -> Any:
    settings: dict[str, Any] = {"target_modules": list(QUERY_VALUE[shape.name])}
    settings |= {
        "dropout": {"lora_dropout": 0.3},
        "regex": {"target_modules": REGEX[shape.name]},
        "subset": {"layers_to_transform": [1], "layers_pattern": LAYERS[shape.name]},
    }.get(variant, {})
    settings |= {"init_r": RANK, "target_r": 2, "lora_alpha": 8, "total_step": 100, "tinit": 10, "tfinal": 20}
    return peft.AdaLoraConfig(task_type=task, **settings | more)


def gone(names: list[str]) -> dict[str, list[bool]]:
    """What a run might have kept: all of one layer, none of another, parts of the others."""
    patterns = [[True] * RANK, [False] * RANK, [False, True, True, False], [True, False, False, False]]
    return {name: patterns[i % len(patterns)] for i, name in enumerate(names)}


def trained_by_peft(shape: Shape, build: Callable[[], Any], variant: str, folder: Path, **more: Any) -> Any:
    """A PEFT model with every trained tensor moved, saved in `folder` and read from there, ready to be trained on."""
    model = build()
    if isinstance(model, T5ForSequenceClassification):
        more["modules_to_save"] = ["classification_head"]
    theirs = peft.get_peft_model(model, peft_config(variant, shape, task_type(shape, model), **more)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    if variant == "pruned":
        names = [n.removeprefix("base_model.model.") for n, _ in theirs.named_parameters() if ".lora_E." in n]
        theirs.peft_config["default"].rank_pattern = gone(names)
    theirs.save_pretrained(str(folder))
    return peft.PeftModel.from_pretrained(build(), str(folder), is_trainable=True).eval()


@every_variant_and_build
def test_we_compute_the_same_from_peft_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    theirs = trained_by_peft(shape, build, variant, tmp_path)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.load(model, tmp_path)
    mine, its = model(**inputs(shape, model)), theirs(**inputs(shape, model))
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    close(mine.logits, its.logits)
    assert not torch.allclose(mine.logits, before, atol=1e-3)
    if theirs.peft_config["default"].task_type is None:
        penalty = penalty * 0  # a defect of PEFT: without a task its loss has no penalty
    close(mine.loss + penalty, its.loss)

    (mine.loss + penalty).backward()
    its.loss.backward()
    expected = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.requires_grad
    }
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    kept = {host: delta.kept[:, 0] for host, delta in components(adapter)}
    ours = {}
    for name, p in adapter.named_parameters():
        assert p.grad is not None
        host, _, parameter = name.rpartition(".")
        rows = kept.get(host, ...)
        ours[keys[name]] = p.grad[:, rows] if parameter == "lora_B" else p.grad[rows]
        if host in kept:
            assert not (p.grad[:, ~kept[host]] if parameter == "lora_B" else p.grad[~kept[host]]).any()
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, torch.zeros_like(gradient) if expected[name] is None else expected[name], 1e-4)
    assert sum(bool(g.abs().max() > 1e-6) for g in ours.values() if g.numel()) > 0.5 * len(ours)


@every_variant_and_build
def test_peft_computes_the_same_from_our_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    model = build()
    targets = {
        "regex": (REGEX[shape.name],),
        "subset": (rf".*{LAYERS[shape.name]}\.1\..*{QUERY_VALUE[shape.name][0]}",),
    }.get(variant, QUERY_VALUE[shape.name])
    adapter = inlay.attach(model, AdaLoRA(initial_rank=RANK, target_rank=2, alpha=8, targets=targets))
    disturb(adapter)
    if variant == "pruned":
        for (_, delta), kept in zip(components(adapter), gone(list(adapter.deltas)).values(), strict=False):
            delta.kept[:, 0] = torch.tensor(kept)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path), is_trainable=True).eval()
    given = inputs(shape, model)
    mine, its = model(**given), theirs(**given)
    penalty = adapter.method.penalty(adapter)
    assert penalty is not None
    close(mine.logits, its.logits)
    close(mine.loss + (0 if theirs.peft_config["default"].task_type is None else penalty), its.loss)
    assert not torch.allclose(mine.logits, build()(**given).logits, atol=1e-3)


@every_variant
def test_saved_and_loaded_again_the_files_stay_the_same(variant: str, shape: Shape, tmp_path: Path) -> None:
    trained_by_peft(shape, shape.classifier, variant, tmp_path / "peft")
    adapter = inlay.load(shape.classifier(), tmp_path / "peft")
    adapter.save(tmp_path / "first")
    inlay.load(shape.classifier(), tmp_path / "first").save(tmp_path / "second")
    theirs, ours = load_file(tmp_path / "peft" / format_.TENSORS), load_file(tmp_path / "first" / format_.TENSORS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    read = [json.loads((tmp_path / name / format_.CONFIG).read_text()) for name in ("peft", "first")]
    for key in ("init_r", "target_r", "lora_alpha", "lora_dropout", "deltaT", "beta1", "beta2", "orth_reg_weight"):
        assert read[0][key] == read[1][key], key
    assert read[0]["rank_pattern"] == read[1]["rank_pattern"]
    assert (read[1]["total_step"], read[1]["tinit"], read[1]["tfinal"]) == (1000, 100, 200)  # of PEFT's 100, 10 and 20
    for file in (format_.CONFIG, format_.TENSORS, format_.PROVENANCE):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_shares_that_round_to_a_whole_run_leave_peft_a_step(tmp_path: Path) -> None:
    for first, last in ((0.4996, 0.4999), (0.9999, 0.0), (0.0, 0.9999)):
        adapter = inlay.attach(SHAPES["bert"].model(), AdaLoRA(initial_phase=first, final_phase=last))
        adapter.save(tmp_path)
        peft.PeftConfig.from_pretrained(str(tmp_path))


def test_the_same_components_are_dropped_as_in_peft_until_the_last_reduction(tmp_path: Path) -> None:
    """At the last one PEFT's scores leave the step's gradient out, and ours, like every other step's, have it."""
    shape, steps = SHAPES["llama"], 40
    phases = {"total_step": steps, "tinit": 4, "tfinal": 8, "deltaT": 4, "orth_reg_weight": 0.1}
    theirs = trained_by_peft(shape, shape.model, "plain", tmp_path, **phases)
    model = shape.model()
    adapter = inlay.load(model, tmp_path)
    optimizers = [
        torch.optim.AdamW([p for p in each.parameters() if p.requires_grad], lr=3e-3) for each in (theirs, model)
    ]
    given = inputs(shape, model)
    for step in range(1, steps - 8):
        penalty = adapter.method.penalty(adapter)
        assert penalty is not None
        theirs(**given).loss.backward()
        (model(**given).loss + penalty).backward()
        for optimizer in optimizers:
            optimizer.step()
        theirs.base_model.update_and_allocate(step)
        adapter.method.after_step(adapter, step, steps)
        for optimizer in optimizers:
            optimizer.zero_grad()
        its = [p for n, p in theirs.named_parameters() if ".lora_E." in n]
        ours = [delta.coefficient for _, delta in components(adapter)]
        for mine, other in zip(ours, its, strict=True):
            assert torch.equal(mine == 0, other == 0)
            close(mine, other, 1e-3)
    assert sum(int((p == 0).sum()) for p in its) == 0  # they have grown again since the last reduction
    assert theirs.peft_config["default"].rank_pattern is not None


def peft_files(folder: Path, **changes: Any) -> Path:
    trained_by_peft(SHAPES["llama"], SHAPES["llama"].model, "pruned", folder)
    path = folder / format_.CONFIG
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


QUERY = "model.layers.0.self_attn.q_proj.lora_E"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rslora": True}, "use_rslora is True; this changes what the adapter computes"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which AdaLoRA does not have"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is .*q_proj"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"total_step": 0}, "total_step is 0; it must be at least 1"),
        ({"total_step": None}, "a setting has a value that it cannot have"),
        ({"tinit": 80}, "together below 1"),
        ({"rank_pattern": None}, r"q_proj.lora_\w has shape .*, but rank_pattern keeps 4 rows|keeps 4 rows"),
        ({"rank_pattern": {QUERY: [True] * 3}}, "rank_pattern"),
        ({"rank_pattern": {"model.layers.9.lora_E": [True] * 4}}, "keeps 4 rows"),
    ],
)
def test_what_peft_ignores_silently_or_does_not_fit_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    """PEFT bug 7: it accepts use_rslora, init_lora_weights and alpha_pattern of an AdaLoRA and ignores them."""
    with pytest.raises(inlay.errors.CheckpointError, match=message):
        inlay.load(SHAPES["llama"].model(), peft_files(tmp_path, **changes))


def test_a_rank_pattern_of_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pattern = json.loads((peft_files(tmp_path) / format_.CONFIG).read_text())["rank_pattern"]
    path = tmp_path / format_.CONFIG
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": pattern | {"model.x.lora_E": [True]}}))
    with pytest.raises(inlay.errors.CheckpointError, match=r"rank_pattern names model\.x\.lora_E, which has no tensor"):
        inlay.load(SHAPES["llama"].model(), tmp_path)


@pytest.mark.parametrize("parameter", ["lora_A", "lora_B", "lora_E"])
def test_a_missing_tensor_is_refused(parameter: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    peft_files(tmp_path)
    tensors = load_file(tmp_path / format_.TENSORS)
    del tensors[f"base_model.model.{QUERY.removesuffix('lora_E')}{parameter}"]
    unseal(tmp_path)
    save_file(tensors, tmp_path / format_.TENSORS)
    with pytest.raises(inlay.errors.CheckpointError, match=r"is missing|has no tensor"):
        inlay.load(SHAPES["llama"].model(), tmp_path)
