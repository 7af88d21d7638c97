"""Rows of the generation formats, as far as they are described: their texts, and what is wrong with them.

Training on them is not part of this release.
"""

from typing import Any

from .formats import OPTIONAL_ROLES, Layout
from .problems import Problems, shown
from .rows import Row

# For each format whose rows are a list of turns: the keys of a turn for who speaks and for what is said, and who may.
_TURNS = {
    "messages": ("role", "content", ("system", "user", "assistant", "tool")),
    "conversations": (
        "from",
        "value",
        ("system", "human", "user", "gpt", "assistant", "function_call", "observation", "tool"),
    ),
}


def texts_of(row: Row, layout: Layout, problems: Problems) -> tuple[str, ...] | None:
    """What the row says, in order; None and a problem if it cannot be used."""
    if layout.format in _TURNS:
        column = layout.columns[layout.format]
        speaker, says, speakers = _TURNS[layout.format]
        return _turns(row, column, speaker, says, speakers, problems)
    texts = []
    for role, column in layout.columns.items():
        value = row.values.get(column)
        empty = value is None or (isinstance(value, str) and not value.strip())
        if empty and role not in OPTIONAL_ROLES:
            problems.add(("empty", column), row.place, f"{column} is empty; give the row a text or remove it")
            return None
        if not empty and not isinstance(value, str):
            problems.add(("no text", column), row.place, f"{column} is {shown(value)}, not a text")
            return None
        texts.append(value or "")
    return tuple(texts)


def _turns(
    row: Row, column: str, speaker: str, says: str, speakers: tuple[str, ...], problems: Problems
) -> tuple[str, ...] | None:
    turns: Any = row.values[column]
    if not isinstance(turns, list) or not turns:
        problems.add("no turns", row.place, f"{column} is {shown(turns)}; it must be a list of objects, and not empty")
        return None
    texts = []
    for i, turn in enumerate(turns):
        here = f"{column}[{i}]"
        if not isinstance(turn, dict) or speaker not in turn:
            problems.add("no speaker", row.place, f'{here} has no "{speaker}"; each must be an object with one')
            return None
        if turn[speaker] not in speakers:
            message = f"{here}.{speaker} is {shown(turn[speaker])}; allowed: {', '.join(speakers)}"
            problems.add("speaker", row.place, message)
            return None
        text = turn.get(says)
        if text is None and turn.get("tool_calls"):
            text = ""
        if not isinstance(text, str):
            problems.add("says", row.place, f"{here}.{says} is {shown(text)}, not a text")
            return None
        texts.append(text)
    return tuple(texts)
