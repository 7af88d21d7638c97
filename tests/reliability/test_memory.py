"""Memory that runs out in mid-run, on the CPU: told as such, with what is kept."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inlay.cli import main
from inlay.models.fake_tensors import has_values
from inlay.tasks.classify import Classify


@pytest.mark.parametrize(
    "ask", [lambda: torch.empty(1 << 55, dtype=torch.uint8), lambda: np.ones(1 << 50)], ids=["torch", "numpy"]
)
def test_memory_that_runs_out(
    ask: Callable[[], Any],
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loss, count = Classify.loss, 0

    def exhausting(self: Any, model: Any, batch: Any) -> Any:
        nonlocal count
        count += model.training and has_values(batch["input_ids"])
        if count == 6:
            ask()
        return loss(self, model, batch)

    monkeypatch.setattr(Classify, "loss", exhausting)
    run = tmp_path / "run"
    flags = ["--epochs", "1", "--evaluations-per-epoch", "4", "--no-forgetting", "--out", str(run)]
    flags += ["--on-oom", "stop", "--no-guard"]
    assert main(["train", tiny_bert, reviews_folder, *flags]) == 3
    said = capsys.readouterr().err
    assert "out of memory" in said
    assert "--micro-batch-size" in said
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "out of memory" in summary["reason"]
    assert re.search(r"the adapter of step [24], the best so far, is kept", summary["reason"])
