from dataclasses import asdict

import pytest

from inlay.data.formats import choose_layout, rows_in_layout
from inlay.data.problems import Problems
from inlay.data.rows import Row
from inlay.data.settings import DataSettings

PAIRS = [
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "passage"),
    ("question", "sentence"),
    ("question1", "question2"),
]


def layout(*columns: str, **settings):
    problems = Problems()
    row = Row(dict.fromkeys(columns, "x"), "a.jsonl:1")
    chosen = choose_layout(DataSettings(path="a.jsonl", **settings), [row], problems)
    problems.raise_errors()
    assert chosen
    return chosen


def complaint(*columns: str, **settings) -> str:
    with pytest.raises(ValueError, match="^a.jsonl:1: ") as caught:
        layout(*columns, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        ("messages", "messages"),
        ("conversations", "conversations"),
        ("prompt completion", "prompt-completion"),
        ("instruction input output", "instruction"),
        ("instruction output", "instruction"),
        ("text label", "labelled-text"),
        ("sentence labels", "labelled-text"),
        ("text", "text"),
        ("input target", "prompt-completion"),
        ("input references", "prompt-completion"),
        ("question answer", "prompt-completion"),
        ("input output", "prompt-completion"),
        ("instruction references", "instruction"),
        # The order of the table decides where several fit.
        ("text label conversations messages", "messages"),
        ("prompt completion conversations", "conversations"),
        ("prompt completion label instruction output", "prompt-completion"),
        ("text label instruction output", "instruction"),
        ("question answer sentence label", "labelled-text"),
        ("input target text", "prompt-completion"),
    ],
)
def test_the_format_is_detected_from_the_columns(columns, format):
    assert layout(*columns.split()).format == format


@pytest.mark.parametrize(("text", "pair"), PAIRS)
def test_pairs_are_detected(text, pair):
    assert layout("id", pair, text, "label").columns == {"text": text, "text_pair": pair, "label": "label"}


def test_one_text_is_detected():
    assert layout("label", "sentence", "id").columns == {"text": "sentence", "label": "label"}


def test_an_instruction_without_any_input_does_not_claim_the_column():
    assert layout("instruction", "output").columns == {"instruction": "instruction", "output": "output"}
    assert "input" in layout("instruction", "output", "input").columns


def test_named_columns_win_over_detection():
    columns = ("text", "label", "sentence1", "sentence2", "stars", "body")
    assert layout(*columns, text="body", label="stars").columns == {"text": "body", "label": "stars"}
    assert layout(*columns, text="sentence1").columns == {"text": "sentence1", "label": "label"}
    named = layout(*columns, text="sentence1", text_pair="body").columns
    assert named == {"text": "sentence1", "text_pair": "body", "label": "label"}
    assert layout("text", "stars", label="stars").columns == {"text": "text", "label": "stars"}
    assert layout("question", "passage", "answer", label="answer").columns["text_pair"] == "passage"
    assert layout("messages", "text", "label", label="label").format == "labelled-text"


def test_named_prompts_and_completions_are_found():
    assert layout("a", "b", prompt="a", completion="b").columns == {"prompt": "a", "completion": "b"}
    assert layout("input", "target", "a", prompt="a").columns == {"prompt": "a", "completion": "target"}
    named = layout("messages", "text", "label", "a", "b", prompt="a", completion="b")
    assert (named.format, named.columns) == ("prompt-completion", {"prompt": "a", "completion": "b"})
    assert 'data.completion: no column "c"; the columns are a, b' in complaint("a", "b", prompt="a", completion="c")
    assert "fit none of the formats" in complaint("a", "b", "label", prompt="a", label="label")


def test_references_stand_in_for_a_named_completion():
    columns = layout("a", "references", prompt="a", completion="b").columns
    assert columns == {"prompt": "a", "references": "references"}


def test_a_layout_has_the_roles_that_some_row_has():
    rows = [Row({"input": "a", "target": "b"}, "a.jsonl:1"), Row({"input": "a", "references": ["b"]}, "b.jsonl:1")]
    settings, problems = DataSettings(path="a.jsonl"), Problems()
    chosen = choose_layout(settings, rows, problems)
    assert chosen is not None
    assert chosen.columns == {"prompt": "input", "completion": "target", "references": "references"}
    assert rows_in_layout(rows, chosen, problems) == rows
    chosen = choose_layout(settings, rows[:1], problems)
    assert chosen is not None
    assert chosen.columns == {"prompt": "input", "completion": "target"}
    assert rows_in_layout(rows, chosen, problems) == rows[:1]
    assert str(problems.error()) == 'b.jsonl:1: no column "target"; the columns are input, references'


def test_a_named_text_without_a_label_is_for_language_modelling():
    assert asdict(layout("body", "id", text="body")) == {"format": "text", "columns": {"text": "body"}}


def test_a_named_format_is_not_overruled():
    assert layout("messages", "text", format="text").format == "text"
    assert "text, label do not fit the format messages; expected: messages" in complaint(
        "text", "label", format="messages"
    )


def test_a_named_column_that_is_not_there_is_an_error_with_the_nearest_one_and_all():
    message = complaint("text", "label", "id", label="lable")
    assert message == ('a.jsonl:1: data.label: no column "lable"; did you mean label? The columns are text, label, id')
    assert complaint("a", "b", text="zzz") == (
        'a.jsonl:1: data.text: no column "zzz"; the columns are a, b; another is named with --data.text a'
    )


def test_columns_that_fit_no_format_are_an_error_that_lists_both():
    message = complaint("review", "stars")
    assert "the columns review, stars fit none of the formats" in message
    assert "labelled-text: label with text_a+text_b or sentence1+sentence2" in message


def test_a_label_and_a_text_of_the_same_column_are_not_detected():
    assert "fit none of the formats" in complaint("text", "id", label="text")
