"""Runs of a language model: what they learn, what they write, and that a new process writes the same."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.batches.packing import packed
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.inference.opened import open_adapter
from inlay.stats import Means
from inlay.tasks.generate import generate
from inlay.training.run import train
from inlay.training.score_parts import read_parts
from inlay.training.settings import RunSettings

from ..shapes import SHAPES, Shape, disturb, method
from ..tiny_models import save_tiny_model, write_rows

ADJECTIVES = {"film": "great", "plot": "poor", "cast": "fine"}


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adjective of each noun, with a reference more in valid."""
    folder = tmp_path_factory.mktemp("completions")
    rows = [
        {"prompt": f"{the} {noun} was", "completion": f"is so very {word}"}
        for _ in range(10)
        for the in ("the", "a")
        for noun, word in ADJECTIVES.items()
    ]
    write_rows(folder / "train.jsonl", rows)
    valid = [
        {"prompt": r["prompt"], "references": [r["completion"], r["completion"].replace("so very", "very")]}
        for r in rows[:6]
    ]
    write_rows(folder / "valid.jsonl", valid)
    return str(folder)


def asked(model: str, data: str, out: Path, name: str = "lora", **changes: Any) -> RunSettings[Any]:
    wanted: dict[str, Any] = {"epochs": 12, "learning_rate": 1e-2, "dtype": "float32", "evaluations_per_epoch": 1}
    built = method(name, SHAPES["llama"])
    return RunSettings(model=model, data=DataSettings(path=data), method=built, out=str(out), **wanted | changes)


@pytest.fixture(scope="module")
def run(tiny_llama: str, completions: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("causal") / "run"
    train(asked(tiny_llama, completions, out, "lora", epochs=40))
    return out


def test_a_run_learns_and_writes_what_was_wanted(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    base, tuned = summary["metrics"]["base"], summary["metrics"]["tuned"]
    assert summary["task"] == "causal"
    assert summary["labels"] == []
    assert tuned["loss"] < 0.7 * base["loss"]  # every token of a prompt and half of an answer could be another
    assert tuned["exact_match"] == 1
    assert base["exact_match"] == 0
    assert tuned["bleu"] > 90 > base["bleu"]
    assert tuned["perplexity"] == pytest.approx(torch.tensor(tuned["loss"]).exp().item(), rel=1e-5)
    parts = read_parts(run, "valid")
    assert isinstance(parts, Means)
    assert tuned["loss"] == pytest.approx(((parts.losses_N * parts.tokens_N).sum() / parts.tokens_N.sum()).item())
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows[:3]] == [f"is so very {word}" for word in ADJECTIVES.values()]
    assert rows[0]["references"] == ["is so very great", "is very great"]
    assert rows[0]["base_text"] != rows[0]["text"]


def test_the_texts_are_told_before_and_their_time_with_the_plan(run: Path) -> None:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    told = "6 texts of valid are written with the base, and 6 of valid after the training with the adapter ("
    (note,) = (text for text in notes if text.startswith(told))
    assert note.endswith("--samples 0: none)")  # and before it a time, if an earlier run of this model is on record
    (plan,) = (event for event in events if event["event"] == "plan")
    assert plan["after_seconds"] > 0


def test_the_report_shows_both_models_texts(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "Samples" in page
    assert "is so very great" in page
    assert "Confusion matrix" not in page
    assert "nats per learned token" in page


def test_eval_gives_the_figures_of_the_summary(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert found["tuned"] == pytest.approx(metrics["tuned"], rel=1e-6)
    assert found["base"] == pytest.approx(metrics["base"], rel=1e-6)
    assert main(["eval", str(run), "--samples", "0"]) == 0
    assert "BLEU" not in capsys.readouterr().out


def test_predict_answers_a_prompt_a_file_and_typed_lines(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    assert main(["predict", str(run), "the plot was"]) == 0
    assert capsys.readouterr().out == "is so very poor\n"
    write_rows(tmp_path / "asked.jsonl", [{"prompt": "the cast was"}, {"prompt": "a film was"}])
    assert main(["predict", str(run), str(tmp_path / "asked.jsonl"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["is so very fine", "is so very great"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("the film was\n\nthe cast was\n"))
    assert main(["predict", str(run)]) == 0
    assert capsys.readouterr().out == "is so very great\n\nis so very fine\n"  # each where its line is


def test_an_answer_without_an_end_is_told_as_such(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for room, text, cut in ((1, "is", True), (4, "is so very great", True), (5, "is so very great", False)):
        assert main(["predict", str(run), "the film was", "--max-tokens", str(room)]) == 0
        found = capsys.readouterr()
        assert found.out == f"{text}\n"
        assert ("the answer has no end: no more tokens were allowed" in found.err) == cut
        answer = inlay.open(run).predict("the film was", max_tokens=room)
        assert answer == {"prompt": "the film was", "text": text, "cut": cut}
    rows = write_rows(tmp_path / "asked.jsonl", [{"prompt": "the cast was"}, {"prompt": "a film was"}])
    assert main(["predict", str(run), rows, "--max-tokens", "2"]) == 0
    assert "the answers to 2 of 2 rows have no end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pair", "x"], "writes texts"),
        (["--temperature", "-1"], "at least 0"),
        (["--max-tokens", "0"], "at least 1"),
    ],
)
def test_wrong_settings_of_predict_are_errors(
    arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), "the film was", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_micro_batches_weigh_tokens_not_rows(tiny_llama: str, tmp_path: Path) -> None:
    """Answers of different lengths: their micro-batches must add up to the mean over all tokens."""
    rows = [{"prompt": "the", "completion": "very " * (1 + 3 * (i % 4)) + "good"} for i in range(32)]
    write_rows(tmp_path / "d" / "train.jsonl", rows)
    write_rows(tmp_path / "d" / "valid.jsonl", rows[:2])
    found = []
    for size in (None, 2):
        settings = asked(tiny_llama, str(tmp_path / "d"), tmp_path / str(size), epochs=1, samples=0)
        train(replace(settings, micro_batch_size=size, batch_size=8))
        lines = map(json.loads, (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines())
        found.append([e["loss"] for e in lines if e["event"] == "step"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert len(found[0]) > 1


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_texts_share_a_row_unless_a_prompt_comes_before_it(
    name: str, tiny_llama: str, completions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the learning is the same: the batches of an epoch have other rows, so all rows are one batch here."""
    losses = []
    for packs in (True, False):
        if not packs:
            monkeypatch.setattr("inlay.tasks.causal.can_pack", lambda _: False)
        out = tmp_path / str(packs)
        train(asked(tiny_llama, completions, out, name, epochs=4, batch_size=60, samples=0))
        assert ("share a row" in (out / "log.txt").read_text()) == (packs and name != "prompt")
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([e["loss"] for e in lines if e["event"] == "step"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_each_row_of_a_packed_batch_is_a_micro_batch() -> None:
    from inlay.training.passes import micro_batches  # what costs memory cannot be seen from outside

    batch = packed([{"input_ids": [1, 2, 3], "trained": [True] * 3} for _ in range(4)], capacity=6)
    parts = [part["input_ids"].shape for part, _ in micro_batches(batch, 2, Counting())]
    assert parts == [(1, 32), (1, 32)]


class Counting:
    def loss(self, model: Any, batch: Any) -> Any:
        raise NotImplementedError

    def weight(self, batch: Any) -> int:
        return len(batch["input_ids"])

    def is_better(self, scores: Any, than: Any) -> bool:
        raise NotImplementedError


def test_rows_that_are_left_out_or_cut_are_told(tiny_llama: str, tmp_path: Path) -> None:
    rows = [{"prompt": "the " * (60 if i == 3 else 2), "completion": "very " * (9 + i % 2 * 60)} for i in range(24)]
    write_rows(tmp_path / "d" / "train.jsonl", rows)
    write_rows(tmp_path / "d" / "valid.jsonl", rows[2:6])
    write_rows(tmp_path / "d" / "test.jsonl", rows[3:5])
    summary = train(asked(tiny_llama, str(tmp_path / "d"), tmp_path / "run", epochs=1, max_length=32))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "skipped: train.jsonl:4: 60 tokens come before the answer and the limit is 32: none of it is left" in log
    assert "the answer's end is not learned" in log
    # One count everywhere, of the rows that are used.
    assert ": train 23 · valid 3 · test 1 · 12 texts cut at 32 tokens · 3 rows left out" in log
    assert "3 texts of valid are written with the base, and 3 of valid and 1 of test after the training" in log
    assert (summary["metrics"]["rows"], summary["metrics"]["test_rows"]) == (3, 1)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 3


def test_eval_counts_the_rows_that_it_scores(
    tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "the " * (60 if i == 3 else 2), "completion": f"very good {i}"} for i in range(12)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "d" / "train.jsonl", rows[:9])
    write_rows(tmp_path / "d" / "valid.jsonl", rows[9:])
    train(asked(tiny_llama, str(tmp_path / "d"), tmp_path / "run", epochs=1, samples=0, max_length=32))
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["samples"]) == (11, 0)
    assert any(note.startswith("skipped: rows.jsonl:4: ") for note in found["notes"])
    assert any(note.startswith("the adapter was trained on 8 of these 11 rows") for note in found["notes"])


@pytest.mark.parametrize("name", inlay.METHODS)
def test_every_method_learns_to_write_and_a_new_process_writes_the_same(
    name: str, tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    summary = train(asked(tiny_llama, completions, out, name, epochs=2))
    metrics = summary["metrics"]
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    answers = open_adapter(out).answer([row["prompt"].strip() for row in rows])
    assert [answer.values["text"] for answer in answers] == [row["text"] for row in rows]


def test_what_is_empty_is_not_gone_on_with(run: Path) -> None:
    first, none = inlay.open(run).predict(["the film was", ""])
    assert first["text"] == "is so very great"
    assert none == {"prompt": "", "text": None, "cut": None}


def test_a_new_process_writes_the_same(run: Path) -> None:
    command = [sys.executable, "-m", "inlay", "predict", str(run), "the film was"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "is so very great\n"


@pytest.mark.parametrize("name", ["prompt", "p-tuning", "multitask-prompt", "prefix", "lora"])
@pytest.mark.parametrize("shape_name", ["llama", "gpt2"])
def test_texts_are_those_of_the_model_one_at_a_time_without_a_cache(name: str, shape_name: str) -> None:
    """Greedy decoding written out: no batch, no padding, no cache, no prefix that was run before."""
    shape: Shape = SHAPES[shape_name]
    model = shape.model().eval()
    disturb(inlay.attach(model, method(name, shape)), 0.3)
    prompts = [[5, 6, 7, 8, 9], [11], [12, 13, 14], [7, 7]]
    found = generate(model, prompts, stop=[3], pad=0, max_new_tokens=6, rows=3)
    for prompt, written in zip(prompts, found, strict=True):
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < 6:
                row = torch.tensor([prompt + ids])
                token = int(model(row, attention_mask=torch.ones_like(row)).logits[0, -1].argmax())
                if token == 3:
                    break
                ids.append(token)
        assert written == ids
    assert inlay.adapters(model)["default"].deltas
    logits = model(torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2)).logits
    with inlay.using(model):
        assert not torch.allclose(model(torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2)).logits, logits)


@pytest.mark.parametrize("shape_name", ["llama", "gpt2"])
def test_no_text_goes_on_past_the_models_positions_whatever_it_is_written_beside(shape_name: str) -> None:
    shape: Shape = SHAPES[shape_name]
    model = shape.model().eval()
    prompts = [[5, 6, 7, 8, 9], [11], [12, 13, 14], [7, 7, 8, 9]]
    alone = [generate(model, [prompt], [3], 0, 6)[0] for prompt in prompts]
    found = generate(model, prompts, [3], 0, 6, rows=3, positions=8)
    assert found == [text[: 8 - len(prompt)] for text, prompt in zip(alone, prompts, strict=True)]
    assert any(len(cut) < len(text) for cut, text in zip(found, alone, strict=True))


def test_eval_writes_as_many_texts_as_the_run(
    tiny_llama: str, completions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(asked(tiny_llama, completions, run, epochs=10, samples=2))
    figures = json.loads((run / "summary.json").read_text())["metrics"]["tuned"]
    for more, count in (([], 2), (["--samples", "6"], 6)):
        capsys.readouterr()
        assert main(["eval", str(run), "--json", *more]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["samples"], found["rows"]) == (count, 6)
        assert count == 6 or found["tuned"] == pytest.approx(figures)
    assert main(["eval", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "texts: written for the first 2 rows, as in training; their scores are of these alone (--samples 6" in said


def test_a_prompt_without_room_for_an_answer_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["predict", str(run), "the film was " * 1000]) == 2
    said = capsys.readouterr().err
    assert "text 1 has" in said
    assert "before an answer; shorten it" in said


def test_an_encoder_decoder_is_refused(completions: str, tmp_path: Path) -> None:
    folder = save_tiny_model(SHAPES["t5"], tmp_path / "t5")
    with pytest.raises(SettingsError, match="encoder-decoder"):
        train(asked(folder, completions, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
