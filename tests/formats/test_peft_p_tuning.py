"""P-tuning against Hugging Face PEFT's, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..shapes import SHAPES, Shape, disturb
from .both_ways import first_position, peft_agrees_with_our_files, trained_by_peft
from .matrix import builds
from .test_peft import both_equal, close, inputs, skip_what_transformers_refuses
from .test_refusals import edit_config

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

P, H = 5, 6
encoders = pytest.mark.parametrize("encoder", ["mlp", "lstm"])


def config(task_type: str, target_modules: Any = None, encoder: str = "mlp", **settings: Any) -> Any:
    kind = {"encoder_reparameterization_type": encoder.upper(), "encoder_hidden_size": H}
    return peft.PromptEncoderConfig(task_type=task_type, num_virtual_tokens=P, **kind, **settings)


@builds()
@encoders
def test_peft_computes_the_same_from_our_files(shape: Shape, build: Any, encoder: str, tmp_path: Path) -> None:
    skip_what_transformers_refuses("prompt", shape, build)
    peft_agrees_with_our_files(shape, build, inlay.PTuning(tokens=P, encoder=encoder, hidden_size=H), tmp_path)


@builds()
@encoders
def test_we_compute_the_same_from_peft_files(shape: Shape, build: Any, encoder: str, tmp_path: Path) -> None:
    skip_what_transformers_refuses("prompt", shape, build)
    theirs = trained_by_peft(shape, build, config, tmp_path, encoder=encoder)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.load(model, tmp_path)
    both_equal(model, theirs, inputs(shape, model))
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)
    first = first_position(shape, model)
    assert adapter.method == inlay.PromptTuning(tokens=P, first_position=first)  # the network is not in the file

    adapter.save(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(build(), str(tmp_path / "ours")).eval()
    both_equal(model, again, inputs(shape, model))


@builds()
@encoders
def test_the_network_has_the_gradients_that_peft_gives_its_own(
    shape: Shape, build: Any, encoder: str, tmp_path: Path
) -> None:
    skip_what_transformers_refuses("prompt", shape, build)
    if shape.name == "t5" and encoder == "lstm":
        pytest.skip("PEFT's network has twice as many inputs, of which it uses the first half's results")
    theirs = trained_by_peft(shape, build, config, tmp_path, encoder=encoder)
    model = build()
    adapter = inlay.attach(model, inlay.PTuning(tokens=P, encoder=encoder, hidden_size=H))
    network, head = dict(theirs.prompt_encoder["default"].named_parameters()), load_file(tmp_path / format_.TENSORS)

    def its(name: str) -> Any:
        *_, rest = name.rpartition("encoder_")
        if rest == "input":
            return network["embedding.weight"]
        return network[rest.replace("lstm.", "lstm_head.").replace("layers.", "mlp_head.")]

    with torch.no_grad():
        for name, p in adapter.named_parameters():
            source = its(name) if "encoder_" in name else head[f"base_model.{name}"]
            p.copy_(source[: len(p)])
    both_equal(model, theirs, inputs(shape, model))
    for each in (theirs, model):
        each(**inputs(shape, model)).loss.backward()
    ours = {name: p for name, p in adapter.named_parameters() if "encoder_" in name}
    assert len(ours) == len(network)
    for name, p in ours.items():
        close(p.grad, its(name).grad[: len(p)], 1e-4)
    assert sum(p.grad.abs().max() > 1e-7 for p in ours.values()) > 0.7 * len(ours)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_generates_the_same_tokens_as_peft(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    model = shape.model()
    disturb(inlay.attach(model, inlay.PTuning(tokens=P, hidden_size=H)))
    inlay.adapters(model)["default"].save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(shape.model(), str(tmp_path)).eval()
    given = {key: t[:2] for key, t in shape.inputs().items() if key != "decoder_input_ids"}
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ours, its = model.generate(**given, **settings), theirs.generate(**given, **settings)
    assert ours[:, -6:].tolist() == its[:, -6:].tolist()


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    inlay.attach(SHAPES["llama"].model(), inlay.PTuning(tokens=P)).save(tmp_path)
    kind = "encoder_reparameterization_type"
    for change, message in (
        ({kind: "GRU"}, "encoder_reparameterization_type is 'GRU'; MLP and LSTM are known"),
        ({kind: "LSTM"}, r"encoder_layers\.4\.bias has no place"),
        ({kind: "MLP", "encoder_template": [3, 3]}, "encoder_template is"),
    ):
        edit_config(tmp_path, **change)
        model = SHAPES["llama"].model()
        with pytest.raises(CheckpointError, match=message):
            inlay.load(model, tmp_path)
        assert not inlay.adapters(model)
