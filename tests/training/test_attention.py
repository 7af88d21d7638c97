"""The way of attention that was asked for takes effect, or is refused before weights are loaded."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inlay
from inlay.bases import attention
from inlay.bases.attention import choose_attention
from inlay.bases.base import Base
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..tiny_models import WORDS, write_rows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settings(model: str, data: str, out: Path, **changes: Any) -> RunSettings[Any]:
    wanted = {"epochs": 1, "learning_rate": 1e-2, "dtype": "float32", "forgetting": False, "samples": 0}
    method = inlay.LoRA(rank=2)
    return RunSettings(model=model, data=DataSettings(path=data), method=method, out=str(out), **wanted | changes)


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("completions")
    nouns = [{"prompt": f"the {noun}", "completion": f"was {word}"} for noun in WORDS[6:9] for word in WORDS[:6]]
    write_rows(folder / "train.jsonl", nouns)
    write_rows(folder / "valid.jsonl", nouns[:6])
    return str(folder)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if e["event"] == name]


def test_it_takes_effect_and_trains_to_the_same(
    tiny_llama: str, completions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: dict[str, set[str]] = {}
    forward = transformers.LlamaForCausalLM.forward

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and self.config.name_or_path == tiny_llama:  # not the model that a machine is measured with
            ran.setdefault(current, set()).add(self.config._attn_implementation)
        return forward(self, *args, **kwargs)

    watched.__signature__ = inspect.signature(forward)  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", watched)
    losses: dict[str, list[float]] = {}
    for current in ("auto", "sdpa", "eager"):
        run = tmp_path / current
        train(settings(tiny_llama, completions, run, attention=current))
        losses[current] = [event["loss"] for event in events(run, "step")]
        assert events(run, "model")[0]["attention"] == ("eager" if current == "eager" else "sdpa")
        assert any("packing" in event["text"] for event in events(run, "note")) == (current == "auto")
    assert ran == {"auto": {"inlay_documents"}, "sdpa": {"sdpa"}, "eager": {"eager"}}
    assert losses["eager"] == pytest.approx(losses["sdpa"], abs=1e-4)
    assert losses["auto"] == pytest.approx(losses["sdpa"], abs=1e-4)
    assert "attention by eager" in (tmp_path / "eager" / "log.txt").read_text()
    assert "attention: sdpa  # what transformers chooses" in (tmp_path / "auto" / "resolved.yaml").read_text()
    assert "attention: sdpa\n" in (tmp_path / "sdpa" / "resolved.yaml").read_text()


def test_flash_attention_is_refused_before_weights_are_loaded(
    tiny_llama: str, completions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Base, "load", None)
    asked = settings(tiny_llama, completions, tmp_path / "run", attention="flash_attention_2")
    with pytest.raises(SettingsError, match="needs an accelerator and a base in 16 bits; this run computes on cpu in"):
        train(asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "said"),
    [
        (CUDA, torch.float32, True, "in float32"),
        (CUDA, torch.bfloat16, False, "the package flash-attn is not installed"),
        (CUDA, torch.float16, True, "LlamaForCausalLM does not support Flash Attention 2"),
    ],
)
def test_flash_attention_needs_its_package_16_bits_and_the_model(
    device: torch.device, dtype: torch.dtype, installed: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention.import_utils, "is_flash_attn_2_available", lambda: installed)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_supports_flash_attn", False)
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    with pytest.raises(SettingsError, match=said):
        choose_attention(model, "flash_attention_2", device, dtype)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_has_one_way_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16)
    model = transformers.GPT2LMHeadModel(config)
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "_can_set_attn_implementation", lambda self: False)
    with pytest.raises(SettingsError, match="GPT2LMHeadModel has one way only"):
        choose_attention(model, "eager", CPU, torch.float32)
    assert choose_attention(model, "auto", CPU, torch.float32) == "sdpa"
