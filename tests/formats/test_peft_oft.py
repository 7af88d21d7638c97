"""OFT in Hugging Face PEFT, both ways and both branches. PEFT's works on nn.Linear only, so GPT-2 is left out."""

import json
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb, logits
from .both_ways import PAIRS, peft_agrees_with_our_files, trained_by_peft, we_agree_with_peft_files
from .matrix import variants_and_builds

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings about sizes that it adjusts

VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {"oft_block_size": 8, "use_cayley_neumann": False},
    "series": {"oft_block_size": 4},
    "series of 7": {"oft_block_size": 4, "num_cayley_neumann_terms": 7},
    "series of 4": {"oft_block_size": 4, "num_cayley_neumann_terms": 4},
    "uneven": {"oft_block_size": 20, "use_cayley_neumann": False},  # 16 for 32 inputs, 16 or 24 for 48
    "blocks": {"r": 5, "oft_block_size": 0, "use_cayley_neumann": False},
    "shared": {"oft_block_size": 8, "use_cayley_neumann": False, "block_share": True},
    "dropout": {"oft_block_size": 8, "use_cayley_neumann": False, "module_dropout": 0.4},
}
NAMES = {
    "r": "blocks",
    "oft_block_size": "block_size",
    "use_cayley_neumann": "neumann",
    "num_cayley_neumann_terms": "neumann_terms",
    "module_dropout": "dropout",
}


@variants_and_builds(VARIANTS, "llama", "bert", "t5")
def test_both_compute_the_same_from_both_files(variant: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    settings = {NAMES.get(key, key): value for key, value in VARIANTS[variant].items() if value}
    settings["neumann"] = variant.startswith("series")
    peft_agrees_with_our_files(shape, build, inlay.OFT(targets=PAIRS[shape.name], **settings), tmp_path / "first")
    _, adapter = we_agree_with_peft_files(shape, build, peft.OFTConfig, tmp_path, **VARIANTS[variant])
    for name, value in settings.items():
        assert getattr(adapter.method, name) == value


def edit(folder: Path, **changes: Any) -> None:
    path = folder / format_.CONFIG
    config = json.loads(path.read_text()) | changes
    unseal(path.parent)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_three_terms_are_what_peft_makes_of_them(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    trained_by_peft(shape, shape.model, peft.OFTConfig, tmp_path, oft_block_size=4, num_cayley_neumann_terms=3)
    theirs = peft.PeftModel.from_pretrained(shape.model(), str(tmp_path)).eval()
    model = shape.model()
    assert inlay.load(model, tmp_path).method.neumann_terms == 4  # type: ignore[attr-defined]
    assert (logits(model, shape) - logits(theirs, shape)).abs().max() < 1e-5


def test_gpt2_s_transposed_layers_work_here_and_not_in_peft(tmp_path: Path) -> None:
    shape = SHAPES["gpt2"]
    with pytest.raises(TypeError, match="Target module Conv1D"):
        peft.get_peft_model(shape.model(), peft.OFTConfig(oft_block_size=8, target_modules=["c_attn"]))
    model, again = shape.model(), shape.model()
    adapter = inlay.attach(model, inlay.OFT(block_size=8))
    disturb(adapter)
    adapter.save(tmp_path)
    inlay.load(again, tmp_path)
    assert (logits(again, shape) == logits(model, shape)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coft": True}, "coft is True; this changes what the adapter computes and is not known"),
        ({"oft_block_size": ...}, "oft_block_size is missing"),
        ({"peft_version": "0.17.1"}, "peft_version 0.17.1; before 0.18 that was another series"),
        ({"peft_version": ...}, "peft_version None; before 0.18"),
        ({"num_cayley_neumann_terms": 2}, "method.neumann_terms is 2; it must be at least 4"),
        ({"bias": "oft_only"}, "bias is 'oft_only'"),
    ],
)
def test_what_would_compute_something_else_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    trained_by_peft(shape, shape.model, peft.OFTConfig, tmp_path, oft_block_size=8)
    edit(tmp_path, peft_version="0.18.0.dev0@abc")
    inlay.load(shape.model(), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        inlay.load(shape.model(), tmp_path)


def test_an_exact_rotation_of_an_older_release_is_read(tmp_path: Path) -> None:
    shape = SHAPES["bert"]
    trained_by_peft(shape, shape.model, peft.OFTConfig, tmp_path, oft_block_size=8, use_cayley_neumann=False)
    edit(tmp_path, peft_version="0.15.0")
    inlay.load(shape.model(), tmp_path)
