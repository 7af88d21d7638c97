"""inlay eval RUN DATA: every row of what is named is scored, whatever labels it has."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from inlay.cli import main

from ..shapes import SHAPES
from ..tiny_models import reviews, save_tiny_model, write_rows


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    """The folder of a run that learned booleans, negative or positive."""
    folder = tmp_path_factory.mktemp("eval")
    rows = [row | {"label": row["label"] == "positive"} for row in reviews(120)]
    asked = [tiny_bert, write_rows(folder / "rows.jsonl", rows), "--method", "lora", "--epochs", "2"]
    more = ["--learning-rate", "5e-3", "--dtype", "float32", "--no-forgetting", "--out", str(folder / "run")]
    assert main(["train", *asked, *more]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    rows = [{"prompt": row["text"], "completion": row["label"]} for row in reviews(40)]
    base = save_tiny_model(SHAPES["gpt2"], folder / "base")
    asked = [base, write_rows(folder / "rows.jsonl", rows), "--method", "lora", "--epochs", "1"]
    more = ["--dtype", "float32", "--no-forgetting", "--samples", "0", "--out", str(folder / "run")]
    assert main(["train", *asked, *more]) == 0
    return folder / "run"


def scored(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["eval", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [row | {"label": label} for row, label in zip(reviews(len(labels), 150), labels, strict=True)]


def test_every_row_of_a_file_is_scored(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    path = write_rows(
        tmp_path / "more.jsonl", [row | {"label": row["label"] == "positive"} for row in reviews(40, 120)]
    )
    found = scored(capsys, classifier, path)
    assert (found["rows"], found["split"]) == (40, None)
    split = [str(tmp_path / "split" / name) for name in ("a.jsonl", "b.jsonl")]
    rows = Path(path).read_text().splitlines()
    parts = [
        write_rows(Path(name), list(map(json.loads, part)))
        for name, part in zip(split, (rows[:1], rows[1:]), strict=True)
    ]
    accuracies = [scored(capsys, classifier, part)["tuned"]["accuracy"] for part in parts]
    assert (accuracies[0] + 39 * accuracies[1]) / 40 == pytest.approx(found["tuned"]["accuracy"])
    assert main(["eval", str(classifier), path]) == 0
    assert capsys.readouterr().out.startswith(f"40 rows from {path}\n")


@pytest.mark.parametrize("labels", [[True] * 5, [False]])
def test_one_label_alone_is_fine(
    labels: list[Any], classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scored(capsys, classifier, write_rows(tmp_path / "a.jsonl", labelled(labels)))["rows"] == len(labels)


def test_a_label_that_was_not_learned_is_an_error_with_its_line(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "a.jsonl", labelled([True, "perhaps"]))
    assert 'a.jsonl:2: the label "perhaps" is unknown; the adapter was trained on "false", "true"' in refused(
        capsys, classifier, path
    )


def test_of_a_folder_a_split_is_scored(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "test.jsonl", labelled([True] * 3))
    assert scored(capsys, classifier, tmp_path)["rows"] == 3
    write_rows(tmp_path / "train.jsonl", labelled([True] * 9))
    assert "has no valid split; it has train, test: name one with --split" in refused(capsys, classifier, tmp_path)
    found = scored(capsys, classifier, tmp_path, "--split", "train")
    assert (found["rows"], found["split"]) == (9, "train")
    path = tmp_path / "test.jsonl"
    assert "is one file, of which all rows are scored; leave out --split test" in refused(
        capsys, classifier, path, "--split", "test"
    )


def test_every_row_of_a_file_is_scored_for_a_model_that_writes(
    writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    rows = [{"prompt": row["text"], "completion": row["label"]} for row in reviews(5, 120)]
    found = scored(capsys, writer, write_rows(tmp_path / "a.jsonl", rows))
    assert found["rows"] == 5
    assert found["samples"] == 0  # as in its run
    written = scored(capsys, writer, str(tmp_path / "a.jsonl"), "--samples", "5")
    assert "chrf" in written["tuned"] or "rouge_l" in written["tuned"]
    assert scored(capsys, writer, write_rows(tmp_path / "b.jsonl", rows[:1]))["rows"] == 1
    assert scored(capsys, writer)["split"] == "valid"


def test_a_gain_that_may_be_chance_is_called_no_clear_gain_of_whatever_rows(
    writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    rows = [{"prompt": row["text"], "completion": row["label"]} for row in reviews(40, 120)]
    found = scored(capsys, writer, write_rows(tmp_path / "a.jsonl", rows))
    learned = found["gain"]["low"] > 0
    assert found["unclear"] == (None if learned else "no clear gain")
    path = write_rows(tmp_path / "b.jsonl", [rows[0], rows[1] | {"completion": "1 2"}])  # two rows, and so unlike
    found = scored(capsys, writer, path)
    assert found["gain"]["low"] < 0 < found["gain"]["high"]
    assert found["unclear"] == "no clear gain"
    assert main(["eval", str(writer), path]) == 0
    assert ("tuned: no clear gain" in capsys.readouterr().out) == (found["warning"] is None)


def test_other_columns_are_named_for_a_model_that_writes(
    writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"asked": row["text"], "wanted": f"{row['label']} {i}"} for i, row in enumerate(reviews(5, 120))]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert "such as --data.prompt asked --data.completion wanted" in refused(capsys, writer, path)
    found = scored(capsys, writer, path, "--data.prompt", "asked", "--data.completion", "wanted")
    assert (found["rows"], found["notes"]) == (5, [])
    assert main(["predict", str(writer), path, "--data.prompt", "asked", "--max-tokens", "1", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [row["asked"] for row in rows]
    for flags, message in (
        (["--data.text-pair", "asked"], "data.text_pair is no input of this adapter, which writes texts"),
        (["--data.text", "asked", "--data.prompt", "asked"], "each must be another column"),
        (["--data.separator", ";"], "only .csv and .tsv files have one"),
    ):
        assert main(["predict", str(writer), path, *flags]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(writer), "a text", "--data.prompt", "asked"]) == 2
    assert "data.prompt is for a file of rows" in capsys.readouterr().err
    assert "for other data than the run's own" in refused(capsys, writer, "--data.prompt", "asked")


def test_answering_finds_the_columns_that_scoring_finds(
    writer: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [f"{row['text']} {i}" for i, row in enumerate(reviews(3, 120))]

    def answered(run: Path, path: str, *flags: str) -> list[dict[str, Any]]:
        assert main(["predict", str(run), path, *flags, "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    rows = [{"question": text, "answer": "positive"} for text in asked]
    for name, inputs in (("qa", rows), ("q", [{"question": row["question"]} for row in rows])):
        path = write_rows(tmp_path / f"{name}.jsonl", inputs)
        assert [each["prompt"] for each in answered(writer, path, "--max-tokens", "1")] == asked
    assert scored(capsys, writer, tmp_path / "qa.jsonl")["rows"] == 3
    labelled_rows = [{"sentence": text, "label": True} for text in asked]
    path = write_rows(tmp_path / "sentences.jsonl", labelled_rows)
    assert [each["text"] for each in answered(classifier, path)] == asked
    assert scored(capsys, classifier, path)["rows"] == 3
    # Pairs are no input of this adapter, and for a column that the training named none stands in.
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"sentence1": text, "sentence2": text} for text in asked])
    assert main(["predict", str(classifier), pairs]) == 2
    assert 'no column "text"' in capsys.readouterr().err
    about = classifier / "adapter" / "provenance.json"
    before = about.read_text()
    try:
        said = json.loads(before) | {"columns": {"text": "Body", "label": "label"}, "digests": {}}
        about.write_text(json.dumps(said | {"data": said["data"] | {"text": "Body"}}))
        assert 'no column "Body"' in refused(capsys, classifier, path)
        assert main(["predict", str(classifier), path]) == 2
        assert 'no column "Body"' in capsys.readouterr().err
    finally:
        about.write_text(before)


def test_a_prompt_without_its_column_is_named_as_one(
    writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"asked": row["text"]} for row in reviews(5, 120)])
    assert main(["predict", str(writer), path]) == 2
    assert "another is named with --data.prompt asked" in capsys.readouterr().err
    turns = [{"role": "user", "content": "so?"}, {"role": "assistant", "content": "yes"}]
    path = write_rows(tmp_path / "talks.jsonl", [{"messages": turns}] * 2)
    assert main(["predict", str(writer), path]) == 2
    assert "the rows are conversations (messages), which Python alone answers" in capsys.readouterr().err


def test_rows_that_were_trained_on_are_told(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = "the adapter was trained on these rows, so the scores say how well it knows them; judge it by new rows"
    assert scored(capsys, classifier)["notes"] == []
    assert scored(capsys, classifier, "--split", "train")["notes"] == [trained]
    seen = [row | {"label": True} for row in reviews(120)]
    copy = write_rows(tmp_path / "copy.jsonl", [*seen, *labelled([True] * 3)])
    (note,) = scored(capsys, classifier, copy)["notes"]
    assert note == trained.replace("these rows", "104 of these 123 rows")


def test_a_file_of_mostly_new_rows_is_called_new(
    classifier: Path, writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few rows that were trained on spoil no test, and what they can do to its scores is told."""
    own = [json.loads(line) for line in (classifier.parent / "rows.jsonl").read_text().splitlines()]
    both = write_rows(tmp_path / "a.jsonl", [*own[-5:], *labelled([True, False] * 40)])
    (note,) = scored(capsys, classifier, both)["notes"]
    assert note == (
        "80 of these 85 rows are new; the adapter was trained on the other 5, which can raise the accuracy by at most "
        "5.9 points"
    )
    own = [json.loads(line) for line in (writer.parent / "rows.jsonl").read_text().splitlines()]
    new = [{"prompt": row["text"], "completion": f"{row['label']} {i}"} for i, row in enumerate(reviews(9, 200))]
    (note,) = scored(capsys, writer, write_rows(tmp_path / "b.jsonl", [own[-1], *new]))["notes"]
    assert note == (
        "9 of these 10 rows are new; the adapter was trained on the other 1, 10 % of them, so the loss may look better "
        "than that of the new ones alone"
    )


def test_a_data_set_that_only_the_run_names_is_not_fetched(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(labelled([True, False]))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    path = classifier / "adapter" / "provenance.json"
    before = path.read_text()
    about = json.loads(before) | {"digests": {}}
    try:
        path.write_text(json.dumps(about | {"data": about["data"] | {"path": "owner/name"}}))
        assert "a data set is fetched only where you name it" in refused(capsys, classifier)
        assert asked == []
        assert scored(capsys, classifier, "owner/name", "--split", "test")["rows"] == 2
        for damaged in ({"path": 5}, {"paht": "x"}, [], {"path": "x", "text": ["y"]}):
            path.write_text(json.dumps(about | {"data": damaged}))
            assert "data" in refused(capsys, classifier)
    finally:
        path.write_text(before)
