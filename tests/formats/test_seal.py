"""An adapter's files are those that were written, or it is said; what somebody else's settings may take is bounded."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import inlay
from inlay import expressions
from inlay.errors import CheckpointError, TargetError
from inlay.formats.seal import PROVENANCE

from ..edited import unseal
from ..shapes import SHAPES, disturb
from ..tiny_models import word_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adapter = inlay.attach(SHAPES["llama"].classifier(), inlay.PrefixTuning(tokens=3, projection=True, hidden_size=4))
    disturb(adapter)
    adapter.save(tmp_path, tokenizer=word_tokenizer())
    return tmp_path


def test_a_flipped_bit_is_found_wherever_it_is(saved: Path) -> None:
    model, files = SHAPES["llama"].classifier(), sorted(saved.iterdir())
    assert len(files) >= 6
    drawn = random.Random(0)
    for number in range(200):
        path = files[number % len(files)]
        whole = path.read_bytes()
        at, bit = drawn.randrange(len(whole)), drawn.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            inlay.load(model, saved)
        path.write_bytes(whole)
    inlay.load(model, saved)


def test_a_missing_digest_is_accepted_and_so_is_a_change_that_is_meant(saved: Path) -> None:
    path = saved / "adapter_config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(CheckpointError, match=r'adapter_config.json is not as .*set "digests" .* to \{\}'):
        inlay.load(SHAPES["llama"].classifier(), saved)
    unseal(saved)
    inlay.load(SHAPES["llama"].classifier(), saved)
    about = json.loads((saved / PROVENANCE).read_text())
    del about["digests"], about["sealed"]  # as Inlay wrote it before
    (saved / PROVENANCE).write_text(json.dumps(about))
    inlay.load(SHAPES["llama"].classifier(), saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.int(), "whole numbers, its place real numbers"),
        (lambda t: t.bool(), "booleans, its place real numbers"),
        (lambda t: t.to(torch.complex64), "complex64, which no adapter is made of"),
        (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn, which no adapter is made of"),
        (lambda t: t * float("nan"), "are not finite"),
        (lambda t: t.double() + 1e300, "are not finite"),
    ],
)
def test_numbers_of_another_kind_are_refused_by_name(change: Any, message: str, saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    (saved / "reparameterization.safetensors").unlink()
    unseal(saved)
    save_file(tensors | {name: change(tensors[name])}, path)
    with pytest.raises(CheckpointError, match=message) as refused:
        inlay.load(SHAPES["llama"].classifier(), saved)
    assert name.removeprefix("base_model.model.") in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_of_real_numbers_are_read(dtype: torch.dtype, saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    (saved / "reparameterization.safetensors").unlink()
    unseal(saved)
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)
    inlay.load(SHAPES["llama"].classifier(), saved)


@pytest.mark.parametrize("settings", [{"r": 10_000_000}, {"rank_pattern": {"q_proj": 10_000_000}}])
def test_a_rank_beyond_the_file_is_refused_before_it_is_built(settings: dict[str, Any], tmp_path: Path) -> None:
    inlay.attach(SHAPES["llama"].model(), inlay.LoRA(rank=2)).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    unseal(tmp_path)
    with pytest.raises(CheckpointError, match="more than [0-9]+ numbers, and the file has|at most 65,536"):
        inlay.load(SHAPES["llama"].model(), tmp_path)


def test_an_expression_is_tried_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.2)
    with pytest.raises(TargetError, match="takes longer than 0.2 s"):
        inlay.attach(SHAPES["llama"].model(), inlay.LoRA(targets=(r"(x+x+)+y|([a-z._0-9]+)+$!|(.|.)*Q",)))


def test_expressions_mean_what_they_do_in_python() -> None:
    assert expressions.fits(r"^(?!.*vision).*\.(?:q|k)_proj$", "model.layers.0.q_proj")
    assert not expressions.fits(r"^(?!.*vision).*\.(?:q|k)_proj$", "vision.layers.0.q_proj")
    assert expressions.fits("a{e}", "a{e}")  # a fuzzy match to the library
    assert expressions.fits_end("q_proj|v_proj", "layers.1.v_proj")
    assert not expressions.fits_end("proj", "layers.1.v_proj")
    assert expressions.layer_number("h|layers", "model.layers.12.mlp") == 12
    for broken in ("(", "(?R)", r"\p{L}", "(" * 20_000, "a" * 40_000):
        with pytest.raises(TargetError, match="no regular expression"):
            expressions.check(broken, "target is")
