"""A run that ends no better than the most frequent label: what it says, writes and exits with."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.cli import main
from inlay.errors import TrainingFailed

from ..tiny_models import reviews, write_rows

WORDS = ("good", "bad", "fine", "poor", "great", "awful", "film", "plot", "cast", "very", "so", "is", "was", "the")


def ham(folder: Path) -> str:
    """Rows whose label nothing tells: 7 of 8 are ham."""
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS[:2] if a != b]
    rows = [{"text": text, "label": "spam" if i % 8 == 3 else "ham"} for i, text in enumerate(texts[:320])]
    for split, own in {"train": rows[:160], "valid": rows[160:240], "test": rows[240:]}.items():
        write_rows(folder / f"{split}.jsonl", own)
    return str(folder)


def arguments(model: str, data: str, out: Path, epochs: int = 1) -> list[str]:
    asked = ["train", model, data, "--epochs", str(epochs), "--learning-rate", "1e-2", "--dtype", "float32"]
    return [*asked, "--no-forgetting", "--evaluations-per-epoch", "1", "--out", str(out)]


def test_a_run_that_answers_one_label_says_so_everywhere(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = ham(tmp_path / "data"), tmp_path / "run"
    assert main(arguments(tiny_bert, data, out)) == 0
    said = capsys.readouterr().out.splitlines()
    finding = (
        'accuracy 87.5 % (95 % 78.5 to 93.1, 80 rows) on valid is no better than the most frequent label, "ham" '
        '(87.5 %); every row gets "ham"'
    )
    assert said[-1].startswith(f"warning {finding}. ")
    assert said[-1].endswith("10 steps can teach little: try more --epochs, or another base model.")
    (base,) = (line for line in said if line.startswith("base"))
    assert base.endswith('(its head is new and answers at random; baseline: the most frequent label, "ham", 87.5 %)')
    assert f"done    {finding} (step " in (out / "log.txt").read_text().splitlines()[-1]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["base_is_random"]
    found = summary["baseline"]
    assert (found["name"], found["answer"], found["beaten"]) == ("the most frequent label", "ham", False)
    assert found["valid"]["accuracy"] == found["test"]["accuracy"] == 0.875
    page = (out / "report.html").read_text()
    assert "No clear gain" in page
    assert "the most frequent label, 87.5 %" in page  # the line in the plot
    assert "base recall" not in page.lower()
    assert main(["eval", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"warning: {finding}" in said
    (heading,) = (line.split() for line in said.splitlines() if "tuned" in line)
    (accuracy,) = (line for line in said.splitlines() if line.startswith("accuracy"))
    assert heading[0] == "baseline"
    assert accuracy.split()[1:3] == ["87.5", "%"]
    assert main(["eval", str(out), str(Path(data) / "test.jsonl")]) == 0
    assert "rows) on these rows is no better than" in capsys.readouterr().out
    # the same run, asked to fail: from a file of settings, and again when it is finished
    config = tmp_path / "run.yaml"
    config.write_text((out / "run.yaml").read_text() + "fail_below_baseline: true\n")
    again = ["train", "--config", str(config), "--out", str(tmp_path / "again"), "--go-on"]
    for _ in range(2):
        assert main(again) == 4
        assert f"again is finished, but {finding}" in capsys.readouterr().err
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["status"] == "finished"
    assert inlay.open(tmp_path / "again").predict("good film")["label"] == "ham"


def test_in_python_it_is_an_error_that_has_all_files(tiny_bert: str, tmp_path: Path) -> None:
    data, out = ham(tmp_path / "data"), tmp_path / "run"
    asked: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-2, "dtype": "float32", "forgetting": False}
    with pytest.raises(TrainingFailed, match="is no better than the most frequent label"):
        inlay.train(tiny_bert, data, out=out, progress=False, fail_below_baseline=True, **asked)
    assert {"summary.json", "report.html", "adapter"} <= {path.name for path in out.iterdir()}


def test_a_run_that_learns_says_nothing_of_the_kind(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(tiny_bert, reviews_folder, tmp_path / "run", epochs=6)
    assert main([*asked, "--fail-below-baseline"]) == 0
    said = capsys.readouterr().out
    assert "no better" not in said
    assert "(the most frequent label) -> " in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["baseline"]["beaten"] is True


def test_a_run_of_some_length_that_has_learned_nothing_is_advised_another_rate(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_bert, ham(tmp_path / "data"), tmp_path / "run", epochs=4)) == 0
    warning = capsys.readouterr().out.splitlines()[-1]
    assert "(87.5 %)" in warning
    assert re.search(r"--learning-rate, such as [\d.e-]+ \(this was 0.01\), or another base model\.$", warning)


def test_a_language_model_is_measured_by_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    rows = [{"prompt": f"animal: {a} | place: {b}", "completion": f"the {a} is {b}"} for a in WORDS for b in WORDS[:6]]
    data, out = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    asked = ["train", "builtin:tiny-lm", data, "--epochs", "0.2", "--learning-rate", "30", "--dtype", "float32"]
    more = ["--no-forgetting", "--evaluations-per-epoch", "5", "--samples", "4", "--clip", "1000", "--out", str(out)]
    assert main([*asked, *more, "--fail-below-baseline"]) == 4
    assert "is no better than the base model" in capsys.readouterr().err
    found = json.loads((out / "summary.json").read_text())
    assert found["baseline"]["valid"]["loss"] == found["metrics"]["base"]["loss"]
    assert 0 < found["baseline"]["valid"]["chrf"] != found["metrics"]["base"]["chrf"]  # the prompt, written again
    assert "for the prompt, copied" in (out / "report.html").read_text()


@pytest.mark.parametrize("rows", [6, 120])
def test_the_last_line_and_eval_say_what_the_report_says_of_a_gain_within_its_uncertainty(
    rows: int, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_rows(data / "train.jsonl", reviews(120))
    write_rows(data / "valid.jsonl", reviews(rows))
    assert main(arguments(tiny_bert, str(data), out, epochs=6)) == 0
    last, page = (out / "log.txt").read_text().splitlines()[-1], html.unescape((out / "report.html").read_text())
    assert json.loads((out / "summary.json").read_text())["baseline"]["beaten"]
    assert ("No clear gain: accuracy is" in page) == (rows == 6)
    told = re.search(r" on valid, no clear gain \(95 % (\S+) to (\S+) points\) \(step", last)
    assert (told is not None) == (rows == 6)
    if told is not None:
        assert f"interval {told[1]} to {told[2]})" in page
    capsys.readouterr()
    assert main(["eval", str(out)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "no clear gain" in line]
    assert lines == ([f"tuned: no clear gain (95 % {told[1]} to {told[2]} points)"] if told else [])
