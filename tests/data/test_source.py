import datasets
import pytest

from inlay.data import source
from inlay.data.problems import Problems
from inlay.data.source import open_source
from inlay.errors import DataError

from .files import labelled, open_splits, write_jsonl, write_text


def complaint(path: object) -> str:
    with pytest.raises(DataError) as caught:
        open_splits(str(path))
    return str(caught.value)


def no_hub(*_):
    raise ConnectionError("no network\nand more")


def test_a_file_is_train_alone(tmp_path):
    rows = open_splits(write_jsonl(tmp_path / "tickets.jsonl", labelled(3)))
    assert list(rows) == ["train"]
    assert [row.place for row in rows["train"]] == ["tickets.jsonl:1", "tickets.jsonl:2", "tickets.jsonl:3"]


@pytest.mark.parametrize("valid", ["valid", "validation", "dev", "val", "eval"])
def test_a_folder_has_train_and_a_valid_split_by_any_name(tmp_path, valid):
    write_jsonl(tmp_path / "train.jsonl", labelled(4))
    write_jsonl(tmp_path / f"{valid}.jsonl.gz", labelled(2))
    write_text(tmp_path / "test.csv", "text,label\na,b\n")
    opened = open_source(str(tmp_path), Problems())
    assert {split: len(rows) for split, rows in opened.splits.items()} == {"train": 4, "valid": 2, "test": 1}
    assert opened.names == {"train": "train.jsonl", "valid": f"{valid}.jsonl.gz", "test": "test.csv"}


def test_what_else_is_in_a_folder_is_ignored_and_listed(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(4))
    write_jsonl(tmp_path / "oos.jsonl", labelled(4))
    write_text(tmp_path / "test.txt", "nothing")
    (tmp_path / "valid.jsonl").mkdir()
    opened = open_source(str(tmp_path), Problems())
    assert list(opened.splits) == ["train"]
    assert opened.ignored == ("oos.jsonl", "test.txt", "valid.jsonl")


def test_plain_texts_are_splits_unless_train_has_rows(tmp_path):
    write_text(tmp_path / "train.txt.gz", "once upon a time")
    write_text(tmp_path / "test.txt", "the end")
    write_text(tmp_path / "notes.txt", "nothing")
    opened = open_source(str(tmp_path), Problems())
    assert opened.names == {"train": "train.txt.gz", "test": "test.txt"}
    assert opened.ignored == ("notes.txt",)
    write_jsonl(tmp_path / "train.jsonl", labelled(4))
    opened = open_source(str(tmp_path), Problems())
    assert opened.names == {"train": "train.jsonl"}
    assert opened.ignored == ("notes.txt", "test.txt", "train.txt.gz")


def test_two_files_for_one_split_are_an_error_that_names_both(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", labelled(4))
    write_jsonl(tmp_path / "dev.jsonl", labelled(4))
    write_jsonl(tmp_path / "validation.json", labelled(4))
    assert "dev.jsonl and validation.json are both the valid split" in complaint(tmp_path)


def test_a_folder_without_train_is_an_error_that_lists_what_is_there(tmp_path):
    write_jsonl(tmp_path / "tickets.jsonl", labelled(4))
    write_jsonl(tmp_path / "test.jsonl", labelled(4))
    assert f"{tmp_path}: no train file; it holds test.jsonl, tickets.jsonl;" in complaint(tmp_path)


def test_a_missing_file_is_an_error_with_the_nearest_name(tmp_path):
    write_jsonl(tmp_path / "tickets.jsonl", labelled(4))
    asked = tmp_path / "tickts.jsonl"
    assert complaint(asked) == f"{asked}: no such file; did you mean {tmp_path / 'tickets.jsonl'}?"
    assert complaint(tmp_path / "none" / "a.csv").endswith(f"; there is no folder {tmp_path / 'none'} either")


@pytest.mark.parametrize("asked", ["./tickets", "/tickets", "data.jsonl", "some/data.csv.gz", "a/b/c"])
def test_what_looks_like_a_file_is_not_looked_for_on_the_hub(monkeypatch, asked):
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail(f"asked the hub for {name}"))
    assert complaint(asked).startswith(f"{asked}: no such file")


def test_a_file_of_another_kind_is_an_error_that_lists_the_kinds(tmp_path):
    message = complaint(write_text(tmp_path / "tickets.docx", "x"))
    assert message.endswith(
        "known: .jsonl, .json, .csv, .tsv, .txt, .jsonl.gz, .json.gz, .csv.gz, .tsv.gz, .txt.gz, .parquet"
    )


@pytest.mark.parametrize("asked", ["imdb", "owner/name-1.0"])
def test_a_name_that_is_no_path_is_a_data_set_on_the_hub(monkeypatch, asked):
    parts = {"train": labelled(3), "validation": labelled(2), "unsupervised": labelled(1)}
    loaded = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    monkeypatch.setattr(datasets, "load_dataset", {asked: loaded}.__getitem__)
    opened = open_source(asked, Problems())
    assert [row.values for row in opened.splits["valid"]] == labelled(2)
    assert opened.splits["train"][2].place == f"{asked} train row 3"
    assert opened.names == {"train": "train", "valid": "validation"}
    assert opened.ignored == ("unsupervised",)


def test_a_hub_that_cannot_be_reached_is_one_error(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    assert complaint("owner/imdb-none") == (
        "owner/imdb-none: neither a file or folder, nor reachable as a data set on the Hugging Face hub "
        "(ConnectionError: no network); there is no folder owner either"
    )


def test_a_name_near_a_file_or_a_built_in_is_told_so_when_the_hub_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    monkeypatch.chdir(tmp_path)
    assert complaint("tickets").endswith("did you mean builtin:tickets?")
    (tmp_path / "ticket").mkdir()
    assert complaint("tickets").endswith("did you mean ticket?")


def test_a_built_in_is_a_folder_of_the_package(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine" / "train.jsonl", labelled(3))
    monkeypatch.setattr(source, "BUILTIN_FOLDER", tmp_path)
    assert len(open_splits("builtin:mine")["train"]) == 3


def test_the_tickets_are_built_in():
    assert set(open_splits("builtin:tickets")) == {"train", "valid", "test"}


def test_an_unknown_built_in_is_an_error_with_the_nearest_name():
    assert complaint("builtin:ticket") == "builtin:ticket: no such built-in data; did you mean tickets?"
    assert "no such built-in data; known: " in complaint("builtin:minilm")
