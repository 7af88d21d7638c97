"""One method against Hugging Face PEFT's, both ways: outputs, loss, gradients and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import T5ForSequenceClassification

import inlay
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed

from ..shapes import Shape, disturb
from .test_peft import both_equal, close, inputs, task_type

PAIRS = {  # of layers whose sizes differ, as far as an architecture has them
    "llama": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj"),
    "bert": ("query", "intermediate.dense"),
    "t5": ("q", "v", "wo"),
}


def first_position(shape: Shape, model: Any) -> str:
    """What a prompt's file from PEFT says that a head reads at the first position."""
    return "prompt" if task_type(shape, model) == "SEQ_CLS" else "text"


def trained_by_peft(shape: Shape, build: Callable[[], Any], config: type, folder: Path, **settings: Any) -> Any:
    """A PEFT model with every trained tensor moved away from its start, also saved in `folder`."""
    import peft

    model = build()
    if isinstance(model, T5ForSequenceClassification):
        settings["modules_to_save"] = ["classification_head"]
    settings = {"target_modules": list(PAIRS[shape.name]), **settings}
    theirs = peft.get_peft_model(model, config(task_type=task_type(shape, model), **settings)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator)
    theirs.save_pretrained(str(folder))
    return theirs


def peft_agrees_with_our_files(shape: Shape, build: Callable[[], Any], method: inlay.Method, folder: Path) -> None:
    import peft

    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(folder)
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(build(), str(folder)).eval()
    both_equal(model, theirs, inputs(shape, model))


def we_agree_with_peft_files(
    shape: Shape, build: Callable[[], Any], config: type, folder: Path, **settings: Any
) -> tuple[nn.Module, inlay.Adapter]:
    """Outputs, loss, counts, gradients of every tensor, and the tensors of the files that we write in turn."""
    theirs = trained_by_peft(shape, build, config, folder / "peft", **settings)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.load(model, folder / "peft")
    both_equal(model, theirs, inputs(shape, model))
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)

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
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in ours.values()) > 0.7 * len(ours)

    adapter.save(folder / "ours")
    theirs_in_file, ours_in_file = (load_file(folder / who / format_.TENSORS) for who in ("peft", "ours"))
    assert ours_in_file.keys() == theirs_in_file.keys()
    assert all(torch.equal(tensor, theirs_in_file[key]) for key, tensor in ours_in_file.items())
    again = build()
    assert inlay.load(again, folder / "ours").method == inlay.load(build(), folder / "ours").method
    assert torch.equal(again(**inputs(shape, again)).logits, model(**inputs(shape, model)).logits)
    return model, adapter
