"""Dynamic rank is saved as the LoRA that it has become, which Hugging Face PEFT and everything else can read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inlay
from inlay import DynamicRank
from inlay.formats import peft as format_
from inlay.methods.reparameterized.components import components

from ..shapes import SHAPES, Shape, disturb
from .matrix import variants_and_builds
from .test_peft import QUERY_VALUE, close, inputs

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about tied weights

KEPT = ([True] * 4, [False] * 4, [False, True, True, False], [True, False, False, False])


def pruned(model: Any, shape: Shape, **settings: Any) -> inlay.Adapter:
    method = DynamicRank(initial_rank=4, target_rank=2, alpha=8, **{"targets": QUERY_VALUE[shape.name]} | settings)
    adapter = inlay.attach(model, method)
    disturb(adapter)
    for i, (_, delta) in enumerate(components(adapter)):
        delta.kept[:, 0] = torch.tensor(KEPT[i % 4])
    return adapter


@variants_and_builds(["some", "all-linear"], called="targets")
def test_peft_and_we_read_a_lora_that_computes_the_same(shape: Shape, build: Any, targets: str, tmp_path: Path) -> None:
    model = build()
    adapter = pruned(model, shape, **({} if targets == "some" else {"targets": ("attention", "feedforward")}))
    adapter.save(tmp_path)
    given = inputs(shape, model)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    mine, its = model(**given), theirs(**given)
    close(mine.logits, its.logits)
    close(mine.loss, its.loss)
    assert not torch.allclose(mine.logits, build()(**given).logits, atol=1e-3)

    again = build()
    loaded = inlay.load(again, tmp_path)
    assert isinstance(loaded.method, inlay.LoRA)
    close(again(**given).logits, mine.logits)
    ranks = adapter.method.findings(adapter)["ranks"]
    found = {host: len(delta.lora_A) for host, delta in loaded.deltas.items() if hasattr(delta, "lora_A")}
    assert found == {host: rank for host, rank in ranks.items() if rank}


def test_every_layer_has_scale_one_so_a_reader_without_patterns_is_right_too(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    pruned(shape.model(), shape).save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert list(config["rank_pattern"].values()) == [2, 1]
    shapes = {key: tuple(t.shape) for key, t in load_file(tmp_path / format_.TENSORS).items()}
    prefix = "base_model.model.model.layers.{}.self_attn.{}.{}.weight"
    assert shapes == {
        prefix.format(0, "q_proj", "lora_A"): (4, 32),
        prefix.format(0, "q_proj", "lora_B"): (32, 4),
        prefix.format(1, "q_proj", "lora_A"): (2, 32),
        prefix.format(1, "q_proj", "lora_B"): (32, 2),
        prefix.format(1, "v_proj", "lora_A"): (1, 32),
        prefix.format(1, "v_proj", "lora_B"): (16, 1),
    }


def test_what_is_saved_before_anything_is_dropped_has_no_patterns(tmp_path: Path) -> None:
    model = SHAPES["bert"].model()
    inlay.attach(model, DynamicRank(initial_rank=4, target_rank=2, dropout=0.2)).save(tmp_path)
    config = json.loads((tmp_path / format_.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 4, 0.2)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["modules_to_save"] == ["classifier"]
