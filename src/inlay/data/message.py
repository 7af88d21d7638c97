"""What a conversation is made of: turns, the tools that they may call, and the calls."""

from typing import NotRequired, TypedDict

Call = dict[str, object]
Tool = dict[str, object]


class Message(TypedDict):
    """A turn, and whatever else its row gives it."""

    role: str
    content: str
    tool_calls: NotRequired[list[Call]]


def function_of(entry: Call | Tool) -> dict[str, object]:
    """Return what a call or a tool is of: the object under "function", or itself where there is none; empty where
    something else than an object is there.
    """
    function = entry.get("function", entry)
    return function if isinstance(function, dict) else {}
