"""LoKr in Hugging Face PEFT, both ways. PEFT's works on nn.Linear only, so GPT-2 is left out."""

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
    "full": {"r": 8, "alpha": 6},  # PEFT scales by alpha / r even where both matrices are whole
    "both": {"r": 1, "alpha": 2, "decompose_both": True},
    "factor": {"r": 2, "alpha": 2, "decompose_factor": 2},
    "patterns": {"r": 2, "alpha": 8, "rank_pattern": {"q|query|q_proj": 1}, "alpha_pattern": {"v|query|v_proj": 3}},
    "dropout": {"r": 2, "alpha": 2, "rank_dropout": 0.3, "module_dropout": 0.2, "rank_dropout_scale": True},
}


def ours(variant: dict[str, Any], shape: Shape) -> inlay.LoKr:
    names = {"r": "rank", "rank_dropout": "dropout", "decompose_factor": "factor"}
    settings = {names.get(key, key): value for key, value in variant.items() if key != "rank_dropout_scale"}
    return inlay.LoKr(targets=PAIRS[shape.name], **settings)


@variants_and_builds(VARIANTS, "llama", "bert", "t5")
def test_both_compute_the_same_from_both_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    method = ours(VARIANTS[variant], shape)
    peft_agrees_with_our_files(shape, build, method, tmp_path / "first")
    _, adapter = we_agree_with_peft_files(shape, build, peft.LoKrConfig, tmp_path, **VARIANTS[variant])
    for name in ("rank", "alpha", "dropout", "module_dropout", "decompose_both", "factor", "rank_pattern"):
        assert getattr(adapter.method, name) == getattr(method, name)


def test_a_file_that_started_as_lycoris_does_is_read(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    we_agree_with_peft_files(shape, shape.model, peft.LoKrConfig, tmp_path, r=2, init_weights="lycoris")


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, peft.LoKrConfig, tmp_path)
    path = tmp_path / format_.CONFIG
    unseal(path.parent)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_tucker": True}))
    with pytest.raises(CheckpointError, match="use_tucker is True; this changes what the adapter computes"):
        inlay.load(shape.model(), tmp_path)
