"""Training on a base in float16: a scaled loss gives float32's gradients, and too high a scale costs a step nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import inlay
from inlay import loss_scale
from inlay.bases.base import find_base
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import TrainingFailed
from inlay.formats.base_files import fingerprint_of_files
from inlay.loss_scale import LARGEST, LossScale
from inlay.methods import METHODS
from inlay.models.fingerprint import fingerprint, row_digests
from inlay.models.sites import Sites
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..shapes import SHAPES, disturb, logits, method


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [e for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if e["event"] == name]


def test_the_scale_is_halved_when_it_is_too_high_and_doubled_after_many_steps() -> None:
    scale = LossScale.for_dtype(torch.float16)
    assert scale.factor == 2.0**16
    lower = scale.lowered()
    assert lower == LossScale(2.0**15)
    for _ in range(1_999):
        lower = lower.after_step()
    assert lower == LossScale(2.0**15, steps=1_999)
    assert lower.after_step() == LossScale(2.0**16)
    assert LossScale(LARGEST, steps=1_999).after_step() == LossScale(LARGEST)
    assert LossScale(1.0).lowered() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_another_dtype_nothing_is_scaled(dtype: torch.dtype) -> None:
    scale, loss = LossScale.for_dtype(dtype), torch.tensor(2.0)
    assert scale.scaled(loss) is loss
    assert scale.after_step() == scale
    assert scale.lowered() is None


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", list(METHODS))
def test_gradients_that_float16_has_no_numbers_for_are_those_of_float32(name: str, kind: str) -> None:
    """The loss is so small that none of its gradients, unscaled, is a number of float16."""
    shape, scale, gradients = SHAPES[kind], LossScale(LARGEST), []
    for dtype in (torch.float32, torch.float16):
        model = shape.model(dtype)
        torch.manual_seed(0)
        adapter = inlay.attach(model, method(name, shape))
        torch.manual_seed(1)
        disturb(adapter)
        small = logits(model, shape).float().square().mean() * 2.0**-24
        factor = scale if dtype == torch.float16 else LossScale()
        factor.scaled(small).backward()
        factor.unscale_(adapter.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in adapter.parameters() if p.grad is not None]))
    exact, found = gradients
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found - exact).norm() < 0.03 * exact.norm()


def run_of(model: str, data: str, out: Path, **changes: Any) -> RunSettings[Any]:
    wanted = {"epochs": 2, "learning_rate": 1e-2, "evaluations_per_epoch": 1, "forgetting": False}
    return RunSettings(model=model, data=DataSettings(path=data), method=inlay.LoRA(), out=str(out), **wanted | changes)


def test_a_run_learns_as_in_float32_and_its_adapter_serves(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {name: tmp_path / name for name in ("float32", "float16")}
    scores = {
        name: train(run_of(tiny_bert, reviews_folder, out, dtype=name, epochs=8, seed=0))["metrics"]["tuned"]
        for name, out in runs.items()
    }
    assert scores["float16"] is not None
    assert scores["float32"] is not None
    assert scores["float16"]["accuracy"] > 0.9
    assert scores["float16"]["loss"] == pytest.approx(scores["float32"]["loss"], abs=0.02)
    run = runs["float16"]
    tensors = inlay.open(str(run)).adapter.state_dict()
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"]["loss"] == pytest.approx(scores["float16"]["loss"], abs=1e-6)
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_base_is_the_same_in_float16(kind: str, tiny_bert: str, tiny_llama: str) -> None:
    """Its files have 32 bits. It is so until a weight changes."""
    base = find_base({"bert": tiny_bert, "llama": tiny_llama}[kind])
    auto_class: Any = {"bert": transformers.AutoModel, "llama": transformers.AutoModelForCausalLM}[kind]
    known = []
    for dtype in (torch.float32, torch.float16):
        model, found = base.load(auto_class, None, dtype=dtype)
        sites = Sites(model, found.heads)
        known.append((fingerprint(sites), row_digests(sites)))
    assert known[0] == known[1]
    assert known[0][0] == fingerprint_of_files(Path(base.path), sites)
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0] += 1
    assert fingerprint(sites) != known[0][0]
    assert row_digests(sites) != known[0][1]


def test_a_scale_that_is_too_high_is_lowered_and_the_rows_are_taken_again(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first steps overflow, and the run is the one that would have been with the right scale from the start."""
    losses, tries = [], []
    monkeypatch.setattr(LossScale, "lowered", lambda self, real=LossScale.lowered: tries.append(self) or real(self))
    for first in (2.0**24, 2.0**16):
        monkeypatch.setattr(loss_scale, "_FIRST", first)
        out = tmp_path / f"{first:.0f}"
        summary = train(run_of(tiny_bert, reviews_folder, out, dtype="float16"))
        assert summary["status"] == "finished"
        assert summary["went_back"] == []
        losses.append({event["step"]: event["loss"] for event in events(out, "step")})
        if first == 2.0**24:
            assert len(tries) > 1
            tries.clear()
    assert not tries
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_gradients_that_no_scale_makes_finite_end_the_run_with_advice(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite(adapter: inlay.Adapter, *_: Any) -> torch.Tensor:
        return sum(p.sum() for p in adapter.parameters()) * torch.inf  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(inlay.LoRA, "penalty", lambda self, adapter: infinite(adapter))
    with pytest.raises(TrainingFailed, match=r"gradient norm (nan|inf).*try --learning-rate.*--dtype float32"):
        train(run_of(tiny_bert, reviews_folder, tmp_path / "run", dtype="float16"))
