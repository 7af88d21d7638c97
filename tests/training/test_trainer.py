"""Adapters in transformers.Trainer, which knows nothing of them: checkpoints, going on from one, quantized bases."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import inlay

from ..shapes import SHAPES, logits, method

LLAMA = SHAPES["llama"]


def rows() -> list[dict[str, Tensor]]:
    ids_NT = torch.randint(2, 50, (8, 6), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": ids_T, "labels": ids_T} for ids_T in ids_NT]


def trainer(model: Any, folder: Path, **settings: Any) -> transformers.Trainer:
    arguments = transformers.TrainingArguments(
        str(folder),
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        **{"max_steps": 4} | settings,
    )
    return transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows())


def attached(name: str) -> tuple[Any, inlay.Adapter]:
    model = copy.deepcopy(LLAMA.model())  # with its configuration, where Trainer leaves settings
    torch.manual_seed(5)
    return model, inlay.attach(model, method(name, LLAMA))


COMMON = ("lora", "vera", "prefix", "dora", "bitfit", "full")


@pytest.mark.parametrize("name", [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in inlay.METHODS])
def test_a_run_that_goes_on_from_its_checkpoint_ends_where_it_would_have(name: str, tmp_path: Path) -> None:
    model, adapter = attached(name)
    start = {key: t.clone() for key, t in adapter.state_dict().items()}
    trainer(model, tmp_path).train()
    assert any(not torch.equal(start[key], t) for key, t in adapter.state_dict().items())
    again, resumed = attached(name)
    trainer(again, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for key, tensor in resumed.state_dict().items():
        torch.testing.assert_close(tensor, adapter.state_dict()[key], atol=1e-6, rtol=1e-5)
    adapter.save(tmp_path / "adapter")
    other = LLAMA.model()
    inlay.load(other, tmp_path / "adapter")
    torch.testing.assert_close(logits(other.eval(), LLAMA), logits(model.eval(), LLAMA))


@pytest.mark.parametrize("name", ["lora", "prompt"])
def test_the_best_model_at_the_end_is_that_of_its_checkpoint_and_is_saved_with_its_adapter(
    name: str, tmp_path: Path
) -> None:
    model, _ = attached(name)
    best = {"metric_for_best_model": "loss", "greater_is_better": True}  # the first evaluation has the largest loss
    run = trainer(
        model, tmp_path, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, **best, max_steps=6
    )
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    first = LLAMA.model()
    inlay.load(first, tmp_path / "checkpoint-2")
    assert torch.equal(logits(first.eval(), LLAMA), logits(model.eval(), LLAMA))
    run.save_model(str(tmp_path / "final"))
    again = type(model).from_pretrained(tmp_path / "final").eval()
    inlay.load(again, tmp_path / "final")
    assert torch.equal(logits(again, LLAMA), logits(model, LLAMA))


@pytest.mark.parametrize("name", ["lora", "vera"])
@pytest.mark.parametrize(
    "settings", [{"bf16": True}, {"activation_checkpointing": True}], ids=["bf16", "checkpointing"]
)
def test_in_bfloat16_and_with_checkpointing_the_adapter_stays_in_float32(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model, adapter = attached(name)
    start = {key: t.clone() for key, t in adapter.state_dict().items()}
    trainer(model, tmp_path, **settings).train()
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    moved = {key for key, t in adapter.state_dict().items() if not torch.equal(start[key], t)}
    assert moved >= {name for name, _ in adapter.named_parameters()}


def test_a_tied_parameter_that_is_trained_is_in_a_checkpoint_once(tmp_path: Path) -> None:
    shape = SHAPES["gpt2"]  # its head is its token embedding
    model = shape.model()
    adapter = inlay.attach(model, inlay.Pattern(include=("lm_head.weight",)))
    assert len(list(adapter.parameters())) == 1
    trainer(model, tmp_path).train()
    again = shape.model()
    resumed = inlay.attach(again, inlay.Pattern(include=("lm_head.weight",)))
    trainer(again, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(resumed.state_dict(), adapter.state_dict(), atol=1e-6, rtol=1e-5)


def quantized(folder: Path) -> Any:
    pytest.importorskip("bitsandbytes")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


def test_a_quantized_base_with_an_adapter_trains_and_goes_on(tmp_path: Path) -> None:
    config = copy.deepcopy(LLAMA.config)
    config.hidden_size, config.intermediate_size = 128, 128
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    model = quantized(tmp_path / "base")
    with pytest.raises(ValueError, match="purely quantized"):
        trainer(model, tmp_path)
    before = set(model.__dict__)

    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization="orthogonal"))
    start = {key: t.clone() for key, t in adapter.state_dict().items()}
    trainer(model, tmp_path).train()
    assert any(not torch.equal(start[key], t) for key, t in adapter.state_dict().items())
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()  # the whole model, as of any other base
    again = quantized(tmp_path / "base")
    resumed = inlay.attach(again, inlay.LoRA(rank=4, initialization="orthogonal"))
    trainer(again, tmp_path / "again").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(resumed.state_dict(), adapter.state_dict(), atol=1e-5, rtol=1e-4)

    twin = copy.deepcopy(model)
    twin.save_pretrained(tmp_path / "twin")
    assert (tmp_path / "twin" / "config.json").is_file()
    assert not (tmp_path / "twin" / "adapter_model.safetensors").exists()
    assert (tmp_path / "twin" / "adapters" / "default" / "adapter_model.safetensors").is_file()
    adapter.detach()
    assert not {"save_pretrained", "_hf_peft_config_loaded"} & (set(model.__dict__) - before)
    with pytest.raises(ValueError, match="purely quantized"):
        trainer(model, tmp_path)
