"""Hugging Face PEFT reads what Inlay writes and the other way round: same outputs, same loss, same gradients."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5ForSequenceClassification

import inlay
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed

from ..core.test_architectures import ARCHITECTURES
from ..shapes import SHAPES, Shape, disturb, method
from .matrix import variants_and_builds

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about tied weights and position ids

QUERY_VALUE = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn", "c_proj"),
    "bert": ("query", "value"),
    "t5": ("q", "v"),
}
EMBEDDING = {"llama": "embed_tokens", "gpt2": "wte", "bert": "word_embeddings", "t5": "embed_tokens"}
REGEX = {
    "llama": r".*layers\.[01]\.(self_attn\.k|mlp\.up)_proj",
    "gpt2": r".*h\.\d\.attn\.c_(attn|proj)",
    "bert": r"bert\.encoder.*\.(key|intermediate\.dense)",
    "t5": r".*(SelfAttention\.k|wi_0|wo)",
}
LAYERS = {"llama": "layers", "gpt2": "h", "bert": "layer", "t5": "block"}
PROMPT = 5
VARIANTS = ("plain", "rank_stabilized", "patterns", "dropout", "subset", "regex", "embedding", "all_linear", "prompt")


def peft_config(variant: str, shape: Shape, task: str | None, **more: Any) -> Any:
    """PEFT's configuration of the variant, with random factors so that nothing hides behind a zero."""
    if variant == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=PROMPT, task_type=task, **more)
    query, value = QUERY_VALUE[shape.name]
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": [query, value]}
    settings |= {
        "plain": {},
        "rank_stabilized": {"use_rslora": True},
        "patterns": {"rank_pattern": {value: 2}, "alpha_pattern": {rf".*{LAYERS[shape.name]}\.0\..*{query}": 3}},
        "dropout": {"lora_dropout": 0.3},
        "subset": {"layers_to_transform": [1]},
        "regex": {"target_modules": REGEX[shape.name]},
        "embedding": {"target_modules": [EMBEDDING[shape.name], query]},
        "all_linear": {"target_modules": "all-linear"},
    }[variant]
    return peft.LoraConfig(task_type=task, init_lora_weights=False, **settings, **more)


def our_method(variant: str, shape: Shape) -> inlay.Method:
    if variant == "prompt":
        return inlay.PromptTuning(tokens=PROMPT)
    query, value = QUERY_VALUE[shape.name]
    settings: dict[str, Any] = {"rank": 4, "alpha": 8, "targets": (query, value)}
    settings |= {
        "plain": {},
        "rank_stabilized": {"rank_stabilized": True},
        "patterns": {"rank_pattern": {value: 2}, "alpha_pattern": {rf".*{LAYERS[shape.name]}\.0\..*{query}": 3}},
        "dropout": {"dropout": 0.3},
        "subset": {"targets": (rf".*{LAYERS[shape.name]}\.1\..*{query}",)},
        "regex": {"targets": (REGEX[shape.name],)},
        "embedding": {"targets": (EMBEDDING[shape.name], query)},
        "all_linear": {"targets": ("attention", "feedforward")},
    }[variant]
    return inlay.LoRA(**settings)


def inputs(shape: Shape, model: nn.Module, labels: bool = True) -> dict[str, Tensor]:
    given = shape.inputs()
    if is_classifier(model):
        given.pop("decoder_input_ids", None)
        if labels:
            given["labels"] = torch.tensor([0, 2, 1, 1])
    elif labels:
        given["labels"] = given["input_ids"].clone()
        given["labels"][:, 0] = -100  # PEFT's loss has the prompt predict it; Inlay's is the text's own
        given.pop("decoder_input_ids", None)
    return given


def is_classifier(model: nn.Module) -> bool:
    return "SequenceClassification" in type(model).__name__


def task_type(shape: Shape, model: nn.Module) -> str | None:
    if isinstance(model, T5ForSequenceClassification):
        return None  # PEFT knows its head by another name
    return "SEQ_CLS" if is_classifier(model) else "SEQ_2_SEQ_LM" if shape.name == "t5" else "CAUSAL_LM"


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def text_logits(theirs: Any, ours: Any) -> Tensor:
    """PEFT's logits without those of the prompt's positions, which Inlay never returns."""
    return theirs.logits[:, -ours.logits.shape[1] :] if theirs.logits.ndim == 3 else theirs.logits


def both_equal(ours: nn.Module, theirs: nn.Module, given: dict[str, Tensor]) -> None:
    mine, its = ours(**given), theirs(**given)
    close(mine.logits, text_logits(its, mine))
    close(mine.loss, its.loss)


def trained_by_peft(shape: Shape, build: Callable[[], Any], variant: str, folder: Path, **more: Any) -> Any:
    """A PEFT model with every trained tensor moved away from its start, also saved in `folder`."""
    model = build()
    if isinstance(model, T5ForSequenceClassification):
        more["modules_to_save"] = ["classification_head"]
    theirs = peft.get_peft_model(model, peft_config(variant, shape, task_type(shape, model), **more)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    theirs.save_pretrained(str(folder))
    return theirs


def skip_what_transformers_refuses(variant: str, shape: Shape, build: Callable[[], Any]) -> None:
    if variant == "prompt" and shape.name == "t5" and build == shape.classifier:
        pytest.skip("transformers' T5 classifier refuses embeddings as its input")


every_variant = variants_and_builds(VARIANTS)


@every_variant
def test_peft_computes_the_same_from_our_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_transformers_refuses(variant, shape, build)
    model = build()
    adapter = inlay.attach(model, our_method(variant, shape))
    disturb(adapter)
    adapter.save(tmp_path)
    assert not torch.allclose(model(**inputs(shape, model)).logits, build()(**inputs(shape, model)).logits, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    assert (
        type(theirs).__name__
        == {
            "CAUSAL_LM": "PeftModelForCausalLM",
            "SEQ_2_SEQ_LM": "PeftModelForSeq2SeqLM",
            "SEQ_CLS": "PeftModelForSequenceClassification",
            None: "PeftModelForSequenceClassification",
        }[task_type(shape, model)]
    )
    both_equal(model, theirs, inputs(shape, model))


@every_variant
def test_we_compute_the_same_from_peft_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_transformers_refuses(variant, shape, build)
    theirs = trained_by_peft(shape, build, variant, tmp_path)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.load(model, tmp_path)
    both_equal(model, theirs, inputs(shape, model))
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)

    ours = sum(p.numel() for p in adapter.parameters())
    unread = PROMPT * model.config.hidden_size if variant == "prompt" and shape.name == "t5" else 0
    assert ours == sum(p.numel() for p in theirs.parameters() if p.requires_grad) - unread


@every_variant
def test_gradients_equal_those_of_peft(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_transformers_refuses(variant, shape, build)
    theirs = trained_by_peft(shape, build, variant, tmp_path)
    model = build()
    adapter = inlay.load(model, tmp_path)
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    expected = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            name = name.replace(".modules_to_save.default", "").replace(".default", "")
            expected[name.replace("prompt_encoder.embedding.weight", "prompt_embeddings")] = p.grad
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    ours = {keys[name]: p.grad for name, p in adapter.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name][: len(gradient)], 1e-4)
        assert gradient.abs().max() > 1e-6 or "lora_" in name, name
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in ours.values()) > 0.7 * len(ours)


@every_variant
def test_saved_and_loaded_again_the_files_stay_the_same(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_transformers_refuses(variant, shape, build)
    trained_by_peft(shape, build, variant, tmp_path / "peft")
    inlay.load(build(), tmp_path / "peft").save(tmp_path / "first")
    inlay.load(build(), tmp_path / "first").save(tmp_path / "second")
    theirs, ours = load_file(tmp_path / "peft" / format_.TENSORS), load_file(tmp_path / "first" / format_.TENSORS)
    assert ours.keys() == {key for key in theirs if ".base_layer." not in key}
    assert all(torch.equal(tensor, theirs[key][: len(tensor)]) for key, tensor in ours.items())
    for file in (format_.CONFIG, format_.TENSORS, format_.PROVENANCE):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("method", [inlay.LoRA(rank=2), inlay.PromptTuning(tokens=PROMPT)], ids=["lora", "prompt"])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "vit"])
def test_other_architectures_compute_the_same_in_peft(architecture: str, method: Any, tmp_path: Path) -> None:
    def build() -> Any:
        torch.manual_seed(0)
        return ARCHITECTURES[architecture][0]().eval()

    model = build()
    ids_BT = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids_BT[:, :3]
    before = model(**given)[0]
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(tmp_path)
    y = model(**given)[0]
    assert not torch.allclose(y, before, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()(**given)[0]
    close(y, theirs[:, -y.shape[1] :] if y.ndim == 3 else theirs)


@pytest.mark.parametrize("variant", ["plain", "prompt"])
def test_generates_the_same_tokens_as_peft(variant: str, shape: Shape, tmp_path: Path) -> None:
    if not shape.generates:
        pytest.skip("does not generate")
    theirs = trained_by_peft(shape, shape.model, variant, tmp_path)
    model = shape.model()
    inlay.load(model, tmp_path)
    given = {key: t[:2] for key, t in shape.inputs().items() if key != "decoder_input_ids"}
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    rows = [given]
    if variant == "plain" or shape.name == "t5":  # PEFT drops position ids under a prompt: a padded row would differ
        rows.append(left_padded(given, 3))
    for row in rows:
        ours, its = model.generate(**row, **settings), theirs.generate(**row, **settings)
        assert ours[:, -6:].tolist() == its[:, -6:].tolist()


def left_padded(given: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first row with `count` padding tokens on its left, the others with as many more tokens."""
    ids_BT, mask_BT = given["input_ids"], given["attention_mask"]
    more_BT = ids_BT[:, :count].flip(1)
    more_BT[0] = 0
    return {
        "input_ids": torch.cat([more_BT, ids_BT], dim=1),
        "attention_mask": torch.cat([(more_BT != 0).long(), mask_BT], dim=1),
    }


def test_a_left_padded_classifier_row_is_what_peft_gives_for_the_row_alone(shape: Shape, tmp_path: Path) -> None:
    """PEFT puts the prompt before the padding, Inlay right before the first visible token."""
    if shape.name == "t5":
        pytest.skip("transformers' T5 classifier refuses embeddings as its input")
    theirs = trained_by_peft(shape, shape.classifier, "prompt", tmp_path)
    model = shape.classifier()
    inlay.load(model, tmp_path)
    given = left_padded(shape.inputs(), 3)
    ours = model(**given).logits
    close(ours[1:], theirs(**given).logits[1:])
    if shape.name == "llama":  # elsewhere padding moves the positions of what follows
        alone = {key: value[:1, 3:] for key, value in given.items()}
        close(ours[:1], model(**alone).logits)
        close(ours[:1], theirs(**alone).logits)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_right_padded_row_pools_its_last_real_token_where_peft_pools_padding(name: str, tmp_path: Path) -> None:
    """A defect of PEFT: with embeddings as the input transformers cannot see which tokens are padding."""
    shape = SHAPES[name]
    theirs = trained_by_peft(shape, shape.classifier, "prompt", tmp_path)
    model = shape.classifier()
    inlay.load(model, tmp_path)
    given = shape.inputs()
    padding = torch.zeros(len(given["input_ids"]), 3, dtype=torch.long)
    padded = {key: torch.cat([t, padding], dim=1) for key, t in given.items()}
    close(model(**padded).logits, model(**given).logits)
    close(theirs(**given).logits, model(**given).logits)
    assert not torch.allclose(theirs(**padded).logits, theirs(**given).logits, atol=1e-3)


def test_a_bert_classifier_pools_the_first_position_as_in_peft(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    theirs = trained_by_peft(shape, shape.classifier, "prompt", tmp_path)
    model = shape.classifier()
    inlay.load(model, tmp_path)
    types_BT = (torch.arange(7) > 3).long().expand(4, -1)
    given = shape.inputs() | {"token_type_ids": types_BT}
    close(model(**given).logits, theirs(**given).logits)
    assert not torch.allclose(model(**given).logits, model(**shape.inputs()).logits, atol=1e-4)


def test_a_head_trained_by_name_is_read_and_written(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    config = peft_config("plain", shape, None, modules_to_save=["pooler", "classifier"])
    theirs = peft.get_peft_model(shape.classifier(), config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape)
    theirs.save_pretrained(str(tmp_path / "peft"))
    model = shape.classifier()
    adapter = inlay.load(model, tmp_path / "peft")
    assert adapter.heads == ("bert.pooler", "classifier")
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)
    adapter.save(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(shape.classifier(), str(tmp_path / "ours")).eval()
    close(model(**shape.inputs()).logits, again(**shape.inputs()).logits)


def test_a_classifier_whose_head_is_not_trained_keeps_the_base_head_in_peft(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    model = shape.classifier()
    adapter = inlay.attach(model, our_method("plain", shape), heads=())
    disturb(adapter)
    adapter.save(tmp_path)
    assert not any("classifier" in key for key in load_file(tmp_path / format_.TENSORS))
    theirs = peft.PeftModel.from_pretrained(shape.classifier(), str(tmp_path)).eval()
    close(model(**shape.inputs()).logits, theirs(**shape.inputs()).logits)


def test_what_is_saved_names_its_shape_and_version(shape: Shape, tmp_path: Path) -> None:
    model = shape.model()
    inlay.attach(model, our_method("plain", shape)).save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert config["task_type"] == task_type(shape, model)
    assert config["fan_in_fan_out"] == (shape.name == "gpt2")
    assert config["inference_mode"] is True
    assert config["peft_version"]
    assert {t.dtype for t in load_file(tmp_path / format_.TENSORS).values()} == {torch.float32}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([format_.CONFIG, format_.TENSORS, format_.PROVENANCE])


@pytest.mark.parametrize("name", ["adalora", "vera"])
@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_weights_that_lie_the_other_way_round_are_told(name: str, base: str, tmp_path: Path) -> None:
    """PEFT sees that by itself when it loads, so that its outputs would not show it."""
    inlay.attach(SHAPES[base].model(), method(name, SHAPES[base])).save(tmp_path)
    assert json.loads((tmp_path / format_.CONFIG).read_text())["fan_in_fan_out"] is (base == "gpt2")
