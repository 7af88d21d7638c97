"""What a notebook shows while a run goes on, and what is left of it."""

from typing import Any

import IPython.display
import pytest

from inlay.api import displays
from inlay.api.displays import NotebookDisplay
from inlay.api.progress import ProgressWatcher


class Handle:
    """A cell's output."""

    def __init__(self, first: dict[str, str]):
        self.shown = [first]

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        self.shown.append(bundle)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> NotebookDisplay:
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw, display_id: Handle(bundle))
    monkeypatch.setattr(displays, "_SECONDS", 0)
    return NotebookDisplay()


def test_a_bar_moves_and_sentences_stay(display: NotebookDisplay) -> None:
    watcher = ProgressWatcher(display)
    step: dict[str, Any] = {"event": "step", "steps": 8, "loss": 1.5, "tokens_per_second": 10.0}
    step |= {"memory_bytes": 2**30, "seconds_left": 61.0}
    watcher({**step, "step": 3})
    page = display.handle.shown[-1]
    assert '<progress value="3" max="8">' in page["text/html"]
    assert "step 3/8  loss 1.500  10 tokens/s" in page["text/plain"]
    watcher({"event": "failed", "text": "<b>\x1b[31m no \x1b"})
    display.close()
    page = display.handle.shown[-1]
    assert "<progress" not in page["text/html"]
    assert "&lt;b&gt;\\x1b[31m no" in page["text/html"]
    assert "color: #b3261e" in page["text/html"]
    assert page["text/plain"] == "failed  <b>\\x1b[31m no \\x1b"


def test_no_time_is_left_after_the_last_step(display: NotebookDisplay) -> None:
    """What comes then can take longer than the training."""
    watcher = ProgressWatcher(display)
    step: dict[str, Any] = {"event": "step", "steps": 8, "loss": 1.5, "tokens_per_second": 10.0}
    step |= {"memory_bytes": 2**30, "seconds_left": 1.0}
    scored = {"event": "evaluate", "split": "valid", "loss": 1.5, "best": False}
    for number, left in ((4, True), (8, False)):
        watcher({**step, "step": number})
        assert "1.0 s left" in display.handle.shown[-1]["text/plain"]
        watcher({**scored, "step": number})
        shown = display.handle.shown[-1]["text/plain"]
        assert ("1.0 s left" in shown) == left
        assert ("step 8  writing, scoring and measuring" in shown) != left


def test_a_comparison_has_a_bar_for_each_run_and_one_for_all(display: NotebookDisplay) -> None:
    watcher = ProgressWatcher(display)
    trial: dict[str, Any] = {"event": "trial", "trial": "lora-0", "seconds_left": None}
    watcher({"event": "compare", "runs": 4, "folder": "runs/c", "searching": 0, "notes": ["as before"]})
    watcher({**trial, "state": "begins"})
    watcher({"event": "step", "trial": "lora-0", "step": 1, "steps": 9, "loss": 2.0, "seconds_left": 3.0})
    watcher({"event": "evaluate", "trial": "lora-0", "step": 0})  # which is in the run's own log
    assert list(display.bars) == ["all runs", "lora-0"]
    scores = {"test": None, "tuned": {"accuracy": 0.5}, "split": "valid"}
    done = {"state": "finished", "number": 1, "of": 4, "metrics": scores, "score": "accuracy", "seconds": 2.0}
    watcher({**trial, **done, "seconds_left": 6.0})
    watcher({"event": "step", "trial": "lora-0", "step": 2, "steps": 9, "loss": 2.0, "seconds_left": 3.0})  # late
    assert {name: (bar.done, bar.of) for name, bar in display.bars.items()} == {"all runs": (1, 4)}
    assert [text.split()[0] for text, _ in display.lines] == ["compare", "1/4"]
    assert "about" in display.bars["all runs"].now
