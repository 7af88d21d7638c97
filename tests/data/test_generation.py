import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from inlay.data.examples import Examples
from inlay.data.generation import GenerationExample, load_generation
from inlay.data.settings import DataSettings
from inlay.errors import DataError

from .files import labelled, write_jsonl, write_text

SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
NOTHING = ", so there is no answer to learn; complete the row or remove it"
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds"}}]


def user(text: str = "Hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str = "Hello!") -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def load(path: Path | str, **settings) -> Examples:
    return load_generation(DataSettings(path=str(path), **settings))


def loaded(tmp_path: Path, *rows: dict[str, Any], **settings) -> Examples:
    """The rows as both train and valid."""
    write_jsonl(tmp_path / "train.jsonl", list(rows))
    write_jsonl(tmp_path / "valid.jsonl", list(rows))
    return load(tmp_path, **settings)


def first(tmp_path: Path, row: dict[str, Any], **settings) -> GenerationExample:
    return loaded(tmp_path, row, **settings).splits["train"][0]


def complaint(tmp_path: Path, *rows: dict[str, Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, *rows)
    return str(caught.value).splitlines()


def warnings(data: Examples) -> list[str]:
    return [str(problem) for problem in data.warnings]


def test_messages_are_kept_as_they_are(tmp_path):
    turns = [
        SYSTEM,
        user() | {"name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
        says("It is 2.") | {"reasoning_content": "1 + 1"},
    ]
    example = first(tmp_path, {"messages": turns, "tools": TOOLS, "id": 1})
    assert example.messages == (*turns[:2], turns[2] | {"content": ""}, *turns[3:])
    assert example.tools == tuple(TOOLS)
    assert (example.form, example.place, example.references) == ("chat", "train.jsonl:1", ("It is 2.",))
    assert load(tmp_path).columns == {"messages": "messages", "tools": "tools"}
    assert load(tmp_path).ignored_columns == ("id",)


def test_what_a_table_fills_up_with_nulls_is_not_there(tmp_path):
    rows = [{"messages": [user(), says()]}, {"messages": [user(), {"role": "assistant", "tool_calls": [CALL]}]}]
    for split in ("train", "valid"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    train = load(tmp_path).splits["train"]
    assert train[0].messages == (user(), says())
    assert train[1].messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert train[1].references == ()


def test_tools_may_be_json_in_a_text_or_missing(tmp_path):
    rows = [{"messages": [user(), says()], "tools": tools} for tools in (json.dumps(TOOLS), "", "[]", None)]
    tools = [example.tools for example in loaded(tmp_path, *rows).splits["train"]]
    assert tools == [tuple(TOOLS), (), (), ()]
    assert complaint(tmp_path, rows[0] | {"tools": "add"}) == [
        'train.jsonl:1: tools is "add"; it must be a list of objects '
        "(2 rows have this: train.jsonl:1 and valid.jsonl:1)"
    ]


def test_sharegpt_conversations_become_messages(tmp_path):
    turns = [
        {"from": "human", "value": "Add."},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2.", "weight": 1},
    ]
    example = first(tmp_path, {"conversations": turns, "system": "Be kind."})
    assert example.messages == (
        SYSTEM,
        user("Add."),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
        says("It is 2."),
    )
    turns[1]["value"] = "add(1)"
    assert complaint(tmp_path, {"conversations": turns}) == [
        'train.jsonl:1: conversations[1].value is "add(1)"; a function_call is JSON with a "name" '
        "(2 rows have this: train.jsonl:1 and valid.jsonl:1)"
    ]


def test_either_way_to_write_turns_is_found_under_either_name_of_the_column(tmp_path):
    assert first(tmp_path, {"conversations": [user(), says()]}).messages == (user(), says())
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    assert first(tmp_path, {"messages": sharegpt}).messages == (user(), says())


def test_a_prompt_and_its_completion(tmp_path):
    example = first(tmp_path, {"prompt": " 1 + 1 =", "completion": " 2\n"})
    assert example == GenerationExample(
        (user(" 1 + 1 ="), says(" 2\n")), "completion", "train.jsonl:1", references=(" 2\n",)
    )
    named = first(tmp_path, {"in": "a", "out": "b", "text": "c"}, prompt="in", completion="out")
    assert named.texts == ("a", "b")


def test_an_instruction_is_a_conversation_of_two_turns(tmp_path):
    example = first(tmp_path, {"instruction": "Translate.", "input": "oui", "output": "yes"})
    assert (example.form, example.texts) == ("chat", ("Translate.\n\noui", "yes"))
    for empty in ({"input": ""}, {"input": " \n"}, {"input": None}, {}):
        assert first(tmp_path, {"instruction": "Greet.", "output": "Hi"} | empty).texts == ("Greet.", "Hi")


def test_a_text_is_learned_as_a_whole(tmp_path):
    example = first(tmp_path, {"text": "Once upon a time."})
    assert example == GenerationExample((says("Once upon a time."),), "text", "train.jsonl:1")


def test_labels_are_left_aside_if_the_format_is_named(tmp_path):
    data = loaded(tmp_path, *labelled(9), format="text")
    assert (data.format, data.ignored_columns) == ("text", ("label",))
    with pytest.raises(DataError, match="the rows are in the format labelled-text .* data.format text"):
        load(tmp_path)


def test_references_stand_in_place_of_the_completion_and_the_first_is_learned(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"input": "a", "target": "b"}] * 2)
    write_jsonl(tmp_path / "valid.jsonl", [{"input": "a", "references": ["b", "c", "b"]}])
    write_jsonl(tmp_path / "test.jsonl", [{"input": "a", "target": "d", "references": ["b", "d"]}])
    for settings in ({}, {"prompt": "input", "completion": "target"}):
        data = load(tmp_path, **settings)
        assert data.format == "prompt-completion"
        assert data.columns == {"prompt": "input", "completion": "target", "references": "references"}
        assert data.ignored_columns == ()
        valid, test = data.splits["valid"][0], data.splits["test"][0]
        assert (valid.texts, valid.references) == (("a", "b"), ("b", "c", "b"))
        assert (test.texts, test.references) == (("a", "d"), ("d", "b"))


def test_rows_with_references_alone_can_be_read_alone(tmp_path):
    rows = [{"input": f"a{i}", "references": ["b", "c"]} for i in range(9)]
    data = load(write_jsonl(tmp_path / "test.jsonl", rows), prompt="input", completion="target")
    assert data.columns == {"prompt": "input", "references": "references"}
    assert {example.references for example in data.splits["train"]} == {("b", "c")}


def test_an_instruction_may_have_references_too(tmp_path):
    data = loaded(tmp_path, {"instruction": "a", "output": "b"}, {"instruction": "a", "references": ["c", "d"]})
    assert [example.references for example in data.splits["train"]] == [("b",), ("c", "d")]


@pytest.mark.parametrize("value", ["b", [], ["b", ""], [1]])
def test_references_that_are_no_texts_are_an_error(tmp_path, value):
    found = complaint(tmp_path, {"prompt": "a", "completion": "b"}, {"prompt": "a", "references": value})
    assert found[0].startswith("train.jsonl:2: references is ")
    assert found[0].endswith(
        "; it must be a list of texts, none of them empty (2 rows have this: train.jsonl:2 and valid.jsonl:2)"
    )


def test_a_row_with_neither_completion_nor_references_is_an_error(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None, "references": None}]
    assert complaint(tmp_path, *rows) == [
        "train.jsonl:2: completion is empty; give the row a text or remove it "
        "(2 rows have this: train.jsonl:2 and valid.jsonl:2)"
    ]
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a", "references": ["b"]}, {"prompt": "a", "references": None}])
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": "a", "references": ["b"]}])
    with pytest.raises(DataError, match="train.jsonl:2: references is empty; every row needs an answer"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": " "}, "completion is empty; give the row a text or remove it"),
        ({"prompt": "", "completion": "b"}, "prompt is empty; give the row a text or remove it"),
        ({"prompt": "a", "completion": 3}, "completion is 3, not a text"),
        ({"instruction": "a", "output": None}, "output is empty; give the row a text or remove it"),
        ({"instruction": "a", "output": "b", "input": 3}, "input is 3, not a text"),
        ({"text": "\n"}, "text is empty; give the row a text or remove it"),
        (
            {"messages": [user(), says(" ")]},
            "messages[1] is an empty answer; give it a text or remove the row",
        ),
        (
            {"messages": [user(), says(""), user(), says()]},
            "messages[1] is an empty answer; give it a text or remove the row",
        ),
        ({"messages": [SYSTEM]}, f"messages has no assistant turn, only system{NOTHING}"),
        ({"messages": [SYSTEM, user(), user()]}, f"messages has no assistant turn, only system and user{NOTHING}"),
        (
            {"conversations": [{"from": "human", "value": "Hi"}]},
            f"conversations has no assistant turn, only user{NOTHING}",
        ),
        ({"messages": [says(), user()]}, f"messages starts with its only assistant turn{NOTHING}"),
        (
            {"messages": [user(), {"role": "bot", "content": "x"}]},
            'messages[1].role is "bot"; allowed: system, user, assistant, tool',
        ),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            'conversations[0].from is "bot"; allowed: system, human, user, gpt, assistant, function_call, observation, '
            "tool",
        ),
        ({"messages": [user(), {"role": "assistant"}]}, "messages[1].content is null, not a text"),
        ({"messages": [user(), "Hello!"]}, 'messages[1] has no "role"; each must be an object with one'),
        ({"conversations": [{"from": "human", "value": 1}]}, "conversations[0].value is 1, not a text"),
        ({"conversations": [user(), says()], "system": 1}, "system is 1, not a text"),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_with_its_line(tmp_path, row, message):
    good = {
        "messages": {"messages": [user(), says()]},
        "conversations": {"conversations": [user(), says()]},
        "prompt": {"prompt": "a", "completion": "b"},
        "instruction": {"instruction": "a", "output": "b"},
        "text": {"text": "a"},
    }[next(iter(row))]
    write_jsonl(tmp_path / "train.jsonl", [good, good, row])
    write_jsonl(tmp_path / "valid.jsonl", [good])
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"train.jsonl:3: {message}"


def test_rows_of_mixed_formats_are_an_error_with_the_line_of_the_first_that_differs(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}, {"messages": [user(), says()]}, {"text": "a"}, {"prompt": "a"}]
    assert complaint(tmp_path, *rows) == [
        "train.jsonl:2: the row is in the format messages, the first row in prompt-completion; use one format for all "
        "(4 rows have this: train.jsonl:2, train.jsonl:3, valid.jsonl:2 and valid.jsonl:3)",
        'train.jsonl:4: no column "completion"; the columns are prompt '
        "(2 rows have this: train.jsonl:4 and valid.jsonl:4)",
    ]


def test_turns_after_the_last_answer_are_left_out_with_a_warning(tmp_path):
    data = loaded(
        tmp_path,
        {"messages": [user(), says()]},
        {"messages": [user(), says(), user("And?")]},
        {"messages": [user(), says(), {"role": "tool", "content": "2"}]},
    )
    assert [example.messages for example in data.splits["train"]] == [(user(), says())] * 3
    assert warnings(data) == [
        "train.jsonl:2: messages ends with a turn of user that has no answer; what follows the last answer is left out "
        "(4 rows have this: train.jsonl:2, train.jsonl:3, valid.jsonl:2 and valid.jsonl:3)"
    ]


def test_two_assistant_turns_in_a_row_are_kept_with_a_warning(tmp_path):
    turns = [user(), says("One."), says("Two.")]
    data = loaded(tmp_path, {"messages": [user(), says()]}, {"messages": turns})
    assert data.splits["train"][1].messages == tuple(turns)
    assert warnings(data) == [
        "train.jsonl:2: messages has two assistant turns in a row; each is learned as it is, the second after the first"
        " (2 rows have this: train.jsonl:2 and valid.jsonl:2)"
    ]


def test_windows_line_ends_within_texts_are_read_as_plain_ones_with_a_warning(tmp_path):
    data = loaded(tmp_path, {"prompt": "a", "completion": "b", "id": "c\r\nd"}, {"prompt": "a", "completion": "b\r\nc"})
    assert [example.texts for example in data.splits["train"]] == [("a", "b"), ("a", "b\nc")]
    assert warnings(data) == [
        "train.jsonl:2: texts with Windows line ends (\\r\\n) are read with plain ones (\\n) "
        "(2 rows have this: train.jsonl:2 and valid.jsonl:2)"
    ]
    assert first(tmp_path, {"messages": [user("a\r\nb"), says("c\r\n")]}).messages == (user("a\nb"), says("c\n"))


def test_files_with_a_byte_order_mark_and_windows_line_ends_are_read_as_others(tmp_path):
    lines = 'prompt,completion\r\n"one\r\ntwo",three\r\n'
    write_text(tmp_path / "train.csv", "\ufeff" + lines)
    write_text(tmp_path / "valid.jsonl", '\ufeff{"prompt": "a", "completion": "b"}\r\n')
    data = load(tmp_path)
    assert data.columns == {"prompt": "prompt", "completion": "completion"}
    assert data.splits["train"][0].texts == ("one\ntwo", "three")
    assert data.splits["valid"][0].texts == ("a", "b")


def test_rows_with_one_prompt_are_held_out_together(tmp_path):
    rows = [{"prompt": f"p{i % 20}", "completion": f"c{i}"} for i in range(60)]
    data = load(write_jsonl(tmp_path / "a.jsonl", rows))
    assert len(data.splits["valid"]) == 15
    held, kept = ({example.texts[0] for example in data.splits[split]} for split in ("valid", "train"))
    assert not held & kept
    assert data.valid_from == "25 % of train: 15 rows, the same whatever the seed"


def test_too_few_rows_to_hold_any_out_are_an_error(tmp_path):
    with pytest.raises(DataError, match="a.jsonl: 7 rows are too few to hold some out"):
        load(write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"p{i}", "completion": "c"} for i in range(7)]))


def test_of_one_long_text_the_end_is_held_out_at_the_start_of_a_line(tmp_path):
    lines = [f"Line {i} of the book." for i in range(1000)]
    data = load(write_text(tmp_path / "book.txt", "\n".join(lines)))
    (train,), (valid,) = data.splits["train"], data.splits["valid"]
    assert [*train.texts[0].split("\n"), *valid.texts[0].split("\n")] == lines
    assert valid.texts[0].startswith("Line 9")
    assert 0.04 < len(valid.texts[0]) / sum(map(len, lines)) < 0.06
    assert (train.place, valid.place) == ("book.txt:1", "book.txt:1 (end)")
    assert data.valid_from == "the last 5 % of the text of book.txt"


def test_of_a_few_texts_the_ends_of_the_long_ones_are_held_out(tmp_path):
    path = write_text(tmp_path / "a.txt", "word " * 1000 + "\n<|endoftext|>\nshort\n<|endoftext|>\n" + "x" * 5000)
    data = load(path, valid_fraction=0.1)
    assert [len(example.texts[0].split()) for example in data.splits["train"]] == [899, 1, 1]
    assert [len(example.texts[0]) for example in data.splits["valid"]] == [504, 500]
    assert data.valid_from == "the last 10 % of each long text of a.txt"


def test_a_few_short_texts_are_too_few(tmp_path):
    with pytest.raises(DataError, match="a.txt: 1 rows are too few"):
        load(write_text(tmp_path / "a.txt", "short"))
