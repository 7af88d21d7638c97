"""What is said before texts are written."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay.training import scoring
from inlay.training.scoring import texts_note


def _run(**rows: int) -> Any:
    task = SimpleNamespace(most_texts=lambda samples: samples, rows=rows, base=SimpleNamespace(name="base"))
    return SimpleNamespace(
        task=task, device=torch.device("cpu"), dtype=torch.float32, settings=SimpleNamespace(samples=8)
    )


@pytest.mark.parametrize(
    ("each", "again", "told"),
    [
        (None, False, " (--samples 0: none)"),
        (0.5, False, " (about 4.0 s for the base, by earlier runs; --samples 0: none)"),
        (None, True, ""),
        (0.5, True, " (about 4.0 s for the base, by earlier runs)"),
    ],
)
def test_earlier_runs_tell_how_long_the_texts_of_the_base_take(
    each: float | None, again: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "text_seconds", lambda runs, model: each)
    note = texts_note(_run(valid=20, test=3), again=again)
    assert note is not None
    assert note.endswith(f"and 8 of valid and 3 of test after the training with the adapter{told}")
    assert texts_note(_run(), again=again) is None
