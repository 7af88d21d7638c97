"""Folders as data sets on the hub have them: several files for a split, or a folder for each."""

import pyarrow
import pyarrow.parquet
import pytest

from inlay.data.problems import Problems
from inlay.data.source import open_source
from inlay.errors import DataError

from .files import labelled, open_splits, write_jsonl, write_text


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def complaint(folder) -> str:
    with pytest.raises(DataError) as caught:
        open_splits(str(folder))
    return str(caught.value)


@pytest.mark.parametrize("inside", ["", "data/"])
@pytest.mark.parametrize("hash", ["", "-1f2e3d4c5b6a7988"])
def test_shards_of_a_split_are_read_in_their_order(tmp_path, inside, hash):
    rows = labelled(6)
    for number, part in enumerate((rows[:3], rows[3:5], rows[5:])):
        write(tmp_path / f"{inside}train-{number:05}-of-00003{hash}.parquet", part)
    write(tmp_path / f"{inside}validation-00000-of-00001{hash}.parquet", rows[:2])
    write_text(tmp_path / f"{inside}README.md", "about")
    source = open_source(str(tmp_path), Problems())
    assert [row.values for row in source.splits["train"]] == rows
    assert source.splits["train"][3].place == f"{inside}train-00001-of-00003{hash}.parquet row 1"
    assert source.names == {
        "train": f"{inside}train-*-of-00003.parquet",
        "valid": f"{inside}validation-00000-of-00001{hash}.parquet",
    }
    assert source.ignored == (f"{inside}README.md",)


def test_a_folder_for_each_split_has_its_files(tmp_path):
    write(tmp_path / "train" / "0000.parquet", labelled(3))
    write(tmp_path / "train" / "0001.parquet", labelled(2))
    (tmp_path / "test").mkdir()
    write_jsonl(tmp_path / "test" / "a.jsonl", labelled(1))
    write_text(tmp_path / "test" / "notes.txt", "nothing")
    source = open_source(str(tmp_path), Problems())
    assert {split: len(rows) for split, rows in source.splits.items()} == {"train": 5, "test": 1}
    assert source.splits["train"][4].place == "train/0001.parquet row 2"
    assert source.names == {"train": "train/", "test": "test/"}


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_shard_is_an_error_that_names_it(tmp_path, gone):
    for number in {0, 1, 2} - {gone}:
        write(tmp_path / f"train-{number:05}-of-00003.parquet", labelled(3))
    assert f"is one of several files, of which number {gone} of 0 to 2 is missing; get it as well" in complaint(
        tmp_path
    )


def test_shards_beside_a_whole_file_or_of_another_number_are_an_error(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", labelled(3))
    write(tmp_path / "train-00000-of-00002.parquet", labelled(3))
    assert "are both the train split; keep one of them" in complaint(tmp_path)
    (tmp_path / "train-00000-of-00002.parquet").rename(tmp_path / "train.parquet")
    assert "are both the train split; keep one of them" in complaint(tmp_path)


def test_an_empty_shard_among_others_is_none_of_the_users_business(tmp_path):
    table = pyarrow.Table.from_pylist(labelled(3))
    write(tmp_path / "train-00000-of-00002.parquet", labelled(3))
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "train-00001-of-00002.parquet")
    assert len(open_splits(str(tmp_path))["train"]) == 3
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "train-00000-of-00002.parquet")
    assert complaint(tmp_path) == "train-00000-of-00002.parquet: has no rows"


def test_a_name_that_the_system_does_not_take_is_an_error():
    assert complaint("x" * 300) == f"{'x' * 100}… (300 letters): no path that can be used: file name too long"
