import gzip
import json
from pathlib import Path

import pytest

from inlay.data.slots import parse_slots, slot_accuracy

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PROMPT = "animal: fox | colour: red | place: under the bridge"


def test_slots_are_names_and_values_between_bars():
    assert parse_slots(PROMPT) == (("animal", "fox"), ("colour", "red"), ("place", "under the bridge"))


def test_space_around_names_values_and_bars_does_not_count():
    spaced = "name : Blue Spice | Type : pub |customer rating:5 out of 5\n"
    assert parse_slots(spaced) == (("name", "Blue Spice"), ("Type", "pub"), ("customer rating", "5 out of 5"))


def test_a_value_may_hold_a_colon_and_a_name_may_come_twice():
    assert parse_slots("time: 5:30 | dish: pie | dish: soup") == (("time", "5:30"), ("dish", "pie"), ("dish", "soup"))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Tell me of a fox.",
        "Question: what is red?",
        "animal: fox |",
        "animal: fox | colour:",
        "animal: fox | red",
        ": fox | colour: red",
        "animal: fox\ncolour: red",
        "Name it.\nanimal: fox | colour: red",
        "Aarhus Airport | city served | Aarhus",
        "| a: 1 | b: 2 |",
    ],
)
def test_other_prompts_have_no_slots(prompt):
    assert parse_slots(prompt) is None
    assert slot_accuracy(prompt, "A red fox.") is None


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("A red fox is under the bridge.", 3),
        ("Under the Bridge: RED FOX", 3),
        ("A red fox is under\n the  bridge.", 3),
        ("A red fox is under a bridge.", 2),
        ("A foxy hen is tired under the bridges.", 0),
        ("A red-brown fox, and nothing more.", 2),
        ("", 0),
    ],
)
def test_a_slot_is_filled_by_its_value_as_whole_words_in_any_case(text, filled):
    assert slot_accuracy(PROMPT, text) == filled / 3


def test_a_value_that_is_no_word_is_looked_for_as_it_stands():
    assert slot_accuracy("price: £ 20 (about) | name: C++", "About C++: £ 20 (about).") == 1
    assert slot_accuracy("price: £ 20 (about) | name: C++", "About C+: £ 200 (about).") == 0


def test_accents_and_case_beyond_ascii_count_as_letters():
    assert slot_accuracy("near: Café | street: Hauptstraße", "HAUPTSTRASSE, CAFÉ") == 1
    assert slot_accuracy("near: Caf | street: Haupt", "Hauptstraße, Café") == 0


@pytest.mark.skipif(not (SHARED / "e2e_nlg").is_dir(), reason=f"no e2e_nlg in {SHARED}")
def test_every_prompt_of_e2e_has_slots_and_its_texts_fill_most():
    with gzip.open(SHARED / "e2e_nlg" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(next(file)) for _ in range(2000)]
    shares = [slot_accuracy(row["input"], row["target"]) for row in rows]
    found = [share for share in shares if share is not None]
    assert len(found) == len(rows)
    assert 0.6 < sum(found) / len(found) < 1
