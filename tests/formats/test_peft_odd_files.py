"""Files whose settings or names are not what they seem: read rightly, or refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PoolFormerConfig, PoolFormerForImageClassification

import inlay
from inlay.errors import CheckpointError, TargetError

from ..edited import unseal
from ..shapes import SHAPES


@pytest.mark.parametrize(
    "setting",
    [
        {"target_modules": "(q_proj"},
        {"exclude_modules": "*q_proj"},
        {"rank_pattern": {"(q_proj": 3}},
        {"lora_alpha": None},
        {"part": 3},
    ],
    ids=str,
)
def test_a_setting_of_another_kind_is_refused_by_name(setting: dict[str, Any], tmp_path: Path) -> None:
    inlay.attach(SHAPES["llama"].model(), inlay.LoRA(rank=2)).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    unseal(tmp_path)
    model = SHAPES["llama"].model()
    with pytest.raises(CheckpointError, match=next(iter(setting))):
        inlay.load(model, tmp_path)
    assert not inlay.adapters(model)


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    model = SHAPES["llama"].model()
    with pytest.raises(TargetError, match="no regular expression"):
        inlay.attach(model, inlay.LoRA(rank=2, rank_pattern={"(q_proj": 3}))
    assert not inlay.adapters(model)


@pytest.mark.parametrize("method", [inlay.BitFit(), inlay.NormTuning(), inlay.Full()], ids=lambda m: m.name)
def test_a_head_whose_name_ends_those_of_other_modules_is_the_only_one(method: inlay.Method, tmp_path: Path) -> None:
    """The head `norm` of a PoolFormer is no `before_norm` of its blocks, which the method trains."""

    def base() -> Any:
        torch.manual_seed(0)
        config = PoolFormerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_labels=3)
        return PoolFormerForImageClassification(config).eval()

    model, pixels = base(), torch.randn(2, 3, 32, 32)
    adapter = inlay.attach(model, method)
    assert adapter.heads == ("norm", "classifier")
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.1 * torch.randn(p.shape)
    adapter.save(tmp_path)
    again = base()
    assert inlay.load(again, tmp_path).heads == adapter.heads
    torch.testing.assert_close(again(pixels).logits, model(pixels).logits, atol=1e-6, rtol=0)
