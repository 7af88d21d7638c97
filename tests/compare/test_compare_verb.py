"""`inlay compare` as a user runs it."""

import json
from pathlib import Path

import pytest

from inlay import extras
from inlay.cli import main
from inlay.cli.compare import contender
from inlay.cli.compare_screen import print_result
from inlay.errors import SettingsError

from .fakes import comparison_of


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "lora", "prefx"], "unknown method 'prefx'; did you mean prefix?"),
        (["--methods", "lora", "lora"], "methods has lora twice"),
        (["--methods", "lora"], "compare needs at least two methods; got only lora"),
        (["--methods", "lora", "lora:rnak=4"], "lora:rnak=4: lora has no setting rnak; did you mean rank?"),
        (
            ["--methods", "lora", "lora:rnak=4,alhpa=2"],
            "lora has no setting rnak; did you mean rank?\nlora:rnak=4,alhpa=2: lora has no setting alhpa; did you",
        ),
        (["--methods", "lora", "bitfit:rank=4"], "bitfit has no setting rank; it has add_missing (inlay methods bit"),
        (["--methods", "full", "lora:rank"], "lora:rank: rank has no value; write rank=VALUE"),
        (["--seeds", "0"], "seeds is 0; it must be at least 1"),
        (["--search", "1"], "search is 1, which would try one learning rate"),
        (["--then", "builtin:tickets"], "then has builtin:tickets, which is DATA itself"),
        (["--methods", "qlora", "lora", "--quantize", "nf4"], "qlora is lora on a base in NF4"),
        (["--learning-rate", "1"], "unknown setting --learning-rate"),
        (["--methods", "lora", "full", "--then", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_wrong_settings_are_said(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compare", "builtin:minilm", "builtin:tickets", "--out", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_method_that_does_not_fit_is_said_before_anything_is_trained(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["compare", tiny_bert, reviews_folder, "--methods", "lora:targets=q_prj", "full", "--out", str(out)]
    assert main(arguments) == 2
    assert "q_prj" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_of_something_else_is_not_written_to(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".report.html.1.unfinished").touch()  # which a comparison that was killed leaves
    (tmp_path / "thesis.txt").touch()
    assert main(["compare", tiny_bert, reviews_folder, "--out", str(tmp_path)]) == 2
    assert "holds thesis.txt, which is no comparison's" in capsys.readouterr().err


def test_search_without_optuna_says_how_to_get_it(
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    assert main(["compare", tiny_bert, reviews_folder, "--search", "3", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'inlay[search]'" in capsys.readouterr().err


def test_a_method_can_carry_settings() -> None:
    found = contender("lora:rank=4,alpha=8,rank_stabilized=true")
    assert (found.label, found.method.rank, found.method.alpha, found.method.rank_stabilized) == (  # type: ignore[attr-defined]
        "lora:rank=4,alpha=8,rank_stabilized=true",
        4,
        8,
        True,
    )
    assert contender("qlora").quantize == "nf4"
    with pytest.raises(SettingsError, match="rank"):
        contender("lora:rank=four")


def test_a_comparison_from_end_to_end_and_again(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = [
        "compare",
        tiny_bert,
        reviews_folder,
        "--epochs",
        "1",
        "--dtype",
        "float32",
        "--jobs",
        "1",
        "--out",
        str(out),
    ]
    assert main([*asked, "--methods", "lora", "full"]) == 0
    shown = capsys.readouterr().out
    assert "2/2  full-0 accuracy" in shown
    assert "No method beats the baseline yet" in " ".join(shown.split())  # 50 % of two labels
    assert {p.name for p in out.iterdir()} == {"report.html", "report.md", "report.csv", "runs"}
    assert {p.name for p in (out / "runs").iterdir()} == {"lora-0", "full-0"}
    written = (out / "runs" / "lora-0" / "summary.json").stat().st_mtime_ns

    assert main([*asked, "--methods", "lora", "full", "bitfit", "--json"]) == 0  # one more method
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    states = {e["trial"]: e["state"] for e in events if e["event"] == "trial"}
    assert states == {"lora-0": "was finished", "full-0": "was finished", "bitfit-0": "finished"}
    assert (out / "runs" / "lora-0" / "summary.json").stat().st_mtime_ns == written
    last = events[-1]
    assert last["event"] == "compared"
    assert [row["method"] for row in last["rows"]] == ["lora", "full", "bitfit"]

    assert main([*asked[:-2], "--batch-size", "8", "--out", str(out), "--methods", "lora", "full"]) == 2
    assert "batch_size was the default, is 8" in capsys.readouterr().err


def test_the_screen_has_the_whole_reason_of_a_run_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "step 37: loss is nan, gradient norm nan, at learning rate 0.001; try --learning-rate 0.0002 or float32"
    print_result(comparison_of(tmp_path, {"lora": (0.9, 0.9), "full": (0.95, 0.95)}, failures={"full-1": reason}))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"full, seed 1 failed: {reason}" in shown
    assert "90.0 %" in shown
