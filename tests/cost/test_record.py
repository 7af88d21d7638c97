"""What earlier runs took corrects what is said of later ones."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from inlay.cost.record import BESIDE, BESIDE_SAMPLES, Taken, beside, kept, record, recorded, text_seconds, time_factor

RUN = Taken(
    device="cpu",
    dtype="float32",
    threads=2,
    task="classify",
    samples=False,
    method="lora",
    model="a",
    said_step_seconds=0.1,
    step_seconds=0.2,
    said_tensors=500_000_000,
    tensors=500_000_000,
    weights=100_000_000,
    copies=1_000_000,
    kernels=2_000_000,
    before=400_000_000,
    process=1_240_000_000,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INLAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_runs_of_the_same_computation_count_the_latest_last() -> None:
    for run in (RUN, replace(RUN, dtype="bfloat16"), replace(RUN, threads=1), replace(RUN, method="dora")):
        record(run)
    assert [each.method for each in recorded("cpu", "float32", 2)] == ["lora", "dora"]


def test_the_time_of_texts_is_of_the_runs_of_one_model_and_earlier_lines_have_none(home: Path) -> None:
    for seconds, model in ((2.0, "a"), (4.0, "a"), (3.0, "a"), (9.0, "b"), (None, "a")):
        record(replace(RUN, text_seconds=seconds, model=model))
    of_earlier_version = {name: value for name, value in asdict(RUN).items() if name != "text_seconds"}
    with (home / "record.jsonl").open("a") as file:
        file.write(json.dumps(of_earlier_version) + "\n")
    found = recorded("cpu", "float32", 2)
    assert len(found) == 6
    assert (text_seconds(found, "a"), text_seconds(found, "b"), text_seconds(found, "c")) == (3.0, 9.0, None)


def test_a_damaged_record_and_one_that_cannot_be_written_are_no_fault(home: Path) -> None:
    assert recorded("cpu", "float32", 2) == []
    home.mkdir()
    lines = [
        "{",
        "[]",
        json.dumps(asdict(RUN) | {"process": "much"}),
        json.dumps({"device": "cpu"}),
        json.dumps(asdict(RUN)),
    ]
    (home / "record.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert recorded("cpu", "float32", 2) == [RUN]
    (home / "record.jsonl").unlink()
    (home / "record.jsonl").mkdir()
    record(RUN)
    assert recorded("cpu", "float32", 2) == []


def test_time_and_process_are_corrected_by_the_middle_and_the_higher_runs() -> None:
    assert time_factor([], "a") == 1.0
    assert beside([], "classify", samples=False) == BESIDE
    runs = [replace(RUN, step_seconds=seconds) for seconds in (0.1, 0.2, 0.9)]
    assert time_factor([*runs, replace(RUN, model="b")], "a") == pytest.approx(2.0)
    assert beside([RUN], "classify", samples=False) == RUN.process - RUN.before - RUN.said_tensors - 3_000_000 - kept(
        500_000_000, 100_000_000
    )
    assert beside([RUN], "causal", samples=False) == BESIDE
    assert beside([RUN], "classify", samples=True) == BESIDE_SAMPLES
    more = [replace(RUN, process=RUN.process + i * 10_000_000) for i in range(4)]
    assert beside(more, "classify", samples=False) - beside([RUN], "classify", samples=False) == 20_000_000
