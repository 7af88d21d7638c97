"""Tools and their calls as rows give them: as objects, or as JSON in a text, as OpenAI has arguments."""

import json
from collections.abc import Sequence
from typing import TypeGuard

from .message import Call, Message, Tool, function_of
from .problems import Problems, shown
from .rows import fault_in, read_json_text


def read_calls(given: object, here: str, place: str, problems: Problems) -> list[Call] | None:
    """Return the calls of a turn, each with a name and, if any, arguments: an object, or a text that spells one.

    None and a problem if they are none. `here` is what a message calls them.
    """
    calls: object = _spelled(given)
    if not _are_objects(calls) or not calls:
        problems.fault("tool calls", place, f"{here} is {shown(given)}; it must be a list of objects, and not empty")
        return None
    for i, call in enumerate(calls):
        function = function_of(call)
        where = f"{here}[{i}]" + (".function" if "function" in call else "")
        if not isinstance(function.get("name"), str) or not function["name"]:
            problems.fault("call's name", place, f'{where} has no "name"; it must say which tool is called')
            return None
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(_spelled(arguments), dict):
            message = f'{where}.arguments is {shown(arguments)}; it must be an object, or JSON of one, such as "{{}}"'
            problems.fault("arguments", place, message)
            return None
    return calls if _is_json(calls, here, place, problems) else None


def read_tools(given: object, column: str, place: str, problems: Problems) -> tuple[Tool, ...] | None:
    """Return the descriptions of tools, with their parameters as objects; None and a problem if they are none."""
    tools = _spelled(given)
    if not tools:
        return ()
    tools = [_spelled(tool) for tool in tools] if isinstance(tools, list) else tools
    if not _are_objects(tools):
        problems.fault("tools", place, f"{column} is {shown(given)}; it must be a list of objects")
        return None
    read = []
    for i, tool in enumerate(tools):
        function: object = tool.get("function", tool)
        if not isinstance(function, dict):
            problems.fault("tool", place, f"{column}[{i}].function is {shown(function)}; it must be an object")
            return None
        if (parameters := function.get("parameters")) is not None:
            spelled = _spelled(parameters)
            if not isinstance(spelled, dict):
                message = f"{column}[{i}] has parameters that are {shown(parameters)}; they must be an object"
                problems.fault("parameters", place, message)
                return None
            function = function | {"parameters": spelled}
        read.append(tool | {"function": function} if "function" in tool else function)
    return tuple(read) if _is_json(read, column, place, problems) else None


def with_arguments(messages: Sequence[Message], as_text: bool) -> list[Message]:
    """Write the arguments of all calls as JSON in a text, or as objects."""
    return [
        {**message, "tool_calls": [_with_arguments(call, as_text) for call in calls]}
        if (calls := message.get("tool_calls"))
        else message
        for message in messages
    ]


def objects_of_arguments(messages: Sequence[Message]) -> list[object]:
    """List the arguments of every call, as objects where a text spells one."""
    functions = (function_of(call) for message in messages for call in message.get("tool_calls") or ())
    return [_spelled(function["arguments"]) for function in functions if function.get("arguments") is not None]


def _with_arguments(call: Call, as_text: bool) -> Call:
    function = function_of(call)
    arguments = function.get("arguments")
    if arguments is None or isinstance(arguments, str) == as_text:
        return call
    function = function | {"arguments": json.dumps(arguments, ensure_ascii=False) if as_text else _spelled(arguments)}
    return call | {"function": function} if "function" in call else function


def _are_objects(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _spelled(value: object) -> object:
    """Read what a text spells as JSON; the text if it spells nothing, and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        spelled = read_json_text(value)
    except (ValueError, RecursionError):
        return value
    return value if fault_in(spelled) else spelled


def _is_json(value: object, here: str, place: str, problems: Problems) -> bool:
    """Tell whether the values are all such as JSON has; a problem if one is not, such as a date of a table."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as problem:
        problems.fault("no JSON", place, f"{here} cannot be written as JSON: {problem}; write it as texts and numbers")
        return False
    return True
