"""Prefix tuning against Hugging Face PEFT's, both ways; in an encoder-decoder PEFT's own defect allows one way only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed

from ..core.test_architectures import ARCHITECTURES
from ..methods.prompt_models import made
from ..shapes import SHAPES, Shape, disturb
from .both_ways import peft_agrees_with_our_files, trained_by_peft
from .matrix import builds
from .test_peft import both_equal, close, inputs, left_padded
from .test_refusals import edit_config, edit_tensors

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

P = 5
every_build = builds("llama", "gpt2", "bert")
projection_too = pytest.mark.parametrize("projection", [False, True])


def config(task_type: str, target_modules: Any = None, **settings: Any) -> Any:
    return peft.PrefixTuningConfig(task_type=task_type, num_virtual_tokens=P, **settings)


def gradients(theirs: Any, ours: inlay.Adapter, given: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """PEFT's and ours, by the key in a file."""
    for model in (theirs, ours.model):
        model(**given).loss.backward()
    expected = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            name = name.replace(".modules_to_save.default", "").replace(".default", "")
            expected[name.replace("prompt_encoder.embedding.weight", "prompt_embeddings")] = p.grad
    keys = {own: key for key, (own, _) in placed(ours).items()}
    return expected, {keys[name]: p.grad for name, p in ours.named_parameters()}


@every_build
@projection_too
def test_peft_computes_the_same_from_our_files(shape: Shape, build: Any, projection: bool, tmp_path: Path) -> None:
    method = inlay.PrefixTuning(tokens=P, projection=projection, hidden_size=12)
    peft_agrees_with_our_files(shape, build, method, tmp_path)


@every_build
def test_outputs_loss_and_gradients_equal_those_of_peft(shape: Shape, build: Any, tmp_path: Path) -> None:
    theirs = trained_by_peft(shape, build, config, tmp_path)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.load(model, tmp_path)
    both_equal(model, theirs, inputs(shape, model))
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)
    expected, ours = gradients(theirs, adapter, inputs(shape, model))
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name], 1e-4)
        assert gradient.abs().max() > 1e-6

    adapter.save(tmp_path / "ours")
    theirs_in_file, ours_in_file = (load_file(f / format_.TENSORS) for f in (tmp_path, tmp_path / "ours"))
    assert ours_in_file.keys() == theirs_in_file.keys()
    assert all(torch.equal(tensor, theirs_in_file[key]) for key, tensor in ours_in_file.items())


@every_build
def test_a_projection_has_the_gradients_that_peft_gives_its_own(shape: Shape, build: Any, tmp_path: Path) -> None:
    theirs = trained_by_peft(shape, build, config, tmp_path, prefix_projection=True, encoder_hidden_size=12)
    model = build()
    assert inlay.load(model, tmp_path, "result").method == inlay.PrefixTuning(tokens=P)
    both_equal(model, theirs, inputs(shape, model))

    model = build()
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P, projection=True, hidden_size=12))
    names = {
        "projection_input": "embedding.weight",
        "projection_hidden.weight": "transform.0.weight",
        "projection_hidden.bias": "transform.0.bias",
        "projection_output.weight": "transform.2.weight",
        "projection_output.bias": "transform.2.bias",
    }
    encoder = dict(theirs.prompt_encoder["default"].named_parameters())
    heads = load_file(tmp_path / format_.TENSORS)
    with torch.no_grad():
        for name, p in adapter.named_parameters():
            short = ".".join(name.split(".")[-1 - (not name.endswith("input")) :])
            p.copy_(encoder[names[short]] if short in names else heads[f"base_model.{name}"])
    both_equal(model, theirs, inputs(shape, model))
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    for name, p in adapter.named_parameters():
        short = ".".join(name.split(".")[-1 - (not name.endswith("input")) :])
        if short in names:
            close(p.grad, encoder[names[short]].grad, 1e-4)
            assert p.grad.abs().max() > 1e-7


ONE_WAY = {  # where PEFT cannot run what is saved, and why
    "distilbert": "must match the size of tensor",
    "albert": "INLAY_PREFIX",  # one layer that is used again has one prefix
}


@pytest.mark.parametrize(
    "architecture", [a for a in ARCHITECTURES if a not in ("vit", "mpnet", "deberta", "deberta-v2")]
)
def test_other_architectures_compute_the_same_in_peft(architecture: str, tmp_path: Path) -> None:
    def build() -> Any:
        torch.manual_seed(0)
        return ARCHITECTURES[architecture][0]().eval()

    model = build()
    ids_BT = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, 4:] = 0
    given = {"input_ids": ids_BT, "attention_mask": mask_BT}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids_BT[:, :3]
    before = model(**given)[0]
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P))
    disturb(adapter)
    adapter.save(tmp_path)
    y = model(**given)[0]
    assert not torch.allclose(y, before, atol=1e-3)
    again = build()
    inlay.load(again, tmp_path)
    assert torch.equal(again(**given)[0], y)
    if architecture in ONE_WAY:
        with pytest.raises((KeyError, RuntimeError), match=ONE_WAY[architecture]):
            peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()(**given)
        return
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()(**given)[0]
    real = mask_BT.bool() if y.shape[:2] == mask_BT.shape else slice(None)
    close(y[real], theirs[real])


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_a_prefix_of_an_encoder_decoder_is_read_as_peft_deals_it_out(layers: int, tmp_path: Path) -> None:
    """A defect of PEFT: layer l of L gets the prefix meant for layer 2l mod L, so with an even L half of the table is
    never used, and two layers share each of the others."""
    shape = SHAPES["t5"]
    config_ = type(shape.config)(**shape.config.to_dict() | {"num_layers": layers, "num_decoder_layers": layers})
    shape = Shape("t5", config_, shape.model_class, shape.classifier_class)
    theirs = trained_by_peft(shape, shape.model, config, tmp_path)
    model = shape.model()
    adapter = inlay.load(model, tmp_path)
    both_equal(model, theirs, inputs(shape, model))
    expected, ours = gradients(theirs, adapter, inputs(shape, model))
    (theirs_PN,), (ours_PN,) = expected.values(), ours.values()
    parts_L = theirs_PN.chunk(layers, dim=1)
    for layer, part in enumerate(parts_L):
        users = [p for i, p in enumerate(ours_PN.chunk(layers, dim=1)) if 2 * i % layers == layer]
        close(part, sum(users, torch.zeros_like(part)), 1e-4)
    unused = sum(not part.abs().sum() for part in parts_L)
    assert unused == (layers // 2 if layers % 2 == 0 else 0)
    assert all(part.abs().sum() > 0 for part in ours_PN.chunk(layers, dim=1))

    adapter.save(tmp_path / "ours")
    again = shape.model()
    assert inlay.load(again, tmp_path / "ours").method == adapter.method
    assert torch.equal(again(**inputs(shape, again)).logits, model(**inputs(shape, model)).logits)
    edit_config(tmp_path, num_layers=None)
    with pytest.raises(CheckpointError, match="num_layers is None; the table has"):
        inlay.load(shape.model(), tmp_path)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("projection", [False, True])
def test_peft_deals_our_table_of_an_encoder_decoder_out_as_it_is_meant(
    layers: int, projection: bool, tmp_path: Path
) -> None:
    shape = SHAPES["t5"]
    config_ = type(shape.config)(**shape.config.to_dict() | {"num_layers": layers, "num_decoder_layers": layers})
    shape = Shape("t5", config_, shape.model_class, shape.classifier_class)
    model = shape.model()
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P, projection=projection, hidden_size=12))
    disturb(adapter, 0.5)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(shape.model(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model))
    again = shape.model()
    inlay.load(again, tmp_path)
    assert torch.equal(again(**inputs(shape, again)).logits, model(**inputs(shape, model)).logits)


@pytest.mark.parametrize("window", [3, 6, 64])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_window_leaves_a_prefix_behind_as_in_peft(window: int, implementation: str, tmp_path: Path) -> None:
    def build() -> Any:
        model = made(
            lambda: MistralForCausalLM(MistralConfig(**SHAPES["llama"].config.to_dict() | {"sliding_window": window}))
        )
        model.set_attn_implementation(implementation)
        return model

    ids_BT = torch.randint(3, 50, (2, 14), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    model = build()
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P))
    disturb(adapter, 0.5)
    adapter.save(tmp_path)
    y = model(**given).logits
    close(peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()(**given).logits, y)
    close(model(input_ids=ids_BT).logits, y)
    first = model(input_ids=ids_BT[:, :9], use_cache=True)
    close(model(input_ids=ids_BT[:, 9:], past_key_values=first.past_key_values).logits, y[:, 9:])


def test_our_files_of_an_encoder_decoder_say_that_they_are_not_peft_s(tmp_path: Path) -> None:
    shape = SHAPES["t5"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P, everywhere=True))
    disturb(adapter)
    adapter.save(tmp_path)
    with pytest.raises(KeyError, match="INLAY_PREFIX"):
        peft.PeftModel.from_pretrained(shape.model(), str(tmp_path))
    again = shape.model()
    assert inlay.load(again, tmp_path).method == adapter.method
    assert torch.equal(again(**inputs(shape, again)).logits, model(**inputs(shape, model)).logits)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("padding", [0, 3])
def test_generates_the_same_tokens_as_peft(name: str, padding: int, tmp_path: Path) -> None:
    shape = SHAPES[name]
    theirs = trained_by_peft(shape, shape.model, config, tmp_path)
    model = shape.model()
    inlay.load(model, tmp_path)
    given = {key: t[:2] for key, t in shape.inputs().items() if key != "decoder_input_ids"}
    given = left_padded(given, padding) if padding else given
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ours, its = model.generate(**given, **settings), theirs.generate(**given, **settings)
    assert ours[:, -6:].tolist() == its[:, -6:].tolist()


def test_padded_classifier_rows_are_the_same_in_peft(tmp_path: Path) -> None:
    for shape in (SHAPES["llama"], SHAPES["gpt2"], SHAPES["bert"]):
        theirs = trained_by_peft(shape, shape.classifier, config, tmp_path / shape.name)
        model = shape.classifier()
        inlay.load(model, tmp_path / shape.name)
        given = left_padded(shape.inputs(), 3)
        if shape.name == "llama":  # there the padding stands between prefix and text; here a row is as it is alone
            for row, mask_T in enumerate(given["attention_mask"]):
                ids_1T = given["input_ids"][row, mask_T.bool()][None]
                close(model(**given).logits[row], theirs(input_ids=ids_1T).logits[0])
        else:
            close(model(**given).logits, theirs(**given).logits)
        given = {key: t.flip(1) for key, t in given.items()}
        close(model(**given).logits, theirs(**given).logits)


def test_peft_refuses_checkpointing_where_a_prefix_has_gradients_here(tmp_path: Path) -> None:
    """PEFT bug 10: it looks for checkpointing when the adapter is made, and fails on the way if it comes later."""
    shape = SHAPES["llama"]
    theirs = trained_by_peft(shape, shape.model, config, tmp_path).train()
    theirs.base_model.activation_checkpointing_enable()
    with pytest.raises((RuntimeError, ValueError)):
        theirs(**inputs(shape, shape.model())).loss.backward()
    model = shape.model().train()
    adapter = inlay.load(model, tmp_path)
    model.activation_checkpointing_enable()
    model(**inputs(shape, model)).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


def damaged(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    shape = SHAPES["llama"]
    inlay.attach(shape.model(), inlay.PrefixTuning(tokens=P)).save(folder)
    change(folder)
    model = shape.model()
    with pytest.raises(CheckpointError, match=message):
        inlay.load(model, folder)
    assert not inlay.adapters(model)


def test_what_does_not_fit_or_is_unknown_is_refused(tmp_path: Path) -> None:
    damaged(tmp_path, lambda f: edit_config(f, num_virtual_tokens=4), r"has shape \(5, 64\), its place \(4, 64\)")
    damaged(tmp_path, lambda f: edit_config(f, num_virtual_tokens=...), "num_virtual_tokens is missing")
    damaged(tmp_path, lambda f: edit_config(f, prefix_dropout=0.1), "prefix_dropout is 0.1; this changes")
    damaged(tmp_path, lambda f: edit_tensors(f, lambda t: t.pop("prompt_embeddings")), "prompt_embeddings is missing")
    damaged(tmp_path, lambda f: edit_tensors(f, lambda t: t.update(more=torch.zeros(1))), "more has no place")
