"""LoHa in Hugging Face PEFT, both ways. PEFT's works on nn.Linear only, so GPT-2 is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..edited import unseal
from ..shapes import SHAPES, Shape
from .both_ways import PAIRS, peft_agrees_with_our_files, trained_by_peft, we_agree_with_peft_files
from .matrix import variants_and_builds

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about tied weights

VARIANTS: dict[str, dict[str, Any]] = {
    "thin": {"r": 2, "alpha": 6},
    "wide": {"r": 8, "alpha": 6},
    "patterns": {"r": 4, "alpha": 8, "rank_pattern": {"q|query|q_proj": 2}, "alpha_pattern": {"v|query|v_proj": 3}},
    "dropout": {"r": 2, "alpha": 2, "rank_dropout": 0.3, "module_dropout": 0.2},
}


def ours(variant: dict[str, Any], shape: Shape) -> inlay.LoHa:
    names = {"r": "rank", "rank_dropout": "dropout"}
    return inlay.LoHa(targets=PAIRS[shape.name], **{names.get(key, key): value for key, value in variant.items()})


@variants_and_builds(VARIANTS, "llama", "bert", "t5")
def test_both_compute_the_same_from_both_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    peft_agrees_with_our_files(shape, build, ours(VARIANTS[variant], shape), tmp_path / "first")
    _, adapter = we_agree_with_peft_files(shape, build, peft.LoHaConfig, tmp_path, **VARIANTS[variant])
    assert adapter.method.dropout == VARIANTS[variant].get("rank_dropout", 0.0)  # type: ignore[attr-defined]
    assert adapter.method.module_dropout == VARIANTS[variant].get("module_dropout", 0.0)  # type: ignore[attr-defined]


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, peft.LoHaConfig, tmp_path)
    path = tmp_path / format_.CONFIG
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_cp": True}))
    with pytest.raises(CheckpointError, match="use_cp is True; this changes what the adapter computes"):
        inlay.load(shape.model(), tmp_path)
