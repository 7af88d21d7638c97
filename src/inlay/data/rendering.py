"""An example as the text that a model reads, in pieces, of which some are learned.

A conversation is written by the model's chat template, and so are a prompt and its completion if it has one. What the
assistant says is found by writing the conversation with and without it, so any template will do:

    without   <|user|>Hi<|end|><|assistant|>
    with      <|user|>Hi<|end|><|assistant|>Hello!<|end|>
                                           ^^^^^^^^^^^^^ learned

Without a template of the model's own, a plain one writes conversations and instructions, a prompt and its completion
are written one after the other, with a line break between them unless the prompt ends with white space, and the
tokenizer's end-of-sequence token ends each answer.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import DataError
from .chat_template import ChatTemplate, refusals
from .generation import Form, GenerationExample
from .message import Message, Tool
from .problems import Problems, shown
from .unwritten import UnwrittenParts


@dataclass(frozen=True)
class Piece:
    text: str
    answer: int | None = None
    """The turn that this is the words of; None for what is only read."""


def pieces_of(
    template: ChatTemplate, example: GenerationExample, unwritten: UnwrittenParts, problems: Problems
) -> list[list[Piece]]:
    """Return the rows of the example, each with an answer at its end; none and a problem if the template cannot write
    it.

    There is one, or several where the template writes an answer otherwise once the conversation has gone on, as those
    of reasoning models do: then each such answer is learned as it is generated, in a row of its own.
    """
    if not template.writes(example.form):
        texts = example.texts
        return [[*(Piece(opening(prompt)) for prompt in texts[:-1]), Piece(texts[-1], len(texts) - 1)]]
    try:
        rows = list(_turn_by_turn(template, example, problems))
    except refusals() as refusal:
        message = f"the chat template refuses the conversation: {refusal}; change the row, or the model's template"
        problems.fault(("template", str(refusal)), example.place, message)
        return []
    if (lost := unwritten.first(example)) is not None:
        message = f"the chat template writes nothing of the row's {lost.name}; use one that does, or rows without"
        problems.fault(("unwritten", lost.kind), example.place, message)
        return []
    return rows


def prompt_text(template: ChatTemplate, messages: Sequence[Message], form: Form, tools: Sequence[Tool] = ()) -> str:
    """Return what the model reads before an answer, as in training. Raises DataError if its template refuses the
    turns.
    """
    if form == "text":
        return "".join(message["content"] for message in messages)
    if not template.writes(form):
        return "".join(opening(message["content"]) for message in messages)
    try:
        before = template.write(messages, tools, answering=True)
        after = template.write([*messages, Message(role="assistant", content="x")], tools)
    except refusals() as refusal:
        raise DataError(f"the chat template refuses the conversation: {refusal}; change what is asked") from None
    return before[: _start(before, after)]


def opening(prompt: str) -> str:
    """Write a prompt so that its completion can follow."""
    return prompt if prompt[-1:].isspace() else prompt + "\n"


def _turn_by_turn(template: ChatTemplate, example: GenerationExample, problems: Problems) -> Iterator[list[Piece]]:
    messages, tools, turns = example.messages, example.tools, example.answers
    whole, done, pieces, warnings = template.write(messages, tools), 0, [], {}
    for turn in turns:
        before = template.write(messages[:turn], tools, answering=True)
        after = whole if turn == turns[-1] else template.write(messages[: turn + 1], tools)
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


def _start(before: str, after: str) -> int:
    """Find where the answer starts in `after`."""
    return len(before) if after.startswith(before) else len(os.path.commonprefix((before, after)))
