"""Texts to learn to write: answers in a conversation, completions of prompts, or texts as a whole."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

from ..errors import DataError
from .conversation import read_messages
from .examples import Examples, examples_of
from .formats import ANSWER_ROLES, Layout, OpenedData, open_data, rows_in_layout
from .holdout import FEWEST_ROWS, with_valid
from .message import Message, Tool
from .problems import Problems, listed, shown
from .rows import Row, text_in
from .settings import DataSettings
from .source import Source
from .tool_calls import read_tools

Form = Literal["chat", "completion", "text"]
FORMS: dict[str, Form] = {
    "messages": "chat",
    "conversations": "chat",
    "instruction": "chat",
    "prompt-completion": "completion",
    "text": "text",
}
"""How rows of each format are written for a model; see rendering.py."""

SHORTEST_PARTED = 2000  # characters: a text of which an end can be held out


@dataclass(frozen=True)
class GenerationExample:
    messages: tuple[Message, ...]
    """The turns; the last is the answer. A prompt and its completion are a user's turn and the assistant's; a text is
    one turn, the assistant's."""
    form: Form
    place: str
    references: tuple[str, ...] = ()
    """Every right answer, as far as there are any in words; the one that is learned is among them."""
    tools: tuple[Tool, ...] = ()
    """What the assistant may call, as the row describes it."""
    read_only: frozenset[int] = frozenset()
    """Turns of the assistant that are read and not learned, as the row has it."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What is said, turn by turn."""
        return tuple(_said(message) for message in self.messages)

    @property
    def answers(self) -> tuple[int, ...]:
        """The turns of a conversation that are learned. A turn of the assistant that opens it answers nothing."""
        roles = [message["role"] for message in self.messages]
        return tuple(i for i, role in enumerate(roles) if i and role == "assistant" and i not in self.read_only)

    @property
    def together(self) -> str:
        return "\0".join(self.texts[:-1]) or self.texts[-1]


def load_generation(settings: DataSettings) -> Examples[GenerationExample]:
    """Read the data's examples. Raises DataError, with a line for each kind of problem, unless all can be used."""
    return generation_in(open_data(settings))


def generation_in(opened: OpenedData, whole: bool = False) -> Examples[GenerationExample]:
    """Do what `load_generation` does with data that is open; `whole`: all rows as they are, none is held out."""
    settings, source, layout, problems = opened.settings, opened.source, opened.layout, opened.problems
    if layout.format not in FORMS:
        raise DataError(
            f"{settings.path}: the rows are in the format {layout.format} (columns {listed(layout.columns.values())}); "
            "generation needs texts to write: name their columns with data.prompt and data.completion, or read the "
            "texts without their labels with data.format text"
        )
    return examples_of(opened, parse_generation(source, layout, problems), whole, with_valid_texts)


def parse_generation(source: Source, layout: Layout, problems: Problems) -> dict[str, list[GenerationExample]]:
    """Return the usable examples of each split; the other rows are added to `problems`."""
    return {split: list(_examples(rows, layout, problems)) for split, rows in source.splits.items()}


def with_valid_texts(
    splits: dict[str, list[GenerationExample]], names: dict[str, str], fraction: float, problems: Problems
) -> tuple[dict[str, list[GenerationExample]], str | None]:
    """Do as `with_valid`; where train is a few long texts, such as a book, the end of each is held out instead."""
    train = splits["train"]
    if "valid" in splits or len(train) >= FEWEST_ROWS or any(example.form != "text" for example in train):
        return with_valid(splits, names, fraction, problems)
    parts = [(example, _end(example.texts[0], fraction)) for example in train]
    starts = [_part(example, example.texts[0][:cut].rstrip(), example.place) for example, cut in parts]
    ends = [_part(example, example.texts[0][cut:].lstrip(), f"{example.place} (end)") for example, cut in parts if cut]
    if not ends:
        return with_valid(splits, names, fraction, problems)
    others = {split: examples for split, examples in splits.items() if split != "train"}
    texts = "the text" if len(train) == 1 else "each long text"
    return {"train": starts, "valid": ends} | others, f"the last {100 * fraction:.2g} % of {texts} of {names['train']}"


def _end(text: str, fraction: float) -> int | None:
    """Find where the last `fraction` of the text starts, at a line's start or a word's; None for a short text."""
    if len(text) < SHORTEST_PARTED:
        return None
    half, start = len(text) // 2, int(len(text) * (1 - fraction))
    return next((cut for space in "\n " if (cut := text.rfind(space, half, start)) > 0), start)


def _part(example: GenerationExample, text: str, place: str) -> GenerationExample:
    return replace(example, messages=(Message(role="assistant", content=text),), place=place)


def _examples(rows: list[Row], layout: Layout, problems: Problems) -> Iterator[GenerationExample]:
    for row in rows_in_layout(rows, layout, problems):
        example = _example(_with_plain_line_ends(row, layout, problems), layout, problems)
        if example is not None:
            yield example


def _example(row: Row, layout: Layout, problems: Problems) -> GenerationExample | None:
    """Return the row as an example; None and a problem if it cannot be used."""
    columns, form = layout.columns, FORMS[layout.format]
    if layout.format in ("messages", "conversations"):
        talk = read_messages(row, columns[layout.format], columns.get("system"), problems)
        tools = read_tools(_value(row, columns, "tools"), columns.get("tools", ""), row.place, problems)
        if talk is None or tools is None:
            return None
        if set(row.absent) & set(columns.values()):
            message = (
                "a key that is null in an object is taken for one that is not there, as a table gives every object the "
                "keys of all; a null that is meant has to be in arguments that are JSON in a text"
            )
            problems.add("absent", row.place, message, severity="warning")
        answer = talk.messages[-1]["content"]
        references = (answer,) if answer.strip() else ()
        return GenerationExample(talk.messages, form, row.place, references, tools, talk.read_only)
    if form == "text":
        text = text_in(row, columns["text"], problems)
        return None if text is None else GenerationExample(_turns(text), form, row.place)
    asked = text_in(row, columns["instruction" if layout.format == "instruction" else "prompt"], problems)
    answers = _answers(row, columns, problems)
    more = _value(row, columns, "input")
    if more is not None and text_in(row, columns["input"], problems) is None:
        return None
    if asked is None or answers is None:
        return None
    if more is not None:
        asked = f"{asked}\n\n{more}"
    return GenerationExample(_turns(asked, answers[0]), form, row.place, answers)


def _turns(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")[-len(texts) :]
    return tuple(Message(role=role, content=text) for role, text in zip(roles, texts, strict=True))


def _answers(row: Row, columns: dict[str, str], problems: Problems) -> tuple[str, ...] | None:
    """Return the right answers, the one to learn first; None and a problem if there is none."""
    column = next((columns[role] for role in ANSWER_ROLES if role in columns), None)
    references = _value(row, columns, "references")
    if references is not None:
        if not _are_texts(references):
            message = f"{columns['references']} is {shown(references)}; it must be a list of texts, none of them empty"
            problems.fault("references", row.place, message)
            return None
        if column is None or row.values.get(column) is None:
            return tuple(references)
    if column is None:
        problems.fault(
            ("empty", "references"), row.place, f"{columns['references']} is empty; every row needs an answer"
        )
        return None
    answer = text_in(row, column, problems)
    return None if answer is None else tuple(dict.fromkeys((answer, *(references or ()))))


def _are_texts(references: object) -> TypeGuard[list[str]]:
    texts = references if isinstance(references, list) else []
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def _value(row: Row, columns: dict[str, str], role: str) -> object:
    """Look up a column that the row may leave out or leave empty; None then."""
    value = row.values.get(columns[role]) if role in columns else None
    return None if isinstance(value, str) and not value.strip() else value


def _with_plain_line_ends(row: Row, layout: Layout, problems: Problems) -> Row:
    """Return the row with \\n where its texts have \\r\\n: a model is not to learn what an editor does."""
    used = {column: row.values[column] for column in layout.columns.values() if column in row.values}
    plain = {column: _plain(value) for column, value in used.items()}
    if plain == used:
        return row
    message = "texts with Windows line ends (\\r\\n) are read with plain ones (\\n)"
    problems.add("line ends", row.place, message, severity="warning")
    return replace(row, values=row.values | plain)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\r\n", "\n") if "\r" in value else value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value


def _said(message: Message) -> str:
    calls = message.get("tool_calls")
    return message["content"] + (json.dumps(calls, ensure_ascii=False) if calls else "")
