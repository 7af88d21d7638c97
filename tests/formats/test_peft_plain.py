"""Plain files: clients that read one alpha, and know neither rsLoRA nor patterns, compute what the adapter computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import inlay
from inlay.formats import peft as format_

from ..shapes import SHAPES, disturb, logits

LLAMA = SHAPES["llama"]


def merged_as_clients_do(folder: Path, rank_from: str) -> nn.Module:
    """The base with W + alpha / rank B A: the rank is each tensor's own, as in llama.cpp, or the file's, as in vLLM."""
    config, tensors = json.loads((folder / format_.CONFIG).read_text()), load_file(folder / format_.TENSORS)
    model = LLAMA.model()
    with torch.no_grad():
        for key, b_OR in tensors.items():
            if key.endswith(".lora_B.weight"):
                a_RI = tensors[key.replace("lora_B", "lora_A")]
                rank = a_RI.shape[0] if rank_from == "tensor" else config["r"]
                name = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
                model.get_submodule(name).weight += config["lora_alpha"] / rank * (b_OR @ a_RI)
            elif key.endswith(".lora_embedding_B"):
                a_RV = tensors[key.replace("embedding_B", "embedding_A")]
                rank = a_RV.shape[0] if rank_from == "tensor" else config["r"]
                name = key.removeprefix("base_model.model.").removesuffix(".lora_embedding_B")
                model.get_submodule(name).weight += config["lora_alpha"] / rank * (b_OR @ a_RV).T
    return model


METHODS: dict[str, Any] = {
    "lora": inlay.LoRA(rank=4, alpha=6),
    "rank-stabilized": inlay.LoRA(rank=4, alpha=6, rank_stabilized=True),
    "patterns": inlay.LoRA(rank=4, rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3, "down_proj": 40}),
    "embedding": inlay.LoRA(rank=4, alpha=6, targets=("q_proj", "embed_tokens"), rank_pattern={"q_proj": 3}),
    "pissa": inlay.LoRA(rank=3, initialization="pissa"),
    "olora": inlay.LoRA(rank=3, alpha=2, initialization="olora", rank_stabilized=True),
    "adalora": inlay.METHODS["adalora"](initial_rank=4, target_rank=2),
    "vera": inlay.METHODS["vera"](rank=8),
    "loha": inlay.METHODS["loha"](rank=2),
}


@pytest.mark.parametrize("rank_from", ["tensor", "config"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_clients_that_know_one_alpha_compute_the_same(method: Any, rank_from: str, tmp_path: Path) -> None:
    model = LLAMA.model()
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(tmp_path, plain=True)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert not any(config[key] for key in ("use_rslora", "rank_pattern", "alpha_pattern"))
    expected = logits(model, LLAMA)
    assert not torch.allclose(expected, logits(LLAMA.model(), LLAMA), atol=1e-3)
    assert close(logits(merged_as_clients_do(tmp_path, rank_from), LLAMA), expected)
    again = LLAMA.model()
    loaded = inlay.load(again, tmp_path)
    assert close(logits(again, LLAMA), expected)
    loaded.save(tmp_path / "again", plain=True)
    for file in (format_.CONFIG, format_.TENSORS, format_.PROVENANCE):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.filterwarnings("ignore")  # PEFT's own warnings
def test_peft_reads_a_plain_file_of_transposed_layers(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    shape = SHAPES["gpt2"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=4, alpha=3, rank_stabilized=True, rank_pattern={"c_attn": 2}))
    disturb(adapter)
    adapter.save(tmp_path, plain=True)
    assert close(
        logits(peft.PeftModel.from_pretrained(shape.model(), str(tmp_path)).eval(), shape), logits(model, shape)
    )


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (inlay.METHODS["dora"](rank=2), "dora is not at model.layers.0.self_attn.q_proj"),
        (inlay.METHODS["oft"](block_size=8), "oft is not at"),
        (inlay.METHODS["prompt"](tokens=3), "prompt is not at"),
        (inlay.METHODS["norm"](), "norm is not at"),
        (inlay.LoRA(rank=2, change_bias=True), "lora is not at .*Biased"),
        (inlay.LoRA(rank=2, tokens=(5,)), "lora is not at model.embed_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_what_has_no_plain_form_is_refused_before_anything_is_written(method: Any, named: str, tmp_path: Path) -> None:
    adapter = inlay.attach(LLAMA.model(), method)
    disturb(adapter)
    with pytest.raises(inlay.errors.AdapterStateError, match=named):
        adapter.save(tmp_path / "out", plain=True)
    assert not (tmp_path / "out").exists()


def test_a_head_has_no_plain_form(tmp_path: Path) -> None:
    adapter = inlay.attach(LLAMA.classifier(), inlay.LoRA(rank=2))
    with pytest.raises(inlay.errors.AdapterStateError, match="score is trained whole"):
        adapter.save(tmp_path, plain=True)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)
