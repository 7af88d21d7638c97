"""A task and a metric from outside, one object each: in a run, its report, a comparison, eval and predict."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import inlay
from inlay.cli import main
from inlay.tasks import TASKS
from inlay.tasks.metric import METRICS

from ..tiny_models import reviews, write_rows
from .toys import CLOSE, Review

SOURCE = Path(inlay.__file__).parent


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[Path]:
    """The folder of a comparison of two methods on the toy task, whose runs are in processes of their own."""
    inlay.register(Review)
    inlay.register(CLOSE)
    folder = tmp_path_factory.mktemp("toys")
    rows = [{"text": row["text"], "stars": 3 if row["label"] == "positive" else 1} for row in reviews(60)]
    data = write_rows(folder / "rows.jsonl", rows)
    asked = ["--data.label", "stars", "--epochs", "1", "--evaluations-per-epoch", "1", "--no-forgetting"]
    more = ["--methods", "bitfit", "norm", "--dtype", "float32", "--jobs", "1", "--out", str(folder / "out")]
    assert main(["compare", tiny_bert, data, *asked, *more]) == 0
    yield folder / "out"
    TASKS._registered.clear()
    METRICS._registered.clear()


def test_a_comparison_has_them_in_its_table(compared: Path) -> None:
    page, table = (compared / "report.html").read_text(), (compared / "report.csv").read_text()
    assert "stars within one (valid)" in page
    assert "stars within one (valid)" in (compared / "report.md").read_text()
    assert "close" in table.splitlines()[0].split(",")
    assert "finished" in table


def test_a_run_has_them_in_its_summary_its_log_and_its_page(compared: Path) -> None:
    run = compared / "runs" / "bitfit-0"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["task"] == "review"
    assert list(summary["metrics"]["tuned"]) == ["close", "loss"]
    assert 0 <= summary["metrics"]["tuned"]["close"] <= 1
    assert "stars within one" in (run / "log.txt").read_text().splitlines()[-1]
    page = (run / "report.html").read_text()
    assert "Stars within one" in page
    assert "texts whose stars are right or one off" in page
    assert "Evaluation stars within one" in page
    assert "1 stars" in page  # a sample, with what was wanted


def test_eval_and_predict_use_them(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(compared / "runs" / "bitfit-0")
    capsys.readouterr()
    assert main(["eval", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((compared / "runs" / "bitfit-0" / "summary.json").read_text())
    assert found["tuned"] == pytest.approx(summary["metrics"]["tuned"], rel=1e-5)
    assert main(["eval", run]) == 0
    assert "stars within one" in capsys.readouterr().out
    assert main(["predict", run, "the film was so good"]) == 0
    assert capsys.readouterr().out.endswith(" stars\n")
    assert main(["predict", run, "the film was so good", "--pair", "x"]) == 2
    assert "--pair is not for this adapter, which gives stars" in capsys.readouterr().err


def test_nothing_outside_the_tasks_asks_for_one_by_its_name() -> None:
    names = {task.name for task in TASKS.values()}
    asking = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "tasks" and path.name != "demos.py"  # whose choices have such names
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    templates = [path for path in SOURCE.rglob("*.j2") if any(f'"{n}"' in path.read_text() for n in names)]
    assert (asking, templates) == ([], [])
