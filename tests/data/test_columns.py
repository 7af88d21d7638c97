"""Columns whose names are not those expected: in another case, or others, with the flags that name them."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from inlay.data.classification import load_classification
from inlay.data.columns import others_named
from inlay.data.describe import describe
from inlay.data.formats import USUAL, choose_layout, open_data
from inlay.data.generation import load_generation
from inlay.data.inputs import read_inputs
from inlay.data.problems import Problems
from inlay.data.rows import Row
from inlay.data.settings import DataSettings, Reading
from inlay.errors import DataError

from .files import labelled, write_jsonl, write_text


def chosen(rows: list[dict[str, Any]], **settings: Any) -> tuple[str, dict[str, str]] | str:
    """The format and its columns, or the error."""
    problems = Problems()
    given = [Row(row, f"a.csv:{number}") for number, row in enumerate(rows, 2)]
    layout = choose_layout(DataSettings(path="a.csv", **settings), given, problems)
    return str(problems.error()) if layout is None else (layout.format, layout.columns)


def warned(rows: list[dict[str, Any]], **settings: Any) -> list[str]:
    problems = Problems()
    given = [Row(row, f"a.csv:{number}") for number, row in enumerate(rows, 2)]
    assert choose_layout(DataSettings(path="a.csv", **settings), given, problems) is not None
    return [problem.message for problem in problems.found()]


def table(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


MESSAGES = [f"a message with the number {i}" for i in range(12)]
KINDS = ["spam", "ham", "eggs"] * 4


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        ("TEXT LABEL", "labelled-text"),
        ("Id Text Label", "labelled-text"),
        ("text Label", "labelled-text"),
        ("Premise hypothesis LABEL", "labelled-text"),
        ("PROMPT Completion", "prompt-completion"),
        ("Question Answer", "prompt-completion"),
        ("Instruction OUTPUT Input", "instruction"),
        ("Messages", "messages"),
        ("Text", "text"),
    ],
)
def test_columns_are_found_in_any_case(columns: str, format: str) -> None:
    found, by_role = chosen([dict.fromkeys(columns.split(), "x")])
    assert (found, set(by_role.values())) == (format, set(columns.split()) - {"Id"})


def test_the_very_name_wins_and_what_two_columns_fit_is_not_guessed() -> None:
    assert chosen([{"TEXT": "x", "text": "x", "label": "x"}]) == ("labelled-text", {"text": "text", "label": "label"})
    assert chosen([{"Prompt": "x", "Completion": "x", "text": "x", "label": "x"}])[0] == "labelled-text"
    assert "fit none of the formats" in chosen([{"TEXT": "x", "Text": "x", "label": "x"}])
    assert chosen([{"TEXT": "x", "Text": "x", "label": "x"}], text="Text")[1]["text"] == "Text"
    assert chosen([{" Text ": "x", "label": "x"}])[1]["text"] == " Text "
    assert chosen([{"Body": "x", "label": "x"}], text="body")[1]["text"] == "Body"


def test_the_case_may_differ_from_file_to_file_and_from_row_to_row(tmp_path: Path) -> None:
    rows = [{"Text": row["text"], "LABEL": row["label"], "id": 1} for row in labelled(6)]
    write_jsonl(tmp_path / "train.jsonl", [*labelled(20), *({"TEXT": f"more {i}", "label": "no"} for i in range(3))])
    write_jsonl(tmp_path / "valid.jsonl", rows)
    data = load_classification(DataSettings(path=str(tmp_path)))
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 23, "valid": 6}
    assert data.ignored_columns == ("id",)
    assert [row.text for row in data.splits["valid"]] == [row["Text"] for row in rows]


def test_columns_of_other_names_are_suggested_as_flags() -> None:
    rows = table(Id=[*range(12)], Message=MESSAGES, Region=["north", "south"] * 6, Category=KINDS)
    assert chosen(rows) == (
        "a.csv:2: the columns Id, Message, Region, Category fit none of the formats; name those that are meant, such "
        "as --data.text Message --data.label Category"
    )
    spaced = [{"Customer's message": row["Message"], "The Class": row["Category"]} for row in rows]
    assert """--data.text 'Customer'"'"'s message' --data.label 'The Class'""" in chosen(spaced)
    asked = table(Frage=MESSAGES, Antwort=[f"an answer to {i}" for i in range(12)])
    assert chosen(asked).endswith("such as --data.prompt Frage --data.completion Antwort")
    assert chosen(rows, label="Region").endswith("such as --data.text Message --data.label Region")


def test_half_a_choice_is_no_choice() -> None:
    rows = table(Id=[*range(12)], Message=MESSAGES, Category=KINDS)
    assert chosen(rows, text="Message") == (
        "a.csv:2: with data.text alone it is open what is to be learned: labels (--data.text Message --data.label "
        "Category), or to write the texts (--data.text Message --data.format text)"
    )
    assert chosen(rows, text="Message", label="Category") == (
        "labelled-text",
        {"text": "Message", "label": "Category"},
    )
    assert chosen(rows, text="Message", format="text") == ("text", {"text": "Message"})
    assert chosen(table(Id=[*range(12)], Message=MESSAGES), text="Message") == ("text", {"text": "Message"})
    assert chosen(table(Message=MESSAGES, Label=KINDS), text="message")[0] == "labelled-text"


def test_a_column_that_may_be_a_label_is_not_ignored_in_silence() -> None:
    rows = table(text=MESSAGES, category=KINDS)
    assert warned(rows) == [
        "no column is called a label, so a model is to write the texts, and category is ignored; for labels name their "
        "column, such as --data.label category; if the texts are meant, --data.format text says so"
    ]
    assert warned(rows, format="text") == []
    for scores in ([i / 7 for i in range(12)], [f"{i},5" for i in range(12)], [f"{i}.25" for i in range(11)] + ["3"]):
        assert warned(table(text=MESSAGES, score=scores)) == [
            "no column is called a label, so a model is to write the texts, and score is ignored; it holds real "
            "numbers, which are not learned as numbers (no regression): group them into classes, in a column that "
            "--data.label names"
        ]
    assert warned(table(text=MESSAGES, id=[*range(12)], url=[f"x/{i}" for i in range(12)])) == []


def test_inputs_are_read_from_columns_that_are_named(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new.csv", "Nr;Message\n1;one, so\n2;two\n")
    assert read_inputs(path).texts({"text": "Message"}) == [("one, so", None), ("two", None)]
    assert read_inputs(path).texts({"text": "MESSAGE"}) == [("one, so", None), ("two", None)]
    with pytest.raises(DataError) as caught:
        read_inputs(path).texts({"text": "text"})
    assert str(caught.value) == (
        'new.csv:1: no column "text"; the columns are Nr, Message; another is named with --data.text Message'
    )
    with pytest.raises(DataError, match=r"the row has 2 fields, the header 1 \(Nr;Message\)"):
        read_inputs(path, Reading(separator=",")).texts({"text": "Message"})
    lines = write_text(tmp_path / "new.txt", "one\ntwo\n")
    for reading in (Reading(text="Message"), Reading(separator=";")):
        with pytest.raises(DataError, match="leave"):
            read_inputs(lines, reading).texts({"text": "text"})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"text": "A", "label": "B"}, "others are named with --data.text Message --data.label Topic"),
        ({"text": "Message", "label": "B"}, "another is named with --data.label Topic"),
        ({"text": "A", "label": "Topic"}, "another is named with --data.text Message"),
        ({"text": "A", "text_pair": "B"}, "others are named with --data.text Reply --data.text-pair Message"),
        ({"prompt": "A", "completion": "B"}, "others are named with --data.prompt Reply --data.completion Message"),
        ({"text": "Mesage", "label": "B"}, "others are named with --data.text Message --data.label Topic"),
        ({"text": "Mesage"}, ""),
    ],
)
def test_columns_of_other_names_are_suggested_for_those_that_are_not_there(wanted: dict[str, str], said: str) -> None:
    replies = [f"Thanks, we see to it: {i}" for i in range(12)]
    rows = table(Id=[*range(12)], Reply=replies, Message=MESSAGES, Topic=KINDS)
    assert others_named([Row(row, "") for row in rows], wanted, USUAL) == said


def test_a_column_with_a_usual_name_is_suggested_before_the_one_with_the_longest_texts() -> None:
    rows = [Row(row, "") for row in table(Notes=[3 * text for text in MESSAGES], Question=MESSAGES, Topic=KINDS)]
    assert others_named(rows, {"prompt": "Task"}, USUAL) == "another is named with --data.prompt Question"
    both = others_named(rows, {"prompt": "Task", "completion": "Solution"}, USUAL)
    assert both == "others are named with --data.prompt Question --data.completion Notes"
    labelled = others_named(rows, {"text": "A", "label": "B"}, USUAL)
    assert labelled == "others are named with --data.text Question --data.label Topic"


def test_scoring_and_answering_say_the_same_of_columns_that_are_not_there(tmp_path: Path) -> None:
    lines = [f"{i};{text};{kind}" for i, (text, kind) in enumerate(zip(MESSAGES, KINDS, strict=True))]
    path = write_text(tmp_path / "new.csv", "\n".join(["Nr;Body;Topic", *lines]))
    with pytest.raises(DataError, match="others are named with --data.text Body --data.label Topic$"):
        open_data(DataSettings(path=str(path), text="Message", label="Category"))
    with pytest.raises(DataError, match="another is named with --data.text Body$"):
        read_inputs(path).texts({"text": "Message", "label": "Category"})


def test_labels_that_look_alike_are_told_by_what_differs(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    for labels, what in (
        ((composed, apart), "Unicode form (NFC writes each letter in one way)"),
        (("Spam", "spam"), "case"),
        (("spam", "spam "), "white space"),
        ((composed.upper(), apart), "case and Unicode form (NFC writes each letter in one way)"),
    ):
        path = write_jsonl(tmp_path / "a.jsonl", labelled(40, (*labels, "other")))
        found = [p.message for p in describe(DataSettings(path=path)).problems if "differ only in" in p.message]
        assert [message.partition("differ only in ")[2] for message in found] == [what]


def test_more_rows_than_there_are_is_said(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": json.dumps(row)} for row in labelled(40)])
    said = [str(p) for p in load_generation(DataSettings(path=path, train_rows=1000)).warnings]
    assert said == ["a.jsonl: train has 27 rows, all of which are used: data.train_rows 1,000 leaves none out"]
    assert load_generation(DataSettings(path=path, train_rows=27)).warnings == ()


def test_what_is_suggested_as_a_label_repeats_and_is_no_date_and_no_number() -> None:
    received = [f"2026-01-0{i % 3 + 1} 10:0{i % 2}" for i in range(60)]
    rows = table(
        Received=received,
        Message=[f"a message with the number {i}" for i in range(60)],
        Ticket=[*range(60)],
        Minutes=[i % 25 for i in range(60)],
        City=[f"city {i % 9}" for i in range(60)],
        Team=["north", "south"] * 30,
    )
    assert chosen(rows).endswith("such as --data.text Message --data.label Team")
    named_so = [{**{("Topic" if name == "City" else name): value for name, value in row.items()}} for row in rows]
    assert chosen(named_so).endswith("such as --data.text Message --data.label Topic")
    german = [{**{("Kategorie (final)" if name == "City" else name): value for name, value in r.items()}} for r in rows]
    assert chosen(german).endswith("such as --data.text Message --data.label 'Kategorie (final)'")
    gaps = [row | ({"Team": ""} if i % 5 == 0 else {}) for i, row in enumerate(rows)]
    assert chosen(gaps).endswith("such as --data.text Message --data.label City")  # a clerk, not a label


def test_two_texts_that_are_alike_are_suggested_as_a_pair() -> None:
    """One of them alone would be trained on, and the other ignored."""
    first, second = ([f"{word} sentence has the number {i}" for i in range(40)] for word in ("this", "that other"))
    pairs = {"ID": [*range(40)], "Sentence A": first, "Sentence B": second, "Verdict": ["same", "different"] * 20}
    both = "--data.text 'Sentence A' --data.text-pair 'Sentence B' --data.label Verdict"
    assert chosen(table(**pairs)).endswith(f"such as {both}")
    titles = [f"title {i}" for i in range(40)]
    long = [f"this review is much longer than its title, and has the number {i}" for i in range(40)]
    reviews = {"Title": titles, "Review": long, "Verdict": ["good", "bad"] * 20}
    assert chosen(table(**reviews)).endswith("such as --data.text Review --data.label Verdict")


@pytest.mark.parametrize("numbers", [["0,4", "5,0", "2,6"] * 4, [0.5, 1.0, 2.5] * 4])
def test_real_numbers_are_said_to_be_no_labels_where_texts_alone_could_be_taken(numbers: list[Any]) -> None:
    rows = table(Sentence1=MESSAGES, Sentence2=MESSAGES[::-1], Score=numbers)
    said = chosen(rows)
    assert "Score holds real numbers, which are not learned as numbers (no regression)" in said
    assert "--data.prompt" not in said


def test_numbers_with_a_comma_that_are_named_as_labels_are_told(tmp_path: Path) -> None:
    lines = [f"{message}\t{number}" for message, number in zip(MESSAGES * 4, ["0,4", "5,0", "2,6"] * 16, strict=True)]
    path = write_text(tmp_path / "a.tsv", "\n".join(["text\tScore", *lines, ""]))
    found = [str(p) for p in describe(DataSettings(path=path, label="Score")).problems if p.severity == "warning"]
    assert any('the 3 classes "0,4", "2,6", "5,0", of which none is nearer to one than to another' in p for p in found)


def test_a_complaint_of_columns_names_the_line_in_which_they_stand(tmp_path: Path) -> None:
    """In a table that is its header, wherever that is; in JSON the row itself."""
    for name, text, place in (
        ("a.csv", "Id,Words\n1,one\n", "a.csv:1"),
        ("b.csv", "sep=;\nId;Words\n1;one\n", "b.csv:2"),
        ("c.tsv", "\n\nId\tWords\n1\tone\n", "c.tsv:3"),
        ("d.jsonl", '\n{"Id": 1, "Words": "one"}\n', "d.jsonl:2"),
    ):
        path = write_text(tmp_path / name, text)
        for settings in (DataSettings(path=str(path)), DataSettings(path=str(path), text="Body", label="Topic")):
            with pytest.raises(DataError, match=f"^{place}: "):
                open_data(settings)
        with pytest.raises(DataError, match=f"^{place}: no column"):
            read_inputs(path).texts({"text": "Body"})
