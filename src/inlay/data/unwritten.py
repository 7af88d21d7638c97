"""What of a row its chat template leaves out of the text, which a user would take for learned."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from .chat_template import ChatTemplate, refusals
from .generation import GenerationExample
from .message import Call, Message, Tool, function_of

_CHECKED = ("role", "content", "tool_calls")


@dataclass(frozen=True)
class Unwritten:
    """A part of a row that makes no difference to the text."""

    kind: str
    name: str
    """What a message calls it."""


class UnwrittenParts:
    """Finds them, one conversation after another: what depends on its shape alone is asked of the template once."""

    def __init__(self, template: ChatTemplate):
        self.template = template
        self._shapes: dict[Hashable, Unwritten | None] = {}
        self._tool_keys: set[str] = set()  # that were seen to be written

    def first(self, example: GenerationExample) -> Unwritten | None:
        """Return the first that the example has."""
        messages, tools = example.messages, example.tools
        shape = (
            bool(tools),
            tuple((message["role"], bool(message["content"]), *sorted(message)) for message in messages),
        )
        if shape not in self._shapes:
            self._shapes[shape] = self._silent_turn(messages, tools)
        if (silent := self._shapes[shape]) is not None:
            return silent
        return next((part for part, same in self._without(example) if same()), None)

    def _silent_turn(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Unwritten | None:
        """Find a turn whose words are not written, by words that occur nowhere else."""
        marked: list[Message] = [
            {**m, "content": f"zq{i}qz"} if m["content"].strip() else m for i, m in enumerate(messages)
        ]
        text = self._write(marked, tools)
        for i, message in enumerate(messages):
            if text is not None and message["content"].strip() and f"zq{i}qz" not in text:
                return Unwritten(f"content {message['role']}", f"content ({_turn(i, message)})")
        return None

    def _without(self, example: GenerationExample) -> Iterator[tuple[Unwritten, Callable[[], bool]]]:
        """Yield each part that may be left out, and whether the text is the same without it."""
        messages, tools = example.messages, example.tools
        if tools:
            yield Unwritten("tools", "tools"), lambda: self._same(example, messages, ())
            for key in dict.fromkeys(key for tool in tools for key in _keys_of_tool(tool)):
                if key not in self._tool_keys:
                    yield Unwritten(key, f"{key} of tools"), lambda key=key: self._tool_key_is_lost(example, key)
        for i, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                yield (
                    Unwritten("tool_calls", "tool_calls"),
                    self._asking(example, i, _without(message, "tool_calls")),
                )
                for key in dict.fromkeys(key for call in calls for key in _keys_of_call(call)):
                    cut: Message = {**message, "tool_calls": [_without_key_of(call, key) for call in calls]}
                    yield (
                        Unwritten(f"call {key}", f"{key} of tool_calls ({_turn(i, message)})"),
                        self._asking(example, i, cut),
                    )
            for key in message:
                if key not in _CHECKED and not _told_by_order(messages, i, key):
                    name = f"{key} ({_turn(i, message)})"
                    yield Unwritten(key, name), self._asking(example, i, _without(message, key))

    def _asking(self, example: GenerationExample, turn: int, other: Message) -> Callable[[], bool]:
        """Make the question whether the text is the same with another turn in the place of one, up to an answer's end
        and as a whole."""
        messages = example.messages

        def same() -> bool:
            ends = {len(messages), turn + 1} if turn in example.answers else {len(messages)}
            others = (*messages[:turn], other, *messages[turn + 1 :])
            return all(self._same(example, others[:end], example.tools, messages[:end]) for end in ends)

        return same

    def _tool_key_is_lost(self, example: GenerationExample, key: str) -> bool:
        lost = self._same(example, example.messages, [_without_key_of(tool, key) for tool in example.tools])
        if not lost:
            self._tool_keys.add(key)
        return lost

    def _same(
        self,
        example: GenerationExample,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        whole: Sequence[Message] | None = None,
    ) -> bool:
        other = self._write(messages, tools)
        return other is not None and other == self._write(whole or example.messages, example.tools)

    def _write(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
        """Write the turns; None if the template refuses them: what is missing then makes all the difference."""
        try:
            return self.template.write(messages, tools)
        except refusals():
            return None


def _turn(i: int, message: Message) -> str:
    return f"turn {i + 1}, {message['role']}"


def _keys_of_tool(tool: Tool) -> Iterable[str]:
    """List the keys that say something of a tool: that it is a function does not, as each is."""
    outer = [key for key in tool if key != "function" and (key, tool[key]) != ("type", "function")]
    return [*outer, *(function_of(tool) if "function" in tool else ())]


def _keys_of_call(call: Call) -> Iterable[str]:
    """List the keys that say something of a call: its number and its place are told by the order."""
    told = ("function", "id", "index")
    outer = [key for key in call if key not in told and (key, call[key]) != ("type", "function")]
    function = function_of(call) if "function" in call else {}
    return [key for key in (*outer, *function) if key != "name" and (key != "arguments" or function_of(call)[key])]


def _told_by_order(messages: Sequence[Message], turn: int, key: str) -> bool:
    """Tell whether the key of a tool's turn says which call it answers, and that is the one whose turn it is."""
    message = messages[turn]
    if message["role"] != "tool" or key not in ("tool_call_id", "name"):
        return False
    asked = max((i for i in range(turn) if messages[i].get("tool_calls")), default=None)
    if asked is None or any(other["role"] != "tool" for other in messages[asked + 1 : turn]):
        return False
    calls = messages[asked].get("tool_calls", [])
    if turn - asked > len(calls):
        return False
    call = calls[turn - asked - 1]
    return message.get(key) == (call.get("id") if key == "tool_call_id" else function_of(call)["name"])


def _without(message: Message, key: str) -> Message:
    return cast(Message, _without_key(dict(message), key))


def _without_key(entry: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in entry.items() if name != key}


def _without_key_of(entry: dict[str, object], key: str) -> dict[str, object]:
    """Take a key out of a call or a tool, or out of its function."""
    entry = _without_key(entry, key)
    return entry | {"function": _without_key(function_of(entry), key)} if "function" in entry else entry
