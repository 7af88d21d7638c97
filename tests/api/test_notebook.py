"""What a notebook does: rows and a model object go in, a run comes out, and the command line is not touched."""

import json
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

import inlay
from inlay.api.given_data import given_data
from inlay.cli import main
from inlay.data.inputs import read_inputs
from inlay.errors import DataError

ROWS = [{"text": f"{word} {i}", "label": word} for i in range(30) for word in ("good", "bad")]
QUICK: dict[str, Any] = {"epochs": 1, "forgetting": False, "dtype": "float32", "progress": False}


def test_rows_and_a_model_object_make_a_run(tiny_bert: str, tmp_path: Path) -> None:
    model: Any = transformers.AutoModel.from_pretrained(tiny_bert)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.add_(0.01)  # so that no files have these weights
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    out = tmp_path / "run"
    run = inlay.train(model, ROWS, inlay.LoRA(rank=2), tokenizer=tokenizer, out=out, **QUICK)

    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert inlay.adapters(model) == {}
    assert inlay.adapters(run.model) == {"default": run.adapter}
    assert run.folder == out
    assert run.summary["status"] == "finished"
    assert "accuracy" in run.metrics.markdown()
    named = ["the most frequent label, valid", "base, its head random, valid", "tuned, valid"]
    assert [row[0] for row in run.metrics.rows][:3] == named
    assert "<table" in run._repr_html_()
    assert "tuned, valid" in repr(run)

    answer = run.predict("good 1")
    assert answer["label"] in ("good", "bad")
    assert run.predict(["good 1", "bad 2"])[0]["label"] == answer["label"]
    own = run.evaluate()
    assert own["tuned"]["accuracy"] == pytest.approx(run.summary["metrics"]["tuned"]["accuracy"])
    assert run.evaluate(ROWS[:8])["rows"] == 8

    merged = run.merge(tmp_path / "merged")
    assert merged["event"] == "finished"
    assert (tmp_path / "merged" / "config.json").is_file()

    again = inlay.open(out, model, tokenizer=tokenizer)
    assert again.predict("good 1")["probability"] == pytest.approx(answer["probability"], abs=1e-5)
    with pytest.raises(inlay.InlayError, match="given as a Python object, a BertModel"):
        inlay.open(out)
    rows = [json.loads(line) for line in (out / "rows" / "train.jsonl").read_text().splitlines()]
    assert rows == ROWS
    assert (out / "rows").stat().st_mode == (out / "adapter").stat().st_mode


def test_an_unchanged_model_is_recorded_by_its_name(tiny_bert: str, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_bert)
    run = inlay.train(model, {"train": ROWS, "validation": ROWS[:10]}, out=tmp_path / "run", **QUICK)
    assert run.summary["model"] == tiny_bert
    assert run.summary["metrics"]["rows"] == 10
    assert main(["predict", str(run.folder), "good 1", "--json"]) == 0  # the command line works on it later


def test_what_a_run_is_asked_may_be_texts_or_a_table(tiny_bert: str, tmp_path: Path) -> None:
    run = inlay.train(tiny_bert, ROWS, out=tmp_path / "run", **QUICK)
    expected = run.predict(["good 0", "bad 0"])
    for inputs in (
        ROWS[:2],
        pandas.DataFrame(ROWS[:2]),
        Dataset.from_list(ROWS[:2]),
        (row["text"] for row in ROWS[:2]),
    ):
        assert run.predict(inputs) == expected
    assert run.predict([]) == []
    for inputs, said in (
        (3, "the inputs are a int; give a text"),
        ({"text": "good 0"}, "the inputs are a dict; give a text"),
        (["good 0", 5], "input 2 is a int; give texts, or rows"),
        ([{"label": "good"}], "train row 1: no column"),
    ):
        with pytest.raises(inlay.InlayError, match=said):
            run.predict(inputs)
    assert run.evaluate(pandas.DataFrame(ROWS[:8]))["data"] == "rows"
    for asked, said in (
        (lambda: run.rank(rank=(2,)), "unknown setting rank; did you mean ranks"),
        (lambda: run.rank(ranks=2), "--ranks is 2; it takes several values"),
        (lambda: run.rank(to=2), "--to RANK and --out FOLDER belong together"),
        (lambda: run.merge(tmp_path / "merged", into="bas"), "--into is 'bas'; did you mean base"),
        (lambda: inlay.open(run.folder, device="gpu"), "device is 'gpu'"),
    ):
        with pytest.raises(inlay.InlayError, match=said):
            asked()


def test_a_slip_is_told_as_what_it_is(tiny_bert: str) -> None:
    for asked, said in (
        ({"rank": 4}, r"rank is a setting of the method; give it there: LoRA\(rank=…\)"),
        ({"method": inlay.LoRA}, "the method is the class LoRA; give a name, or a method"),
        ({"method": {"rank": 4}}, "the method is a dict"),
        ({"method": "lara"}, "unknown method 'lara'; did you mean lora"),
        ({"epoch": 1}, "unknown setting epoch; did you mean epochs"),
        (
            {"rank": 4, "epoch": 1, "alpha": 2, "xyz": 1, "sede": 3, "uvw": 2},
            r"^rank and alpha are settings of the method; give them there: LoRA\(rank=…, alpha=…\)\n"
            r"unknown setting epoch; did you mean epochs\?\nunknown setting xyz\nunknown setting sede; "
            r"did you mean seed\?\nunknown setting uvw; known: ",
        ),
    ):
        with pytest.raises(inlay.InlayError, match=said):
            inlay.train(tiny_bert, ROWS, **asked)
    with pytest.raises(inlay.InlayError, match="model is the class BertModel"):
        inlay.train(transformers.BertModel, ROWS)
    with pytest.raises(inlay.InlayError, match="methods is 'lora'; give a list"):
        inlay.compare(tiny_bert, ROWS, "lora")


def test_settings_are_refused_with_the_words_of_the_command_line(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    out = tmp_path / "out"
    for name, value in (("batch_size", 0), ("max_length", 9_000), ("micro_batch_size", 3)):
        flag = f"--{name.replace('_', '-')}"
        assert main(["train", tiny_bert, str(data), "--out", str(out), flag, str(value)]) == 2
        by_command_line = capsys.readouterr().err.removeprefix("inlay: ").strip().partition("; see inlay")[0]
        for given in (str(data), ROWS):
            with pytest.raises(inlay.InlayError) as refused:
                inlay.train(tiny_bert, given, out=out, **QUICK | {name: value})
            assert str(refused.value) == by_command_line
    with pytest.raises(inlay.InlayError, match="did you mean lora"):
        inlay.compare(tiny_bert, ROWS, ["lra", "full"])
    with pytest.raises(inlay.InlayError, match="^train row 2: no column"):
        inlay.train(tiny_bert, [ROWS[0], {"text": "no label"}], out=out)
    assert not out.exists()


def lines(data: Any) -> list[dict[str, Any]]:
    with given_data(data) as given:
        return [json.loads(line) for line in (Path(given.path) / "train.jsonl").read_text().splitlines()]


def test_rows_come_in_many_forms() -> None:
    frame, dataset = pandas.DataFrame(ROWS), Dataset.from_list(ROWS)
    for data in (ROWS, tuple(ROWS), iter(ROWS), dataset, DatasetDict({"train": dataset}), {"train": frame}, frame):
        assert lines(data) == ROWS
    for data, said in (
        (["a text"], "train row 1 is str"),
        (frame.text, "train row 1 is str"),
        ({"text": ["a text"], "label": ["good"]}, "data has the split 'text'.*of columns make rows"),
        (None, "the rows of train are NoneType"),
        ([{"text": b"bytes"}], "train row 1 has a value that is neither text, number, list nor dict"),
    ):
        with pytest.raises(inlay.InlayError, match=said), given_data(data):
            pass


def test_faults_are_told_by_the_numbers_of_the_rows() -> None:
    said = r"^train row 1: text is 5, not a text \(2 rows have this: rows 1 and 3\)$"
    rows = [{"text": 5}, {"text": "one"}, {"text": 6}]
    with pytest.raises(inlay.InlayError, match=said), given_data(rows) as given:
        read_inputs(given.file).texts({"text": "text"})


def test_faulty_rows_are_left_out_where_that_is_asked_for(tiny_bert: str, tmp_path: Path) -> None:
    rows: list[Any] = [*ROWS, {"text": "", "label": "good"}]
    with pytest.raises(DataError, match=r"train: 1 of 61 rows is faulty .* --data.skip-faulty 0.05"):
        inlay.train(tiny_bert, rows, out=tmp_path / "refused", **QUICK)
    run = inlay.train(tiny_bert, rows, inlay.LoRA(rank=2), out=tmp_path / "run", skip_faulty=0.05, **QUICK)
    told = "skipped: train.jsonl: 1 of 61 rows is faulty (1.6 %); data.skip_faulty allows 5 %"
    assert told in (tmp_path / "run" / "log.txt").read_text()
    assert "skip_faulty: 0.05" in (tmp_path / "run" / "resolved.yaml").read_text()
    assert told in run.evaluate()["notes"]  # of the run's own data, read again
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"text": "", "label": "bad"}]))
    with pytest.raises(DataError, match="1 of 61 rows is faulty"):
        run.evaluate(other)  # what was asked for in training is not asked for here
    found = run.evaluate(other, skip_faulty=0.05)
    assert found["rows"] == 60
    skipped = "skipped: other.jsonl: 1 of 61 rows is faulty (1.6 %); data.skip_faulty allows 5 %"
    assert skipped in found["notes"]
    assert skipped in run.rank(data=other, skip_faulty=0.05).result.notes
    planned = inlay.plan(tiny_bert, other, methods=["lora"], skip_faulty=0.05, dtype="float32")
    assert skipped in planned.result.skipped
    compared = inlay.compare(
        tiny_bert, other, methods=["bitfit", "norm"], skip_faulty=0.05, jobs=1, out=tmp_path / "compared", **QUICK
    )
    assert skipped in compared.result.notes


def test_values_of_tables_become_plain_ones() -> None:
    frame = pandas.DataFrame(
        {
            "text": pandas.array(["one", None], dtype="string"),
            "label": pandas.Categorical(["good", "bad"]),
            "count": [1, 2],
            "vector": [numpy.ones(2), numpy.zeros(2)],
            "when": [pandas.Timestamp("2024-05-01"), pandas.NaT],
        }
    )
    assert lines(frame) == [
        {"text": "one", "label": "good", "count": 1, "vector": [1.0, 1.0], "when": "2024-05-01T00:00:00"},
        {"text": None, "label": "bad", "count": 2, "vector": [0.0, 0.0], "when": None},
    ]
    assert lines([{"label": numpy.int64(3), "ids": torch.tensor([1, 2])}]) == [{"label": 3, "ids": [1, 2]}]
    classes = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    labelled = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=classes)
    assert [row["label"] for row in lines(labelled)] == ["yes", "no", -1]


def test_a_comparison_from_python(tiny_bert: str, tmp_path: Path) -> None:
    out = tmp_path / "c"
    found = inlay.compare(tiny_bert, ROWS, ["bitfit", inlay.LoRA(rank=2)], out=out, jobs=1, **QUICK)
    assert list(found.runs) == ["bitfit", "lora:rank=2"]
    assert found.best in found.runs
    assert "bitfit" in found.table.markdown()
    assert "<table" in found._repr_html_()
    assert found.advice
    assert (out / "rows" / "train.jsonl").is_file()
    with pytest.raises(inlay.InlayError, match="holds runs on other rows"):
        inlay.compare(tiny_bert, ROWS[:40], ["bitfit", inlay.LoRA(rank=2)], out=out, jobs=1, **QUICK)
