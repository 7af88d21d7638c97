"""The verbs as a user calls them, on a small model and data."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.cli import VERBS, main
from inlay.training.journal import sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str, reviews_folder: str) -> Path:
    out = tmp_path_factory.mktemp("verbs") / "run"
    flags = ["--epochs", "4", "--learning-rate", "5e-3", "--dtype", "float32", "--method.rank", "4"]
    assert main(["train", tiny_bert, reviews_folder, "--method", "lora", *flags, "--out", str(out)]) == 0
    return out


def test_help_names_every_verb_and_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'tyro'}"
    code = f"import sys; from inlay.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert shown.endswith("[]\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: inlay {verb}" in shown
    assert "--json" in shown


def test_the_help_of_train_begins_with_what_decides_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    flags = [line.split()[0] for line in shown.splitlines() if line.startswith("  --")]
    assert flags[:3] == ["--method", "--config", "--out"]
    assert "Default: lora." in " ".join(shown.split())
    for leftover in ("(default", "{None}", "Whether to", "STR"):
        assert leftover not in shown


def test_stopped_before_the_run_begins_nothing_is_written(
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inlay.training.prepared.open_data", stop)
    assert main(["train", tiny_bert, reviews_folder, "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted before the run began: no folder was written\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [{}, {"trial": "lora"}])
def test_an_interruption_is_told_once(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run tells of it, with what it leaves; a run within a comparison does not speak for all of it."""

    def stopped(*_: Any, progress: Any, **__: Any) -> None:
        progress({"event": "interrupted", "text": "stopped after step 2"} | more)
        raise KeyboardInterrupt

    monkeypatch.setattr("inlay.api.training.resume", stopped)
    assert main(["resume", "runs/first", "--json"]) == 130
    assert capsys.readouterr().err == ("interrupted\n" if more else "")


def test_one_text_is_no_plural() -> None:
    event = {"event": "data", "source": "a.csv", "rows": {"train": 9}, "labels": [], "cut": 1, "max_length": 512}
    assert sentence(event) == "data    a.csv: train 9 · 1 text cut at 512 tokens"
    assert sentence(event | {"cut": 1200}).endswith(" · 1,200 texts cut at 512 tokens")


@pytest.mark.parametrize("method", inlay.METHODS)
def test_the_help_of_train_shows_the_settings_of_the_method(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", method, "--help"])
    shown = capsys.readouterr().out
    settings = {field.name for field in dataclasses.fields(inlay.METHODS[method])}
    assert ("--method.rank " in shown) == ("rank" in settings)


def test_the_summary_says_what_was_run(run: Path, tiny_bert: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["command"].startswith(f"inlay train {tiny_bert}")
    assert summary["trainable_parameters"] > 0


def test_eval_agrees_with_the_summary(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert found["tuned"] == pytest.approx(metrics["tuned"], rel=1e-6)
    assert found["base"] == pytest.approx(metrics["base"], rel=1e-6)
    assert found["rows"] == metrics["rows"] == 30
    assert main(["eval", str(run / "adapter"), "--split", "test"]) == 0
    shown = capsys.readouterr().out
    assert f"{100 * metrics['test']['accuracy']:.1f} %" in shown


def test_predict_agrees_with_the_saved_predictions(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()][:5]
    for row in saved:
        assert main(["predict", str(run), row["text"], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["label"] == row["predicted"]
        assert found["probability"] == pytest.approx(row["probability"], abs=1e-4)
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    file = tmp_path / "texts.txt"
    file.write_text("".join(row["text"] + "\n" for row in saved))
    assert main(["predict", str(run), str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [row["predicted"] for row in saved]
    assert main(["predict", str(run), saved[0]["text"]]) == 0
    assert saved[0]["predicted"] in capsys.readouterr().out.splitlines()[0]


def test_predict_reads_what_is_piped_to_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("the film was good\n\nthe plot was awful\n"))
    assert main(["predict", str(run), "--json"]) == 0
    assert [json.loads(line)["label"] is None for line in capsys.readouterr().out.splitlines()] == [False, True, False]
    monkeypatch.setattr(sys, "stdin", io.StringIO("the film was good\n\nthe plot was awful\n"))
    assert main(["predict", str(run)]) == 0
    lines = [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["the film was good", "", "the plot was awful"]


def test_json_events_are_one_object_a_line(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        tiny_bert,
        reviews_folder,
        "--epochs",
        "1",
        "--no-guard",
        "--out",
        str(tmp_path / "r"),
        "--json",
    ]
    assert main(arguments) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {e["event"] for e in events} == {
        "data",
        "reach",
        "model",
        "note",  # that the head is new
        "evaluate",
        "method",
        "plan",
        "step",
        "forgetting",
        "finished",
    }


def test_plain_lines_where_the_output_is_no_terminal(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", tiny_bert, reviews_folder, "--epochs", "1", "--out", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert " left" in shown
    assert f"inlay predict {tmp_path / 'r'}" in shown


def test_a_run_can_be_repeated_from_its_run_yaml(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = tmp_path / "again"
    assert main(["train", "--config", str(run / "run.yaml"), "--out", str(again)]) == 0
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (run, again))
    assert first["metrics"] == second["metrics"]
    assert (again / "adapter" / "adapter_model.safetensors").read_bytes() == (
        run / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_flags_win_over_the_config_file(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tiny_bert}\ndata: {reviews_folder}\nmethod:\n  name: lora\n  rank: 2\n  rank_pattern: {{query: 3}}\n"
        f"  targets: [query, value]\nepochs: 1\nseed: 5\nout: {tmp_path / 'r'}\n"
    )
    assert main(["train", "--config", str(config), "--method.rank", "6"]) == 0
    saved = json.loads((tmp_path / "r" / "adapter" / "adapter_config.json").read_text())
    assert (saved["r"], saved["rank_pattern"], sorted(saved["target_modules"])) == (6, {"query": 3}, ["query", "value"])
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["seed"] == 5


def test_doctor_and_data_print_json(capsys: pytest.CaptureFixture[str], reviews_folder: str, tiny_bert: str) -> None:
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["torch"]
    assert main(["data", reviews_folder, tiny_bert, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["rows"] == 120
    assert found["tokens"]["train"]["max"] <= 20
    assert main(["data", reviews_folder]) == 0
    assert "positive" in capsys.readouterr().out


def test_doctor_counts_no_heads(capsys: pytest.CaptureFixture[str], tiny_bert: str) -> None:
    assert main(["doctor", tiny_bert, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    listed = sum(int(size.split()[0]) for sizes in found["linear_layers"].values() for size in sizes)
    assert found["targets"]["all-linear"]["hosts"] == listed


def test_text_pairs_train_and_predict(tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ..tiny_models import reviews, write_rows

    rows = [
        {"sentence1": r["text"], "sentence2": "the film was so " + r["text"][-4:], "label": i % 2}
        for i, r in enumerate(reviews(60))
    ]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    run = str(tmp_path / "r")
    assert main(["train", tiny_bert, data, "--epochs", "1", "--out", run]) == 0
    assert f'next    inlay predict {run} "a text" --pair "another"\n' in capsys.readouterr().out
    assert main(["predict", run, rows[0]["sentence1"], "--pair", rows[0]["sentence2"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("0", "1")
    assert main(["predict", run, "one text only"]) == 2
    assert "--pair" in capsys.readouterr().err
