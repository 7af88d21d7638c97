"""A comparison whose runs' files are damaged says which, and is no bug."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import CheckpointError, DataError
from inlay.formats.run_files import read_run
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.trial import EARLIER, Budget, Trial, plain_trials
from inlay.training.journal import first_event
from inlay.training.score_parts import SCORE_PARTS, read_parts

from ..compare.fakes import contender, write_classifier

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "no text": lambda data: b"\xff\xfe\x80" + data,
    "another kind": lambda _: b"7\n",
    "deep": lambda _: b"[" * 100_000,
}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A finished one, whose files have all that a comparison reads."""
    comparison = CompareSettings(model="builtin:minilm", data=DataSettings(path="builtin:tickets"))
    (found,) = plain_trials(comparison, [contender("lora")], tmp_path, {}, Budget(1, 32))
    write_classifier(found, 0.9, 100, True)
    (found.folder / EARLIER).write_text('[{"loss": 0.5, "accuracy": 0.5}]')
    return found


READERS: dict[str, Callable[[Trial], Any]] = {
    "summary.json": lambda trial: trial.summary(),
    EARLIER: lambda trial: trial.scores_on_earlier(),
    "metrics.jsonl": lambda trial: first_event(trial.folder, "none of this name"),
    SCORE_PARTS: lambda trial: read_parts(trial.folder, "test"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(name: str, damage: str, trial: Trial) -> None:
    READERS[name](trial)
    path = trial.folder / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if name == "metrics.jsonl" and damage in ("cut", "empty", "deep"):
        assert READERS[name](trial) == {}  # a killed run has no end of its last line
        return
    with pytest.raises(CheckpointError, match=f"{name}: .*; copy or make it again"):
        READERS[name](trial)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics", None),
        ("metrics", {"tuned": {"accuracy": "high"}, "test": None}),
        ("metrics", {"tuned": [0.5], "test": None}),
        ("steps", "many"),
        ("train_seconds", True),
    ],
)
def test_a_summary_of_other_values_is_named(name: str, value: Any, trial: Trial) -> None:
    path = trial.folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CheckpointError, match=r"summary\.json: .*; copy or make it again"):
        trial.summary()


@pytest.mark.parametrize("parts", [7, {"right": "01x"}, {"losses": ["a"], "tokens": [1]}, {"losses": [1.0]}])
def test_parts_of_other_values_are_named(parts: Any, trial: Trial) -> None:
    (trial.folder / SCORE_PARTS).write_text(json.dumps({"test": parts}))
    with pytest.raises(CheckpointError, match=r"score_parts\.json: .*; copy or make it again"):
        read_parts(trial.folder, "test")


@pytest.mark.parametrize("scores", [7, [7], [{"loss": "a"}], {"loss": 0.5}])
def test_earlier_scores_of_other_values_are_named(scores: Any, trial: Trial) -> None:
    (trial.folder / EARLIER).write_text(json.dumps(scores))
    with pytest.raises(CheckpointError, match=r"earlier\.json: .*; copy or make it again"):
        trial.scores_on_earlier()


def test_the_verb_ends_with_2(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "out" / "runs" / "lora-0"
    run.mkdir(parents=True)
    (run / "summary.json").write_text('{"status": "fini')
    assert (
        main(["compare", tiny_bert, reviews_folder, "--methods", "lora", "full", "--out", str(tmp_path / "out")]) == 2
    )
    assert f"{run / 'summary.json'}: a run's summary that cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["7", "{}", '{"event": "step"}', '{"event": "evaluate"}'])
def test_a_report_over_lines_of_another_kind(line: str, trial: Trial) -> None:
    with (trial.folder / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match="files of a run that cannot be read"):
        read_run(trial.folder)


def test_a_report_of_a_summary_of_another_kind(trial: Trial) -> None:
    (trial.folder / "summary.json").write_text("[]")
    with pytest.raises(DataError, match="files of a run that cannot be read"):
        read_run(trial.folder)
