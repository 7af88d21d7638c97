"""Tools and calls as they are given, and as models with different chat templates learn them."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from inlay.data.generation import load_generation
from inlay.data.settings import DataSettings
from inlay.data.tokens import tokenize_generation
from inlay.errors import DataError

from .chat_tokenizers import BY_KEY, CALLING, DEEPSEEK, HERMES, byte_level
from .conversations import learned
from .files import write_jsonl

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "required": ["city"]}}}]


def call(arguments: Any, name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}} | more


def talk(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Name it."}
    return {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": list(calls)}]} | more


def answers(path: Path | str, template: str | None) -> list[str]:
    """What is learned of each row of train, read with a valid split beside it."""
    tokenizer = byte_level(template)
    rows = tokenize_generation(tokenizer, load_generation(DataSettings(path=str(path))).splits["train"], 512).rows
    return ["".join(learned(tokenizer, row)) for row in rows]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    for split in ("train", "valid"):
        write_jsonl(folder / f"{split}.jsonl", list(rows))
    return folder


def parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    for split in ("train", "valid"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
    return folder


def complaint(folder: Path, *rows: dict[str, Any], template: str = HERMES) -> str:
    with pytest.raises(DataError) as caught:
        answers(jsonl(folder, *rows), template)
    return str(caught.value)


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("arguments", [{"city": "Paris", "days": [1, None]}, '{"city": "Paris", "days": [1, null]}'])
def test_arguments_are_learned_as_json_once_whatever_the_template_takes(tmp_path, name, arguments):
    written = '<call>{"name": "weather", "arguments": {"city": "Paris", "days": [1, null]}}<|im_end|>'
    assert answers(jsonl(tmp_path, talk(call(arguments))), CALLING[name]) == [written]


def test_a_template_that_asks_for_the_keys_of_arguments_gets_an_object(tmp_path):
    (found,) = answers(jsonl(tmp_path, talk(call('{"city": "Paris"}'))), BY_KEY)
    assert '["city", "Paris"]' in found


def test_the_plain_form_writes_arguments_as_an_object(tmp_path):
    (found,) = answers(jsonl(tmp_path, talk(call('{"city": "Paris"}'))), None)
    assert '"arguments": {"city": "Paris"}' in found


def test_a_first_call_without_arguments_does_not_decide_what_the_template_takes(tmp_path):
    found = answers(jsonl(tmp_path, talk(call("{}")), talk(call({"city": "Paris"}))), DEEPSEEK)
    assert found[1] == '<call>{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>'


@pytest.mark.parametrize("name", CALLING)
def test_a_table_gives_calls_no_arguments_that_they_lack(tmp_path, name):
    rows = [talk(call({"city": "Paris"})), talk(call({"path": "a.txt", "deep": {"x": 1}}, "read"), call({}, "stop"))]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert answers(parquet(tmp_path / "a", *rows), CALLING[name]) == answers(
        jsonl(tmp_path / "b", *rows), CALLING[name]
    )
    (warning,) = load_generation(DataSettings(path=str(tmp_path / "a"))).warnings
    assert str(warning).startswith("train.parquet row 1: a key that is null in an object is taken for one that is not")


def test_a_null_of_the_file_itself_is_learned(tmp_path):
    written = '<call>{"name": "weather", "arguments": {"city": null}}<|im_end|>'
    (tmp_path / "a").mkdir()
    assert answers(jsonl(tmp_path / "a", talk(call({"city": None}))), HERMES) == [written]
    (tmp_path / "b").mkdir()
    assert answers(parquet(tmp_path / "b", talk(call('{"city": null}'))), HERMES) == [written]


def test_a_table_gives_tools_no_keys_that_they_lack(tmp_path):
    tools = [
        {"type": "function", "function": {"name": "read", "parameters": {"properties": {"a": {"type": "string"}}}}}
    ]
    rows = [talk(call({"city": "x"}), tools=TOOLS), talk(call({"a": "b"}, "read"), tools=tools)]
    data = load_generation(DataSettings(path=str(parquet(tmp_path, *rows))))
    assert [list(example.tools) for example in data.splits["train"]] == [TOOLS, tools]


def test_parameters_and_tools_may_be_json_in_texts(tmp_path):
    function = TOOLS[0]["function"]
    as_text = [{"type": "function", "function": function | {"parameters": json.dumps(function["parameters"])}}]
    for tools in (as_text, json.dumps(as_text), [json.dumps(TOOLS[0])]):
        data = load_generation(DataSettings(path=str(jsonl(tmp_path, talk(call({}), tools=tools)))))
        assert list(data.splits["train"][0].tools) == TOOLS


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (
            [call("add(1)")],
            'messages[1].tool_calls[0].function.arguments is "add(1)"; it must be an object, or JSON of one',
        ),
        ([call('"{}"')], 'messages[1].tool_calls[0].function.arguments is "\\"{}\\""; it must be an object, or JSON'),
        ([call([1])], "messages[1].tool_calls[0].function.arguments is a list; it must be an object"),
        ([{"function": {"arguments": {}}}], 'messages[1].tool_calls[0].function has no "name"'),
        ([{"function": "add"}], 'messages[1].tool_calls[0].function has no "name"'),
        (["add"], "messages[1].tool_calls is a list; it must be a list of objects"),
    ],
)
def test_calls_that_are_none_are_reported_with_their_line(tmp_path, calls, message):
    rows = [talk(call({})), {"messages": [*talk()["messages"][:1], {"role": "assistant", "tool_calls": calls}]}]
    assert complaint(tmp_path, *rows).startswith(f"train.jsonl:2: {message}")


def test_a_date_of_a_table_in_arguments_is_reported(tmp_path):
    import datetime

    parquet(tmp_path, talk(call({"when": datetime.date(2020, 1, 1)})))
    with pytest.raises(DataError, match=r"messages\[1\].tool_calls cannot be written as JSON: .*date"):
        answers(tmp_path, HERMES)


def asked_and_answered(*results: dict[str, Any], calls: Any = None) -> dict[str, Any]:
    calls = calls or [call({"city": "x"}, id="c1"), call({"city": "y"}, id="c2")]
    turns = talk(*calls)["messages"]
    return {"messages": [*turns, *({"role": "tool", "content": "2", **r} for r in results), turns[0], turns[1]]}


def test_which_call_a_result_answers_may_be_told_by_the_order_alone(tmp_path):
    first, second = {"tool_call_id": "c1", "name": "weather"}, {"tool_call_id": "c2"}
    assert len(answers(jsonl(tmp_path, asked_and_answered(first, second)), HERMES)) == 1
    assert complaint(tmp_path, asked_and_answered(second, first)) == (
        "train.jsonl:1: the chat template writes nothing of the row's tool_call_id (turn 3, tool); use one that does, "
        "or rows without"
    )
    assert "name (turn 3, tool)" in complaint(tmp_path, asked_and_answered({"name": "other"}))
    ids = HERMES.replace("+ m.content }}", "+ (m.tool_call_id or '') + m.content }}")
    assert len(answers(jsonl(tmp_path, asked_and_answered(second, first)), ids)) == 1
