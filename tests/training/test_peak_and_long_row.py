"""What sets the memory of a run, and when: the stage that raised its peak, and a row much longer than the others."""

from types import SimpleNamespace

import pytest

from inlay.batches.batch import LengthGroups, padded_length
from inlay.show.peak import peak_text
from inlay.training.journal import sentence
from inlay.training.long_row import long_row_note
from inlay.training.stages import Stages


def raised_by(peaks: dict[tuple[str, int], int]) -> list:
    """Pass through stages, after each of which the peak is so high."""
    now = [0]
    stages = Stages(lambda: now[0])
    for (stage, step), peak in peaks.items():
        stages.enter(stage, step)
        now[0] = peak
    stages.look()
    return stages.raised


@pytest.mark.parametrize(
    ("peaks", "text"),
    [
        (
            {("load", 0): 1, ("trial", 0): 3, ("training", 0): 3, ("evaluation", 4): 3},
            "in the trial of the largest batch",
        ),
        (
            {("load", 0): 1, ("trial", 0): 3, ("training", 0): 5, ("evaluation", 4): 5},
            "in the training, before its first evaluation",
        ),
        (
            {("load", 0): 1, ("training", 0): 2, ("evaluation", 4): 3, ("training", 4): 4},
            "in the training, after step 4",
        ),
        (
            {("load", 0): 1, ("training", 0): 2, ("evaluation", 4): 9, ("training", 4): 9},
            "in the evaluation after step 4",
        ),
        (
            {("load", 0): 1000, ("trial", 0): 3000, ("training", 0): 3001, ("evaluation", 4): 3002, ("end", 9): 3003},
            "in the trial of the largest batch",
        ),
        ({("load", 0): 4, ("trial", 0): 4}, "while the base was loaded"),
        ({("load", 0): 1, ("end", 9): 4}, "in the last evaluations"),
    ],
)
def test_the_stage_that_set_the_peak_is_told(peaks, text):
    found = peak_text(raised_by(peaks), max(peaks.values()))
    assert found is not None
    assert text in found


def test_a_peak_that_is_not_this_process_s_has_no_moment():
    raised = raised_by({("load", 0): 100})
    assert peak_text(raised, 100) is not None
    assert peak_text(raised, 150) is None
    assert peak_text(None, 150) is None  # of an earlier version


def test_the_last_line_tells_the_steps_that_were_taken_and_when_the_peak_was():
    event = {
        "event": "finished", "score": "accuracy", "split": "valid", "rows": 16, "base": {"accuracy": 0.5},
        "tuned": {"accuracy": 1.0}, "baseline": {"finding": None, "valid": None, "name": None}, "best_step": 56,
        "train_seconds": 186.0, "peak_memory_bytes": 3 << 30, "steps": 86, "planned_steps": 108,
        "raised_peak": [{"stage": "trial", "step": 0, "bytes": 3 << 30}],
    }  # fmt: skip
    assert sentence(event).endswith(
        "on valid (step 56), trained in 3 min 6 s (86 of 108 planned steps), peak memory 3.00 GiB (before the first "
        "step, in the trial of the largest batch)"
    )
    assert "planned" not in sentence(event | {"steps": 108})
    assert " in each of 2 processes at most" in sentence(event | {"processes": 2})
    assert "in each" not in sentence(event | {"processes": 1})


def task(lengths: list[int], packs: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        packs=packs,
        lengths=lambda split: lengths,
        order=lambda size, seed: LengthGroups(lengths, size, seed),
        size=lambda rows: len(rows) * padded_length(max(lengths[i] for i in rows), 8),
    )


def test_one_long_row_that_sets_the_memory_is_told_with_the_length_that_would_do():
    usual = [20 + i % 30 for i in range(159)]
    note = long_row_note(task([*usual, 512]), 16, 16, 0)
    assert note is not None
    assert note.startswith(
        "the longest row, 512 tokens, sets the memory: its batch takes 8,192 with padding, a usual one"
    )
    assert note.endswith("half of the rows have at most 34 tokens: --max-length 48 would take less, and cut 6 rows")
    assert long_row_note(task(usual), 16, 16, 0) is None
    assert long_row_note(task([*usual, 512], packs=True), 16, 16, 0) is None
    divided = long_row_note(task([*usual, 512]), 16, 4, 0)
    assert divided is not None
    assert divided.startswith("the longest row, 512 tokens, sets the memory: its micro-batch takes 2,048 with padding")


def test_of_several_processes_memory_is_that_of_each() -> None:
    plan = {"event": "plan", "steps": 8, "epochs": 1, "seconds": 60.0, "memory_bytes": 1 << 30}
    assert sentence(plan).endswith("and 1.00 GiB of memory")
    assert sentence(plan | {"processes": 2}).endswith("and 1.00 GiB of memory in each of 2 processes")


def test_what_comes_after_the_training_is_told_with_its_plan() -> None:
    plan = {"event": "plan", "steps": 8, "epochs": 1, "seconds": 60.0, "memory_bytes": 1 << 30}
    assert sentence(plan | {"after_seconds": 4.0}) == sentence(plan)
    told = sentence(plan | {"after_seconds": 150.0})
    assert told.endswith("; then 2 min 30 s or more for last texts and forgetting")
    told = sentence(plan | {"after_seconds": 150.0, "after": ["last texts"]})
    assert told.endswith("; then 2 min 30 s or more for last texts")
