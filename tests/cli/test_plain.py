"""inlay train --plain, read by a client that knows one alpha, each tensor's own rank, and nothing else."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import inlay
from inlay.cli import main

SMALL = ("--data.train-rows", "16", "--data.eval-rows", "4", "--epochs", "1", "--max-length", "32")
LARGE = ("--learning-rate", "0.02")  # so that an adapter that is read wrongly gives other outputs


@pytest.mark.parametrize(
    "method",
    [
        ("lora", "--method.rank", "4", "--method.rank-stabilized", "--method.rank-pattern", "v_proj", "2"),
        ("lora", "--method.rank", "2", "--method.initialization", "pissa"),
    ],
    ids=["rank-stabilized-pattern", "pissa"],
)
def test_a_run_s_plain_adapter_is_read_rightly_by_a_simple_client(method: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = ("train", "builtin:tiny-lm", "builtin:captions", "--out", str(run), "--dtype", "float32", "--plain")
    assert main([*asked, "--method", *method, *SMALL, *LARGE]) == 0
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert not any(config[key] for key in ("use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"))

    folder = config["base_model_name_or_path"]
    base, client, ours = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(3))
    with torch.no_grad():
        for key in (key for key in tensors if key.endswith(".lora_A.weight")):
            a_RI, b_OR = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            client.get_submodule(name).weight += config["lora_alpha"] / len(a_RI) * (b_OR @ a_RI)
    inlay.load(ours, run)
    ids_BT = torch.arange(5, 17)[None]
    expected, read, before = (m.eval()(input_ids=ids_BT).logits for m in (ours, client, base))
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=1e-4)
    assert (expected - before).abs().max() > 0.1


def test_what_has_no_plain_form_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("train", "builtin:minilm", "builtin:tickets", "--out", str(tmp_path / "run"), "--plain", *SMALL)
    assert main(list(asked)) == 2
    assert "classifier is trained whole: save it without plain" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
