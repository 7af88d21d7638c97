"""Every key of a turn or a tool takes effect or is an error; and turns that are read and not learned."""

from pathlib import Path
from typing import Any

import pytest

from inlay.data.generation import load_generation
from inlay.data.settings import DataSettings
from inlay.data.tokens import tokenize_generation
from inlay.errors import DataError

from .chat_tokenizers import CHATML, GEMMA, HERMES, LLAMA, MISTRAL, REASONING, THINKING, VICUNA, byte_level
from .conversations import learned
from .files import write_jsonl

ALL = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA, "vicuna": VICUNA, "plain": None}


def user(text: str = "Hello there", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def says(text: str = "I am fine.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def runs(folder: Path, template: str | None, *rows: dict[str, Any]) -> list[list[str]]:
    """What is learned of each row of tokens."""
    for split in ("train", "valid"):
        write_jsonl(folder / f"{split}.jsonl", list(rows))
    tokenizer = byte_level(template)
    tokens = tokenize_generation(tokenizer, load_generation(DataSettings(path=str(folder))).splits["train"], 512)
    return [[answer.strip() for answer in learned(tokenizer, row)] for row in tokens.rows]


def complaint(folder: Path, template: str | None, *rows: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        runs(folder, template, *rows)
    return str(caught.value)


def lost(what: str, line: int = 1) -> str:
    return (
        f"train.jsonl:{line}: the chat template writes nothing of the row's {what}; use one that does, or rows without"
    )


@pytest.mark.parametrize("template", ALL.values(), ids=ALL)
@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "name", "prefix", "images", "wieght"])
def test_a_key_of_a_turn_that_the_template_does_not_write_is_an_error_with_its_line(tmp_path, template, key):
    rows = [{"messages": [user(), says()]}, {"messages": [user(), says(**{key: "Twice 2 is 4."})]}]
    assert complaint(tmp_path, template, *rows) == lost(f"{key} (turn 2, assistant)", 2)


def test_a_key_that_the_template_writes_is_learned(tmp_path):
    row = {"messages": [user(), says("4", reasoning_content="Twice 2 is 4.")]}
    assert runs(tmp_path, REASONING, row) == [["<think>Twice 2 is 4.</think>4<|im_end|>"]]
    named = CHATML.replace("m.role + '\n'", "m.role + (' ' + m.name if m.name else '') + '\n'")
    assert runs(tmp_path, named, {"messages": [user(name="Ann"), says()]}) == [["I am fine.<|im_end|>"]]
    assert complaint(tmp_path, CHATML, {"messages": [user(name="Ann"), says()]}) == lost("name (turn 1, user)")


def test_a_key_that_is_written_as_long_as_its_answer_is_the_last_is_learned(tmp_path):
    row = {"messages": [user(), says("4", reasoning_content="Twice 2."), user(), says("5")]}
    assert runs(tmp_path, REASONING, row) == [["<think>Twice 2.</think>4<|im_end|>"], ["5<|im_end|>"]]


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_empty_key_asks_for_nothing(tmp_path, value):
    row = {"messages": [user(), says(reasoning_content=value, tool_calls=value)]}
    assert runs(tmp_path, CHATML, row) == [["I am fine.<|im_end|>"]]


def test_a_key_of_a_sharegpt_turn_is_no_less_an_error(tmp_path):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!", "thought": "Be kind."}]
    assert complaint(tmp_path, CHATML, {"conversations": turns}) == lost("thought (turn 2, assistant)")
    turns[1] = {"from": "gpt", "value": "Hello!", "content": "Bye!"}
    assert "conversations[1] has from and value, and content as well" in complaint(
        tmp_path, CHATML, {"conversations": turns}
    )


def test_words_that_the_template_leaves_out_are_an_error(tmp_path):
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    row = {"messages": [{"role": "system", "content": "a"}, user(), says()]}
    assert complaint(tmp_path, deaf, row) == lost("content (turn 1, system)")
    silent = HERMES.replace("+ m.content }}", "+ (m.content if not m.tool_calls else '') }}")
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    row = {"messages": [user(), says("I add.", tool_calls=calls)]}
    assert runs(tmp_path, HERMES, row)
    assert complaint(tmp_path, silent, row) == lost("content (turn 2, assistant)")


def test_a_key_of_a_tool_or_a_call_that_is_not_written_is_an_error(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "strict": True}}
    calls = [{"type": "function", "id": "c1", "index": 0, "function": {"name": "add", "arguments": {"a": 1}}}]
    row = {"messages": [user(), says("", tool_calls=calls)], "tools": [tool]}
    assert runs(tmp_path, HERMES, row)
    names = HERMES.replace("map('tojson')", "map(attribute='function.name')")
    assert complaint(tmp_path, names, row) == lost("description of tools")
    calls[0]["confidence"] = 0.5
    assert complaint(tmp_path, HERMES, row) == lost("confidence of tool_calls (turn 2, assistant)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image_url", "image_url": "x"}], 'has a part of type "image_url"; only texts are learned'),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "has 2 parts; write them as one text"),
        (
            [{"type": "text", "text": "a", "cache": 1}],
            "has a part with the keys type, text, cache; it may have type and",
        ),
        (["a"], "is a list, not a text"),
    ],
)
def test_content_in_parts_is_read_only_if_it_is_one_text(tmp_path, content, message):
    rows = [{"messages": [user([{"type": "text", "text": "Hi"}]), says()]}]  # pyright: ignore[reportArgumentType]
    assert runs(tmp_path, CHATML, *rows) == [["I am fine.<|im_end|>"]]
    rows.append({"messages": [user(content), says()]})
    assert complaint(tmp_path, CHATML, *rows).startswith(f"train.jsonl:2: messages[0].content {message}")


@pytest.mark.parametrize("template", [CHATML, LLAMA, MISTRAL, GEMMA, VICUNA, THINKING, None])
@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"loss": 0.0}, {"loss_mask": 0}]
)
def test_an_answer_of_weight_0_is_read_and_not_learned(tmp_path, template, mark):
    row = {"messages": [user(), says("Paris", **mark), user(), says("I am fine.", weight=1)]}
    ends = {LLAMA: "<|eot_id|>", MISTRAL: "</s>", GEMMA: "<end_of_turn>", VICUNA: "</s>", None: "</s>"}
    thought = "<think>\n\n</think>\n\n" if template == THINKING else ""
    assert runs(tmp_path, template, row) == [[f"{thought}I am fine.{ends.get(template, '<|im_end|>')}"]]
    data = load_generation(DataSettings(path=str(tmp_path)))
    assert data.warnings == ()
    assert "Paris" in data.splits["train"][0].texts


def test_what_follows_the_last_learned_answer_is_left_out(tmp_path):
    row = {"messages": [user(), says("Paris"), user(), says("I am fine.", weight=0)]}
    assert runs(tmp_path, CHATML, row) == [["Paris<|im_end|>"]]
    assert load_generation(DataSettings(path=str(tmp_path))).splits["train"][0].references == ("Paris",)
    turns = [{"from": "human", "value": "Hi", "weight": 0}, {"from": "gpt", "value": "Paris", "weight": 1}]
    more = [turns[0], {"from": "gpt", "value": "I am fine.", "weight": 0}]
    assert runs(tmp_path, CHATML, {"conversations": [*turns, *more]}) == [["Paris<|im_end|>"]]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([user(), says(weight=0.5)], "messages[1].weight is 0.5; a turn is learned (1, true) or only read (0, false)"),
        ([user(), says(train="no")], 'messages[1].train is "no"; a turn is learned (1, true) or only read (0, false)'),
        ([user(), says(weight=1, train=False)], "messages[1] has weight 1 and train false; keep one of them"),
        ([user(), says(weight=0)], "messages has no answer that is learned, as each has the weight 0; remove the row"),
        ([user(weight=1), says()], "messages[0] is to be learned, but is the user's: only what answers something is"),
        (
            [says(loss=True), user(), says()],
            "messages[0] is to be learned, but opens the conversation: only what answers",
        ),
    ],
)
def test_weights_that_cannot_be_are_reported_with_their_line(tmp_path, turns, message):
    assert complaint(tmp_path, CHATML, {"messages": [user(), says()]}, {"messages": turns}).startswith(
        f"train.jsonl:2: {message}"
    )
