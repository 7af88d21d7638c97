"""The turns of a conversation, as messages or as ShareGPT has them, checked and written as chat templates take them."""

from dataclasses import dataclass
from typing import TypeGuard, cast

from .message import Message
from .problems import Problems, listed, shown
from .rows import Row, read_json_text
from .tool_calls import read_calls
from .turn_weight import WEIGHT_KEYS, check_weight, read_weight

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


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    """The turns up to the last answer that is learned."""
    read_only: frozenset[int] = frozenset()
    """Turns of the assistant that the row wants to be read and not learned."""


def read_messages(row: Row, column: str, system: str | None, problems: Problems) -> Conversation | None:
    """Return the turns up to the last answer; None and a problem if one cannot be used, or none is an answer.

    `system` is the column of a system turn that stands outside the list.
    """
    turns = row.values[column]
    if not isinstance(turns, list) or not turns:
        problems.fault(
            "no turns", row.place, f"{column} is {shown(turns)}; it must be a list of objects, and not empty"
        )
        return None
    messages: list[Message] = []
    read_only: set[int] = set()
    if system is not None and (first := row.values.get(system)):
        if not isinstance(first, str):
            problems.fault(("no text", system), row.place, f"{system} is {shown(first)}, not a text")
            return None
        messages.append({"role": "system", "content": first})
    # Either way to write a turn is found under either name of the column.
    sharegpt = isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]
    for i, turn in enumerate(turns):
        here = f"{column}[{i}]"
        message = (_sharegpt if sharegpt else _message)(turn, here, row.place, problems)
        if message is None:
            return None
        usable, learned = read_weight(turn, here, row.place, problems)
        if not usable or not check_weight(learned, message["role"], not messages, here, row.place, problems):
            return None
        if message["role"] == "assistant":
            if learned is False:
                read_only.add(len(messages))
            elif not (message["content"].strip() or message.get("tool_calls")):
                problems.fault(
                    "empty answer", row.place, f"{here} is an empty answer; give it a text or remove the row"
                )
                return None
        messages.append(message)
    return _up_to_the_last_answer(messages, read_only, column, row.place, problems)


def _up_to_the_last_answer(
    messages: list[Message], read_only: set[int], column: str, place: str, problems: Problems
) -> Conversation | None:
    roles = [message["role"] for message in messages]
    answers = [i for i, role in enumerate(roles) if role == "assistant"]
    if not answers or answers == [0]:
        there = " and ".join(dict.fromkeys(roles))
        found = "starts with its only assistant turn" if answers else f"has no assistant turn, only {there}"
        message = f"{column} {found}, so there is no answer to learn; complete the row or remove it"
        problems.fault(("no answer", bool(answers)), place, message)
        return None
    learned = [i for i in answers if i and i not in read_only]
    if not learned:
        message = f"{column} has no answer that is learned, as each has the weight 0; remove the row"
        problems.fault("nothing learned", place, message)
        return None
    if any(i - 1 in answers for i in learned):
        message = f"{column} has two assistant turns in a row; each is learned as it is, the second after the first"
        problems.add("two answers", place, message, severity="warning")
    if answers[-1] + 1 < len(messages):
        message = (
            f"{column} ends with a turn of {roles[-1]} that has no answer; what follows the last answer is left out"
        )
        problems.add("no final answer", place, message, severity="warning")
    end = learned[-1]
    return Conversation(tuple(messages[: end + 1]), frozenset(i for i in read_only if i < end))


def _message(turn: object, here: str, place: str, problems: Problems) -> Message | None:
    if not _spoken(turn, "role", ROLES, here, place, problems):
        return None
    message = _given(turn)
    if "tool_calls" in message:
        calls = read_calls(message["tool_calls"], f"{here}.tool_calls", place, problems)
        if calls is None:
            return None
        message["tool_calls"] = calls
    said = turn.get("content")
    text = "" if said is None and "tool_calls" in message else _text(said, f"{here}.content", place, problems)
    return None if text is None else _checked(message | {"content": text})


def _given(turn: dict[str, object]) -> dict[str, object]:
    """Return what the turn has but for its weight, without keys that are empty, which ask for nothing.

    Tables give every turn every key, and templates would take it for one that is there.
    """
    return {key: value for key, value in turn.items() if key not in WEIGHT_KEYS and value not in (None, "", [], {})}


def _checked(message: dict[str, object]) -> Message:
    """Say that a turn's role, content and calls were found to be what they must be."""
    return cast(Message, message)


def _text(content: object, here: str, place: str, problems: Problems) -> str | None:
    """Return what a turn says, be it a text or, as models that see have it, a list of one part that is a text."""
    if isinstance(content, str):
        return content
    found = f"is {shown(content)}, not a text"
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        kinds = [part.get("type") for part in content]
        other = next((kind for kind in kinds if kind != "text"), "text")
        if other != "text":
            found = f"has a part of type {shown(other)}; only texts are learned"
        elif len(content) > 1:
            found = f"has {len(content)} parts; write them as one text"
        elif set(content[0]) == {"type", "text"} and isinstance(content[0]["text"], str):
            return content[0]["text"]
        else:
            found = f"has a part with the keys {listed(content[0])}; it may have type and text"
    problems.fault(("says", found.partition(" ")[0]), place, f"{here} {found}")
    return None


def _sharegpt(turn: object, here: str, place: str, problems: Problems) -> Message | None:
    if not _spoken(turn, "from", tuple(SHAREGPT_ROLES), here, place, problems):
        return None
    text = turn.get("value")
    if not isinstance(text, str):
        problems.fault("says", place, f"{here}.value is {shown(text)}, not a text")
        return None
    others = {key: value for key, value in _given(turn).items() if key not in ("from", "value")}
    if taken := next((key for key in ("role", "content", "tool_calls") if key in others), None):
        problems.fault(
            "two forms", place, f"{here} has from and value, and {taken} as well; keep one way to write turns"
        )
        return None
    if turn["from"] != "function_call":
        return _checked(others | {"role": SHAREGPT_ROLES[str(turn["from"])], "content": text})
    try:
        call = read_json_text(text)
    except (ValueError, RecursionError):
        call = None
    calls = call if isinstance(call, list) else [call]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        problems.fault("call", place, f'{here}.value is {shown(text)}; a function_call is JSON with a "name"')
        return None
    tool_calls = [{"type": "function", "function": call} for call in calls]
    read = read_calls(tool_calls, f"{here}.value", place, problems)
    if read is None:
        return None
    return _checked(others | {"role": "assistant", "content": "", "tool_calls": read})


def _spoken(
    turn: object, speaker: str, speakers: tuple[str, ...], here: str, place: str, problems: Problems
) -> TypeGuard[dict[str, object]]:
    if not isinstance(turn, dict) or speaker not in turn:
        problems.fault("no speaker", place, f'{here} has no "{speaker}"; each must be an object with one')
        return False
    if not isinstance(turn[speaker], str) or turn[speaker] not in speakers:
        problems.fault("speaker", place, f"{here}.{speaker} is {shown(turn[speaker])}; allowed: {', '.join(speakers)}")
        return False
    return True
