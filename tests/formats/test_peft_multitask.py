"""Multitask prompt tuning against Hugging Face PEFT's, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_
from inlay.formats.peft_format import placed

from ..shapes import SHAPES, Shape, disturb
from .both_ways import first_position, trained_by_peft
from .matrix import builds
from .test_peft import close, inputs, skip_what_transformers_refuses, text_logits
from .test_refusals import edit_config, edit_tensors

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

P, K = 5, 3


def config(task_type: str, target_modules: Any = None, submodules: int | None = 1, **settings: Any) -> Any:
    return peft.MultitaskPromptTuningConfig(
        task_type=task_type,
        num_virtual_tokens=P,
        num_tasks=K,
        num_ranks=2,
        num_transformer_submodules=submodules,
        **settings,
    )


def both_equal(ours: Any, theirs: Any, given: dict[str, Tensor], task: int | list[int]) -> None:
    mine, its = ours(**given), theirs(**given, task_ids=torch.tensor([task] * 4 if isinstance(task, int) else task))
    close(mine.logits, text_logits(its, mine))
    close(mine.loss, its.loss)


@builds()
@pytest.mark.parametrize("task", [0, 2])
def test_peft_computes_the_same_from_our_files(shape: Shape, build: Any, task: int, tmp_path: Path) -> None:
    skip_what_transformers_refuses("prompt", shape, build)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.attach(model, inlay.MultitaskPrompt(tokens=P, tasks=K, task=task, rank=2))
    disturb(adapter)
    adapter.save(tmp_path)
    assert not torch.allclose(model(**inputs(shape, model)).logits, before, atol=1e-3)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    both_equal(model, theirs, inputs(shape, model), task)


@builds()
def test_outputs_loss_and_gradients_equal_those_of_peft(shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_transformers_refuses("prompt", shape, build)
    theirs = trained_by_peft(shape, build, config, tmp_path)
    with torch.no_grad():  # its start, of 0.02, would hide a mistake in the products
        for name, p in theirs.named_parameters():
            if "prefix_task" in name:
                p.mul_(5)
    theirs.save_pretrained(str(tmp_path))
    model = build()
    adapter = inlay.load(model, tmp_path)
    assert adapter.method == inlay.MultitaskPrompt(
        tokens=P, tasks=K, rank=2, first_position=first_position(shape, model)
    )
    both_equal(model, theirs, inputs(shape, model), 0)
    prompt = next(iter(adapter.deltas.values()))
    for tasks in ([1, 1, 1, 1], [2, 0, 0, 1]):
        prompt.task = torch.tensor(tasks)
        both_equal(model, theirs, inputs(shape, model), tasks)

    model(**inputs(shape, model)).loss.backward()
    theirs(**inputs(shape, model), task_ids=prompt.task).loss.backward()
    expected = {}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            name = name.replace(".modules_to_save.default", "").replace(".default", "").removeprefix("prompt_encoder.")
            expected[name.replace("embedding.weight", "prompt_embeddings")] = p.grad
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    ours = {keys[name]: p.grad for name, p in adapter.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name], 1e-4)
        assert gradient.abs().max() > 1e-6

    adapter.save(tmp_path / "ours")
    theirs_in_file, ours_in_file = (load_file(f / format_.TENSORS) for f in (tmp_path, tmp_path / "ours"))
    assert ours_in_file.keys() == theirs_in_file.keys()
    assert all(torch.equal(tensor, theirs_in_file[key]) for key, tensor in ours_in_file.items())


def test_a_start_from_a_task_of_another_file_is_the_first_task_here(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, config, tmp_path)
    edit_config(tmp_path, prompt_tuning_init="EXACT_SOURCE_TASK", prompt_tuning_init_task=7)
    assert inlay.load(shape.model(), tmp_path).method.task == 0
    edit_config(tmp_path, prompt_tuning_init="RANDOM")
    with pytest.raises(CheckpointError, match=r"method\.task is 7; with 3 tasks it must be 0 to 2"):
        inlay.load(shape.model(), tmp_path)


@pytest.mark.parametrize("written", [True, False])
def test_a_prompt_of_the_decoder_is_refused(written: bool, tmp_path: Path) -> None:
    """PEFT's default in an encoder-decoder: a second prompt before the decoder's input, with logits of its own."""
    shape = SHAPES["t5"]
    trained_by_peft(shape, shape.model, config, tmp_path, submodules=None)
    if not written:
        edit_config(tmp_path, num_transformer_submodules=None)
    model = shape.model()
    with pytest.raises(CheckpointError, match="num_transformer_submodules is 2: a prompt of the decoder too"):
        inlay.load(model, tmp_path)
    assert not inlay.adapters(model)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, config, tmp_path)
    edit_config(tmp_path, num_tasks=2)
    with pytest.raises(CheckpointError, match=r"prefix_task_cols has shape \(3, 5, 2\), its place \(2, 5, 2\)"):
        inlay.load(shape.model(), tmp_path)
    edit_config(tmp_path, num_tasks=3, num_ranks=1)
    with pytest.raises(CheckpointError, match=r"prefix_task_rows has shape \(3, 2, 32\), its place \(3, 1, 32\)"):
        inlay.load(shape.model(), tmp_path)
    edit_config(tmp_path, num_ranks=2)
    edit_tensors(tmp_path, lambda t: t.pop("prefix_task_rows"))
    with pytest.raises(CheckpointError, match=r"prefix_task_rows is missing"):
        inlay.load(shape.model(), tmp_path)
