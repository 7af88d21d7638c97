"""What a notebook shows while a run goes on, and what is left of it."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython.display
import pytest

import inlay
from inlay.api import displays, progress
from inlay.api.displays import NotebookDisplay
from inlay.api.progress import ProgressWatcher, showing
from inlay.under_way import in_parts, shown_by


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
        assert ("step 8  scoring and measuring" in shown) != left


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
    assert "about" in display.bars["all runs"].told


def test_the_first_plan_tells_how_long_a_comparison_takes_and_the_end_how_long_it_took(
    display: NotebookDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that was left stood at 579 ms for as long as the last run was scored."""
    now = SimpleNamespace(seconds=100.0)
    for module in (progress, displays):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    watcher = ProgressWatcher(display)
    watcher({"event": "compare", "runs": 2, "folder": "runs/c", "searching": 0, "notes": []})
    assert display.bars["all runs"].told == ""
    watcher({"event": "expected", "seconds": 80.0, "runs": 2})
    assert display.lines[-1][0] == "time     about 1 min 20 s for 2 runs, if all are like the first"
    assert display.bars["all runs"].told == "about 1 min 20 s left"
    step = {"event": "step", "trial": "lora-0", "step": 1, "steps": 9, "loss": 2.0, "seconds_left": 3.0}
    watcher({"event": "trial", "trial": "lora-0", "seconds_left": None, "state": "begins"})
    watcher(step)
    now.seconds = 140.0
    assert display.bars["all runs"].told == "about 40.0 s left"  # though nothing has happened
    watcher(step | {"step": 9})
    assert display.bars["lora-0"].told.endswith("  scoring and measuring")
    now.seconds = 180.5
    assert display.bars["all runs"].told == "later than was told"
    scores = {"test": None, "tuned": {"accuracy": 0.5}, "split": "valid"}
    done = {"event": "trial", "trial": "lora-0", "state": "finished", "metrics": scores, "score": "accuracy"}
    for number, (left, in_all) in enumerate([(30.0, None), (0.0, 95.0)], 1):
        done |= {"number": number, "of": 2, "seconds": 40.0, "seconds_left": left, "seconds_in_all": in_all}
        watcher(done)
    assert [text.split("in 40.0 s, ")[1] for text, _ in display.lines[-2:]] == [
        "about 30.0 s left",
        "1 min 35 s in all",
    ]
    assert display.bars["all runs"].told == "writing the report"


def test_a_long_pass_has_a_bar_until_it_is_done(display: NotebookDisplay, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.5, 2.0, 4.0, 6.0, 100.0, 100.2, 100.4])  # a second pass is too short to be seen
    now = SimpleNamespace(seconds=0.0)

    def pass_on() -> float:
        now.seconds = next(moments)
        return now.seconds

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=pass_on))
    monkeypatch.setattr(displays, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    seen: list[list[tuple[str, int, int | None, str]]] = []
    with showing(display):
        for parts in (4, 2):
            compute = in_parts("scoring", parts, lambda value: value + 1)
            for value in range(parts):
                assert compute(value) == value + 1
                seen.append([(bar.text, bar.done, bar.of, bar.told) for bar in display.bars.values()])
    assert seen == [
        [],
        [("scoring", 2, 4, "about 2.0 s left")],
        [("scoring", 3, 4, "about 1.3 s left")],
        [],
        [],
        [],
    ]


def test_nobody_is_told_of_passes_outside_of_a_display() -> None:
    def compute() -> None: ...

    assert in_parts("scoring", 2, compute) is compute


def test_every_pass_of_a_run_is_told(tmp_path: Path, tiny_bert: str) -> None:
    told: list[tuple[str, int, int]] = []
    rows = [{"text": f"{word} {number}", "label": word} for number in range(20) for word in ("good", "bad")]
    with shown_by(lambda *part: told.append(part)):
        inlay.train(tiny_bert, {"train": rows, "valid": rows[:8]}, out=tmp_path / "run", epochs=1, progress=False)
    begun = [what for what, done, _ in told if done == 0]
    assert [what for what in begun if "once" not in what] == [  # the first run measures the machine
        "scoring",
        "reading passages",
        "reading rows for the new head",
        "fitting the new head",
        *["scoring"] * 4,
        "reading passages",
    ]
    for (what, done, parts), (_, then, _) in pairwise(told):
        assert then == (done + 1 if done < parts else 0), what
