"""builtin:captions: the files are what the script makes, and what their README says of them holds."""

import json
import re
import runpy
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.data.slots import parse_slots, slot_accuracy
from inlay.data.source import BUILTIN_FOLDER

from .files import open_splits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = BUILTIN_FOLDER / "captions"
SPLITS = {
    split: [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    for split in ("train", "valid", "test")
}
ROWS = [row for rows in SPLITS.values() for row in rows]


def slots(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    found = parse_slots(row["prompt"])
    assert found is not None
    return found


def values(row: dict[str, Any]) -> list[str]:
    return [value for _, value in slots(row)]


def texts(row: dict[str, Any]) -> list[str]:
    return [row["completion"]] if "completion" in row else row["references"]


ALL_VALUES = sorted({value for row in ROWS for value in values(row)})


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
        return runpy.run_path(str(ROOT / "scripts" / "make_captions.py"))


@pytest.fixture(scope="module")
def told(script) -> dict[str, list[Any]]:
    return script["tell_scenes"]()


def test_the_files_are_what_the_script_makes(script, told):
    for name, text in script["as_files"](told).items():
        assert (FOLDER / name).read_bytes() == text.encode(), f"{name}: run scripts/make_captions.py"


def test_the_set_has_the_rows_and_columns_of_its_readme():
    assert {split: len(rows) for split, rows in SPLITS.items()} == {"train": 9000, "valid": 200, "test": 200}
    assert all(set(row) == {"prompt", "completion"} for row in SPLITS["train"])
    assert all(set(row) == {"prompt", "references"} for row in SPLITS["valid"] + SPLITS["test"])
    assert {len(row["references"]) for row in SPLITS["valid"] + SPLITS["test"]} == {3, 4, 5}
    assert {len(slots(row)) for row in ROWS} == {3, 4, 5}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000


def test_it_opens_as_a_built_in_and_is_described_without_problems(capsys):
    assert {split: len(rows) for split, rows in open_splits("builtin:captions").items()} == {
        split: len(rows) for split, rows in SPLITS.items()
    }
    assert main(["data", "builtin:captions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["problems"], found["duplicates"]) == ("prompt-completion", [], [])


def test_every_text_fills_every_slot_of_its_prompt():
    assert [
        (row["prompt"], text) for row in ROWS for text in texts(row) if slot_accuracy(row["prompt"], text) != 1
    ] == []


def test_no_text_holds_a_value_that_its_prompt_lacks():
    pattern = re.compile(rf"\b({'|'.join(sorted(map(re.escape, ALL_VALUES), key=len, reverse=True))})\b", re.IGNORECASE)
    for row in ROWS:
        for text in texts(row):
            assert {found.lower() for found in pattern.findall(text)} == {value.lower() for value in values(row)}, text


def test_no_value_is_part_of_another():
    for one, other in product(ALL_VALUES, ALL_VALUES):
        assert one == other or slot_accuracy(f"a: {one} | b: {one}", other) == 0, (one, other)


def test_the_values_of_another_row_do_not_fill_the_slots():
    for row, other in pairwise(SPLITS["test"]):
        wrong = ", ".join(value for value in values(other) if value not in values(row))
        assert slot_accuracy(row["prompt"], wrong) == 0
        assert not set(values(row)) <= set(values(other))
        assert (slot_accuracy(row["prompt"], other["references"][0]) or 0) < 1


def test_one_wrong_value_is_one_slot_less():
    for row in SPLITS["test"]:
        given = values(row)
        wrong = next(value for value in ALL_VALUES if value not in given)
        assert slot_accuracy(row["prompt"], ", ".join([wrong, *given[1:]])) == (len(given) - 1) / len(given)


def test_no_combination_and_no_text_comes_twice():
    combinations = [frozenset(slots(row)) for row in ROWS]
    assert len(set(combinations)) == len(combinations)
    written = [text for row in ROWS for text in texts(row)]
    assert len(set(written)) == len(written)


def test_every_value_of_valid_and_test_is_known_from_train():
    known = {slot for row in SPLITS["train"] for slot in slots(row)}
    assert {slot for row in SPLITS["valid"] + SPLITS["test"] for slot in slots(row)} <= known


def test_most_test_rows_put_values_together_that_train_never_does():
    together = {pair for row in SPLITS["train"] for pair in product(slots(row), repeat=2)}
    new = [row for row in SPLITS["test"] if not set(product(slots(row), repeat=2)) <= together]
    assert len(new) > 0.6 * len(SPLITS["test"])


def test_every_text_is_one_or_two_sentences_in_sound_spelling():
    sentence = r"[A-Z][a-z]*(,? [A-Za-z]+)*"
    shape = re.compile(rf"{sentence}[.!?]( {sentence}[.!?])?")
    for text in (text for row in ROWS for text in texts(row)):
        assert shape.fullmatch(text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\b(\w+) \1\b", text, re.IGNORECASE), text


@pytest.mark.parametrize("wrong", [r"\b(it|he|she) (are|were|have)\b", r"\bthey (is|was|has)\b", r"\bI (is|are)\b"])
def test_verbs_agree_with_their_pronouns(wrong):
    assert [text for row in ROWS for text in texts(row) if re.search(wrong, text, re.IGNORECASE)] == []


def test_nearly_all_frames_are_used_and_none_prevails(script, told):
    used = [frame.text for _, tellings in told["train"] for telling in tellings for frame in telling.frames]
    written = [text for part in ("main", "late") for frames in script["GRAMMAR"][part].values() for text in frames]
    assert len(written) == len(set(written)) > 120
    assert len(set(used)) > 0.95 * len(written)
    assert max(used.count(text) for text in set(used)) < 0.07 * len(SPLITS["train"])
