"""Full fine-tuning of bases in 16 bits whose code goes past its layers, or asks one parameter for the dtype of all."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inlay
from inlay.bases.narrow import check_narrow
from inlay.cli import main
from inlay.errors import SettingsError

from .. import towers
from ..tiny_models import write_rows
from .state_models import state_models


@pytest.mark.parametrize("name", ["mamba", "jamba"])
def test_what_is_read_past_its_layer_is_trained_too(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(state_models()[name]).bfloat16()
    ids_BT = torch.arange(2, 12)[None]
    before = model(input_ids=ids_BT, use_cache=False).logits
    inlay.attach(model, inlay.Full())
    after = model(input_ids=ids_BT, use_cache=False).logits
    # Mamba looks at its norm's dtype, so what goes into that is rounded once less.
    torch.testing.assert_close(after, before, atol=2e-2, rtol=2e-2)
    after.float().sum().backward()
    own = {n: p for n, p in model.named_parameters() if n.endswith("dt_proj.weight")}
    assert own
    assert all(p.dtype == torch.float32 and p.grad is not None for p in own.values())
    assert not any("weight" in module.__dict__ for module in model.modules())


def _gpt1(**more: Any) -> transformers.OpenAIGPTConfig:
    return transformers.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=272, **more)


def test_a_model_that_mixes_dtypes_is_refused_before_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = towers.save(transformers.OpenAIGPTLMHeadModel(_gpt1()), tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"Q{i}", "completion": f"A{i}"} for i in range(30)])
    flags = ["--method", "full", "--dtype", "bfloat16", "--no-forgetting", "--out", str(tmp_path / "run")]
    assert main(["train", base, data, *flags]) == 2
    assert "choose --dtype float32" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_what_fails_for_the_method_is_refused() -> None:
    def empty() -> Any:
        with torch.device("meta"):
            return transformers.OpenAIGPTLMHeadModel(_gpt1())

    check_narrow(empty, inlay.LoRA(), None, torch.bfloat16)
    check_narrow(empty, inlay.Full(), None, torch.float32)
    with pytest.raises(SettingsError, match="float32"):
        check_narrow(empty, inlay.Full(), None, torch.bfloat16)
