"""The turns of a conversation, as messages or as ShareGPT has them, checked and written as chat templates take them."""

import json
from typing import Any

from .problems import Problems, shown
from .rows import Row

Message = dict[str, Any]
"""A turn: `role`, `content` and whatever else its row gives it, such as `tool_calls`."""

ROLES = ("system", "user", "assistant", "tool")
# What ShareGPT calls the roles; several names for one are in use.
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def read_messages(row: Row, column: str, system: str | None, problems: Problems) -> tuple[Message, ...] | None:
    """The turns up to the last answer; None and a problem if one cannot be used, or none is an answer.

    `system` is the column of a system turn that stands outside the list.
    """
    turns: Any = row.values[column]
    if not isinstance(turns, list) or not turns:
        problems.add("no turns", row.place, f"{column} is {shown(turns)}; it must be a list of objects, and not empty")
        return None
    messages = []
    if system is not None and (first := row.values.get(system)):
        if not isinstance(first, str):
            problems.add(("no text", system), row.place, f"{system} is {shown(first)}, not a text")
            return None
        messages.append({"role": "system", "content": first})
    # Either way to write a turn is found under either name of the column.
    sharegpt = isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]
    for i, turn in enumerate(turns):
        here = f"{column}[{i}]"
        message = (_sharegpt if sharegpt else _message)(turn, here, row.place, problems)
        if message is None:
            return None
        if message["role"] == "assistant" and not (message["content"].strip() or message.get("tool_calls")):
            problems.add("empty answer", row.place, f"{here} is an empty answer; give it a text or remove the row")
            return None
        messages.append(message)
    return _up_to_the_last_answer(messages, column, row.place, problems)


def _up_to_the_last_answer(
    messages: list[Message], column: str, place: str, problems: Problems
) -> tuple[Message, ...] | None:
    roles = [message["role"] for message in messages]
    answers = [i for i, role in enumerate(roles) if role == "assistant"]
    if not answers or answers == [0]:
        there = " and ".join(dict.fromkeys(roles))
        found = "starts with its only assistant turn" if answers else f"has no assistant turn, only {there}"
        message = f"{column} {found}, so there is no answer to learn; complete the row or remove it"
        problems.add(("no answer", bool(answers)), place, message)
        return None
    if any(i + 1 in answers for i in answers):
        message = f"{column} has two assistant turns in a row; each is learned as it is, the second after the first"
        problems.add("two answers", place, message, severity="warning")
    if answers[-1] + 1 < len(messages):
        message = (
            f"{column} ends with a turn of {roles[-1]} that has no answer; what follows the last answer is left out"
        )
        problems.add("no final answer", place, message, severity="warning")
    return tuple(messages[: answers[-1] + 1])


def _message(turn: Any, here: str, place: str, problems: Problems) -> Message | None:
    if not _spoken(turn, "role", ROLES, here, place, problems):
        return None
    # Tables (Parquet, the hub) give every turn every key, which templates take for one that is there.
    message = {key: value for key, value in turn.items() if value is not None}
    text = message.get("content", "" if message.get("tool_calls") else None)
    if not isinstance(text, str):
        problems.add("says", place, f"{here}.content is {shown(text)}, not a text")
        return None
    return message | {"content": text}


def _sharegpt(turn: Any, here: str, place: str, problems: Problems) -> Message | None:
    if not _spoken(turn, "from", tuple(SHAREGPT_ROLES), here, place, problems):
        return None
    text = turn.get("value")
    if not isinstance(text, str):
        problems.add("says", place, f"{here}.value is {shown(text)}, not a text")
        return None
    if turn["from"] != "function_call":
        return {"role": SHAREGPT_ROLES[turn["from"]], "content": text}
    try:
        call = json.loads(text)
    except ValueError:
        call = None
    calls = call if isinstance(call, list) else [call]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        problems.add("call", place, f'{here}.value is {shown(text)}; a function_call is JSON with a "name"')
        return None
    tool_calls = [{"type": "function", "function": call} for call in calls]
    return {"role": "assistant", "content": "", "tool_calls": tool_calls}


def _spoken(turn: Any, speaker: str, speakers: tuple[str, ...], here: str, place: str, problems: Problems) -> bool:
    if not isinstance(turn, dict) or speaker not in turn:
        problems.add("no speaker", place, f'{here} has no "{speaker}"; each must be an object with one')
        return False
    if turn[speaker] not in speakers:
        problems.add("speaker", place, f"{here}.{speaker} is {shown(turn[speaker])}; allowed: {', '.join(speakers)}")
        return False
    return True
