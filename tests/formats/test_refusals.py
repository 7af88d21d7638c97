"""Adapter files that are damaged, do not fit or mean something unknown are refused; the model stays as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import inlay
from inlay.formats import peft as format_

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb
from .test_peft import LAYERS, QUERY_VALUE, close, inputs, trained_by_peft

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about tied weights


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    shape = SHAPES["llama"]
    with torch.no_grad():
        outputs = model(**inputs(shape, model, labels=False)).logits.tolist()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    flags = {n: (p.requires_grad, p.dtype) for n, p in model.named_parameters()}
    return outputs, flags, [n for n, _ in model.named_modules()], hooks, "_inlay" in model.__dict__


def refused(build: Callable[[], nn.Module], folder: Path, message: str) -> None:
    model = build()
    if build == SHAPES["llama"].classifier:
        before = snapshot(model)
    with pytest.raises(inlay.errors.CheckpointError, match=message):
        inlay.load(model, folder)
    if build == SHAPES["llama"].classifier:
        assert snapshot(model) == before
    assert not inlay.adapters(model)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    shape = SHAPES["llama"]
    adapter = inlay.attach(shape.classifier(), inlay.LoRA(rank=4, targets=("q_proj", "embed_tokens")))
    disturb(adapter)
    adapter.save(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / format_.CONFIG
    config = json.loads(path.read_text()) | changes
    unseal(folder)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / format_.TENSORS)
    change(tensors)
    unseal(folder)
    save_file(tensors, folder / format_.TENSORS)


classifier = SHAPES["llama"].classifier
KEY = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"


def test_a_missing_tensor_is_refused(saved: Path) -> None:
    """PEFT bug 6: it warns and leaves the module at its random start."""
    edit_tensors(saved, lambda t: t.pop(KEY))
    refused(classifier, saved, r"layers\.1\.self_attn\.q_proj\.lora_B is missing")


def test_a_missing_head_is_refused(saved: Path) -> None:
    edit_tensors(saved, lambda t: t.pop("base_model.model.score.weight"))
    refused(classifier, saved, r"score\.weight is missing")


def test_a_surplus_tensor_is_refused(saved: Path) -> None:
    """PEFT bug 6: it drops the tensor silently."""
    edit_tensors(saved, lambda t: t.update({KEY.replace("layers.1", "layers.7"): torch.zeros(32, 4)}))
    refused(classifier, saved, r"layers\.7\.self_attn\.q_proj\.lora_B\.weight has no place")


@pytest.mark.parametrize("module", ["model.nothing", "model", "model.layers.0.self_attn.o_proj", "model.rotary_emb"])
def test_a_copy_of_a_base_weight_that_is_no_copy_is_refused(saved: Path, module: str) -> None:
    edit_tensors(saved, lambda t: t.update({f"base_model.model.{module}.base_layer.weight": torch.zeros(32, 32)}))
    refused(classifier, saved, rf"{module}\.base_layer\.weight has no place")


def test_a_wrong_shape_is_refused(saved: Path) -> None:
    edit_tensors(saved, lambda t: t.update({KEY: torch.zeros(32, 3)}))
    refused(classifier, saved, r"q_proj\.lora_B has shape \(32, 3\), its place \(32, 4\)")


def test_a_config_with_another_rank_than_the_tensors_is_refused(saved: Path) -> None:
    edit_config(saved, r=8)
    refused(classifier, saved, r"lora_A has shape \(4, 32\), its place \(8, 32\).*and \d more")


def test_a_file_cut_short_is_refused(saved: Path) -> None:
    path = saved / format_.TENSORS
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 4, len(whole) - 1):
        unseal(saved)
        path.write_bytes(whole[:length])
        refused(classifier, saved, rf"the tensors of an adapter of {length} bytes that cannot be read")
    path.write_bytes(whole + b"\0\0\0\0")
    refused(classifier, saved, "bytes that cannot be read")
    path.unlink()
    refused(classifier, saved, f"{format_.TENSORS}: no such file")


def test_a_folder_without_an_adapter_is_refused(saved: Path, tmp_path: Path) -> None:
    (saved / format_.CONFIG).unlink()
    refused(classifier, saved, f"no {format_.CONFIG} here or in its folder adapter; it holds {format_.TENSORS}")
    refused(classifier, tmp_path / "elsewhere", "there is no such folder")
    (saved / "run.yaml").write_text("model: some\n")
    refused(classifier, saved, "this run has kept no adapter; if it was interrupted, go on with: inlay resume ")


def test_a_run_folder_leads_to_its_adapter(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    for file in (format_.CONFIG, format_.TENSORS, format_.PROVENANCE):
        (saved / file).rename(run / "adapter" / file)
    assert inlay.load(classifier(), run).heads == ("score",)


@pytest.mark.parametrize("text", ["", "{", "not json", "\udcff"])
def test_a_config_that_is_not_json_is_refused(saved: Path, text: str) -> None:
    unseal(saved)
    (saved / format_.CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(classifier, saved, f"{format_.CONFIG}: the configuration of an adapter that cannot be read")


@pytest.mark.parametrize("text", ["[]", "{}", '"LORA"', '{"peft_type": null}'])
def test_a_config_of_something_else_is_refused(saved: Path, text: str) -> None:
    unseal(saved)
    (saved / format_.CONFIG).write_text(text)
    refused(classifier, saved, f"{format_.CONFIG}: no peft_type")


def test_a_provenance_that_is_not_json_is_refused(saved: Path) -> None:
    (saved / format_.PROVENANCE).write_text("{")
    refused(classifier, saved, f"{format_.PROVENANCE}: the provenance of an adapter that cannot be read")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "TELEPATHY"}, "no method here reads peft_type TELEPATHY; known: .*LORA"),
        ({"r": ...}, "r is missing"),
        ({"target_modules": ...}, "target_modules is missing"),
        ({"r": "four"}, "a setting has a value that it cannot have"),
        ({"r": 0}, "a setting has a value that it cannot have: method.rank is 0"),
        ({"target_modules": None}, "target_modules is null"),
        ({"target_modules": ["nothing_proj"]}, "targets 'nothing_proj' match no module"),
        ({"use_dora": True}, "target 'embed_tokens' matches only Embedding"),
        ({"use_dora": True, "target_modules": ["q_proj"]}, r"lora_magnitude_vector is missing"),
        ({"lora_bias": True}, "change_bias is set, but model.embed_tokens is a Embedding"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is"),
        ({"trainable_token_indices": [1, 2]}, "method.tokens trains rows of model.embed_tokens, which is adapted"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"a_setting_of_tomorrow": 0.5}, "a_setting_of_tomorrow is 0.5"),
        ({"init_lora_weights": "pissa"}, "initialization is pissa, which only linear layers can have"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "initialization is olora, which only linear layers can have"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    ],
)
def test_a_config_that_means_another_function_is_refused(saved: Path, changes: Any, message: str) -> None:
    edit_config(saved, **changes)
    refused(classifier, saved, message)


def test_names_of_other_architectures_in_the_list_of_targets_are_read(tmp_path: Path) -> None:
    """PEFT lets some of the names match nothing; the tensors still have to fit exactly."""
    shape = SHAPES["llama"]
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "query_key_value", "c_attn"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(shape.model(), config).eval()
    theirs.save_pretrained(str(tmp_path))
    model = shape.model()
    adapter = inlay.load(model, tmp_path)
    assert len(adapter.deltas) == 2
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", True])
def test_a_start_that_leaves_the_base_alone_is_read(init: Any, tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=init, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(shape.model(), config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape)
    theirs.save_pretrained(str(tmp_path))
    model = shape.model()
    inlay.load(model, tmp_path)
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)


@pytest.mark.parametrize("name", ["bitfit", "pfeiffer", "full"])
def test_an_unknown_setting_of_a_format_of_our_own_is_refused(name: str, tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    method = inlay.METHODS[name]()
    inlay.attach(shape.classifier(), method).save(tmp_path)
    edit_config(tmp_path, add_mising=True, peft_type=method.format.peft_type)
    near = {"bitfit": "did you mean add_missing"}.get(name, "unknown setting add_mising")
    refused(shape.classifier, tmp_path, f"unknown setting add_mising.*{near}" if name == "bitfit" else near)
    edit_config(tmp_path, add_mising=..., reduction_factr=2, peft_type=method.format.peft_type)
    near = r"did you mean reduction_factor\?" if name == "pfeiffer" else ""
    refused(shape.classifier, tmp_path, f"unknown setting reduction_factr.*{near}")


def test_files_in_half_precision_are_read_into_float32(saved: Path) -> None:
    exact = classifier()
    inlay.load(exact, saved)

    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({k: t.to(torch.bfloat16) for k, t in tensors.items()})

    edit_tensors(saved, halve)
    model = classifier()
    adapter = inlay.load(model, saved)
    state = load_file(saved / format_.TENSORS)
    assert all(p.dtype == torch.float32 for p in adapter.parameters())
    assert torch.equal(adapter.state_dict()["score.weight"], state["base_model.model.score.weight"].float())
    shape = SHAPES["llama"]
    close(model(**shape.inputs()).logits, exact(**shape.inputs()).logits, 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_copied_weight_of_an_adapted_embedding_must_be_the_base_weight(dtype: torch.dtype, tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    theirs = trained_by_peft(shape, shape.classifier, "embedding", tmp_path)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    assert key in load_file(tmp_path / format_.TENSORS)
    edit_tensors(tmp_path, lambda t: t.update({key: t[key].to(dtype)}))
    model = classifier()
    inlay.load(model, tmp_path)
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)
    edit_tensors(tmp_path, lambda t: t[key][3].add_(0.5))
    refused(classifier, tmp_path, r"embed_tokens\.base_layer\.weight .*differs from this model's")
    edit_tensors(tmp_path, lambda t: t.update({key: t[key][:-1].clone()}))
    refused(classifier, tmp_path, r"embed_tokens\.base_layer\.weight")


def test_an_adapted_embedding_that_is_tied_to_the_output_is_read(tmp_path: Path) -> None:
    shape = SHAPES["gpt2"]
    config = peft.LoraConfig(r=4, target_modules=["wte"], init_lora_weights=False, ensure_weight_tying=True)
    theirs = peft.get_peft_model(shape.model(), config).eval()
    theirs.save_pretrained(str(tmp_path))
    model = shape.model()
    inlay.load(model, tmp_path)
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)


def test_excluded_modules_and_chosen_layers_are_read_as_peft_reads_them(shape: Shape, tmp_path: Path) -> None:
    query, value = QUERY_VALUE[shape.name]
    cases: list[dict[str, Any]] = [
        {"exclude_modules": [value]},
        {"exclude_modules": rf".*{LAYERS[shape.name]}\.0\..*"},
        {"layers_to_transform": 0},
        {"layers_to_transform": [1], "layers_pattern": LAYERS[shape.name], "exclude_modules": [value]},
    ]
    for number, more in enumerate(cases):
        folder = tmp_path / str(number)
        theirs = trained_by_peft(shape, shape.model, "plain", folder, **more)
        model = shape.model()
        adapter = inlay.load(model, folder)
        hosts = {n.removeprefix("base_model.model.") for n, m in theirs.named_modules() if hasattr(m, "lora_A")}
        assert {h for h in adapter.deltas if not h.startswith("classifier")} == hosts
        close(model(**inputs(shape, model)).logits, theirs(**inputs(shape, model)).logits)

        tensors = load_file(folder / format_.TENSORS)  # a layer that the configuration names must be there whole
        gone = next(key for key in tensors if ".lora_A" in key).partition(".lora_A")[0]
        unseal(folder)
        save_file({k: t for k, t in tensors.items() if not k.startswith(gone)}, folder / format_.TENSORS)
        refused(shape.model, folder, r"lora_A is missing; .*lora_B is missing")  # not: a layer fewer was chosen


def test_all_that_an_adapter_of_somebody_else_has_and_is_not_known_is_named(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    inlay.attach(shape.classifier(), inlay.LoRA(rank=2)).save(tmp_path)
    edit_config(tmp_path, twist=3, use_qalora=True, fold={"by": 2})
    with pytest.raises(inlay.errors.CheckpointError) as caught:
        inlay.load(shape.classifier(), tmp_path)
    first, second = str(caught.value).splitlines()
    assert first.endswith("use_qalora is True; its inputs are pooled in groups before the first matrix")
    assert second == (
        "adapter_config.json: twist is 3, fold is {'by': 2}; these change what the adapter computes and are not known "
        "here; let PEFT merge it and use the merged model"
    )
    edit_config(tmp_path, use_qalora=..., fold=...)
    refused(shape.classifier, tmp_path, "twist is 3; this changes what the adapter computes and is not known here")
    inlay.attach(shape.classifier(), inlay.METHODS["bitfit"]()).save(tmp_path / "own")
    edit_config(tmp_path / "own", twist=3, fold=2)
    refused(shape.classifier, tmp_path / "own", "(?s)unknown setting twist.*unknown setting fold")
