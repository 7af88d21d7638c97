"""What a run says of a valid split that was held out and is small."""

from pathlib import Path

import pytest

import inlay
from inlay.data.describe import describe
from inlay.data.settings import DataSettings

from ..tiny_models import reviews, write_rows


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (120, {}, "--data.valid-fraction 0.2 holds out about 24"),
        (45, {}, None),  # a third of them already
        (120, {"valid_fraction": 0.2}, None),
        (120, {"eval_rows": 8}, None),  # more that are held out would not be looked at
    ],
)
def test_how_more_rows_are_held_out_is_said_where_it_helps(
    rows: int, settings: dict[str, float], said: str | None, tiny_bert: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", reviews(rows))
    known = {"epochs": 0.1, "forgetting": False, "progress": False, "guard": False}
    run = inlay.train(tiny_bert, tmp_path / "rows.jsonl", out=tmp_path / "run", **known, **settings)
    log = (run.folder / "log.txt").read_text()
    assert "valid is small" in log
    assert ("--data.valid-fraction" in log) == (said is not None)
    assert said is None or said in log
    report = describe(DataSettings(path=str(tmp_path / "rows.jsonl"), **settings))
    (small,) = [problem.message for problem in report.problems if "valid is small" in problem.message]
    assert small in log  # `inlay data` says the same
