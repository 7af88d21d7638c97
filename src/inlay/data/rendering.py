"""An example as the text that a model reads, in pieces, of which some are learned.

A conversation is written by the model's chat template, and so are a prompt and its completion if it has one. What the
assistant says is found by writing the conversation with and without it, so any template will do:

    without   <|user|>Hi<|end|><|assistant|>
    with      <|user|>Hi<|end|><|assistant|>Hello!<|end|>
                                           ^^^^^^^^^^^^^ learned

Without a template of the model's own, PLAIN_TEMPLATE writes conversations and instructions, a prompt and its completion
are written one after the other, with a line break between them unless the prompt ends with white space, and the
tokenizer's end-of-sequence token ends each answer.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DataError
from .conversation import Message
from .generation import Form, GenerationExample
from .problems import Problems, shown

PLAIN_TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}"
    "{{ message.role | capitalize }}: {{ message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""`User: Hi`, a line break, `Assistant: Hello!`, the end-of-sequence token, and so on."""


@dataclass(frozen=True)
class Piece:
    text: str
    answer: int | None = None
    """The turn that this is the words of; None for what is only read."""


def pieces_of(tokenizer: Any, example: GenerationExample, problems: Problems) -> list[list[Piece]]:
    """The rows of the example, each with an answer at its end; none and a problem if the template cannot write it.

    There is one, or several where the template writes an answer otherwise once the conversation has gone on, as those
    of reasoning models do: then each such answer is learned as it is generated, in a row of its own.
    """
    if not uses_template(tokenizer, example.form):
        texts = example.texts
        return [[*(Piece(opening(prompt)) for prompt in texts[:-1]), Piece(texts[-1], len(texts) - 1)]]
    writer = _Writer(tokenizer, example.tools)
    try:
        if lost := _unwritten(writer, example):
            message = f"the chat template writes nothing of the row's {lost}; use one that does, or remove them"
            problems.add(("unwritten", lost), example.place, message)
            return []
        return list(_turn_by_turn(writer, example, problems))
    except _refusals() as refusal:
        message = f"the chat template refuses the conversation: {refusal}; change the row, or the model's template"
        problems.add(("template", str(refusal)), example.place, message)
        return []


def prompt_text(tokenizer: Any, messages: Sequence[Message], form: Form, tools: Sequence[Any] = ()) -> str:
    """What the model reads before an answer, as in training. Raises DataError if its template refuses the turns."""
    if form == "text":
        return "".join(message["content"] for message in messages)
    if not uses_template(tokenizer, form):
        return "".join(opening(message["content"]) for message in messages)
    writer = _Writer(tokenizer, tools)
    try:
        before = writer.write(messages, answering=True)
        after = writer.write([*messages, {"role": "assistant", "content": "x"}])
    except _refusals() as refusal:
        raise DataError(f"the chat template refuses the conversation: {refusal}; change what is asked") from None
    return before[: _start(before, after)]


def uses_template(tokenizer: Any, form: Form) -> bool:
    """Whether a chat template writes what has this form, be it the plain one."""
    return form == "chat" or (form == "completion" and bool(tokenizer.chat_template))


def opening(prompt: str) -> str:
    """A prompt so written that its completion can follow."""
    return prompt if prompt[-1:].isspace() else prompt + "\n"


@dataclass(frozen=True)
class _Writer:
    tokenizer: Any
    tools: Sequence[Any]

    def write(self, messages: Sequence[Message], answering: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(self.tools) or None,
            chat_template=None if self.tokenizer.chat_template else PLAIN_TEMPLATE,
            add_generation_prompt=answering,
            tokenize=False,
        )


def _turn_by_turn(writer: _Writer, example: GenerationExample, problems: Problems) -> Iterator[list[Piece]]:
    messages = example.messages
    # An assistant's turn that opens the conversation answers nothing: it is read, not learned.
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i]
    whole, done, pieces, warnings = writer.write(messages), 0, [], {}
    for turn in turns:
        before = writer.write(messages[:turn], answering=True)
        after = whole if turn == turns[-1] else writer.write(messages[: turn + 1])
        start = _start(before, after)
        if start < len(before):
            warnings["opening"] = (
                f"the chat template opens an answer to generate with {shown(before[start:])}, but a given one with "
                f"{shown(after[start:], 20)}: the model is trained to answer without the former"
            )
        if whole.startswith(after) and start >= done:
            pieces += [Piece(whole[done:start]), Piece(whole[start : len(after)], turn)]
            done = len(after)
        else:
            warnings["rewritten"] = (
                "the chat template writes an answer otherwise once the conversation goes on; each such answer is "
                "learned in a row of its own, as it is generated"
            )
            yield [Piece(after[:start]), Piece(after[start:], turn)]
    if pieces:
        yield pieces
    for kind, message in warnings.items():
        problems.add(kind, example.place, message, severity="warning")


def _unwritten(writer: _Writer, example: GenerationExample) -> str | None:
    """What of the row makes no difference to the text."""
    if example.tools and writer.write(example.messages) == replace(writer, tools=()).write(example.messages):
        return "tools"
    for i, message in enumerate(example.messages):
        if message.get("tool_calls"):
            without = {key: value for key, value in message.items() if key != "tool_calls"}
            if writer.write(example.messages) == writer.write(
                [*example.messages[:i], without, *example.messages[i + 1 :]]
            ):
                return "tool_calls"
    return None


def _start(before: str, after: str) -> int:
    """Where the answer starts in `after`."""
    return len(before) if after.startswith(before) else len(os.path.commonprefix((before, after)))


def _refusals() -> tuple[type[Exception], ...]:
    """What a template raises on turns that it was not made for."""
    import jinja2

    return jinja2.TemplateError, TypeError
