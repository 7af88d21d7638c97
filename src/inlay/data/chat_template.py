"""What writes a conversation as text for a model: its tokenizer's chat template, or a plain one where it has none."""

from collections.abc import Sequence
from functools import cached_property

from ..models.tokenizer import Tokenizer
from .generation import Form
from .message import Message, Tool, function_of
from .tool_calls import objects_of_arguments, with_arguments

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


class ChatTemplate:
    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.own = bool(tokenizer.chat_template)
        self._text_wanted: bool | None = None  # of the arguments of a call; None until a call tells

    def writes(self, form: Form) -> bool:
        """Tell whether what has this form is a conversation for this model."""
        return form == "chat" or (form == "completion" and self.own)

    def write(self, messages: Sequence[Message], tools: Sequence[Tool] = (), answering: bool = False) -> str:
        """Return the turns; with `answering`, and what an answer starts after. Raises one of `refusals()` if it
        cannot.
        """
        text = self._apply(messages, tools, answering)
        return text if answering else text.removesuffix(self._closing)

    @cached_property
    def _closing(self) -> str:
        """The end-of-sequence token, where that follows the last turn of a conversation, which ends like any other.

        As it is not there when the conversation goes on, an answer would seem to end otherwise where it is the last.
        """
        asked, answered = Message(role="user", content="x"), Message(role="assistant", content="y")
        end = self.tokenizer.eos_token
        try:
            whole, longer = self._apply([asked, answered], ()), self._apply([asked, answered, asked], ())
        except refusals():
            return ""
        turns = whole.rstrip().removesuffix(end or "")
        ended = turns.rstrip().endswith(tuple(special_tokens(self.tokenizer).values()))
        goes_on = longer.startswith(turns) and not longer.startswith(whole.rstrip())
        return whole[len(turns) :] if ended and goes_on else ""

    def _apply(self, messages: Sequence[Message], tools: Sequence[Tool], answering: bool = False) -> str:
        if not any(message.get("tool_calls") for message in messages):
            return self._written(messages, tools, answering)
        if self._text_wanted is None:
            self._text_wanted = self._wants_text(messages, tools)
        return self._written(with_arguments(messages, as_text=bool(self._text_wanted)), tools, answering)

    def _wants_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> bool | None:
        """Return whether the template takes a call's arguments as JSON in a text, not as objects; None if these do not
        tell.

        Most write them as JSON, and a text would be encoded twice. Some put them into the text as they are, which
        fails with an object, or writes it as Python does.
        """
        arguments = objects_of_arguments(messages)
        if not arguments:
            return None
        found: list[str | None] = []
        for as_text in (False, True):
            try:
                found.append(self._written(with_arguments(messages, as_text), tools, False))
            except refusals():
                found.append(None)
        of_objects, of_texts = found
        if of_objects is None or of_texts is None:
            return None if of_objects == of_texts else of_objects is None
        if not any(arguments):
            return None
        texts = [text for message in with_arguments(messages, as_text=True) for text in _argument_texts(message)]
        as_python = any(repr(argument) in of_objects for argument in arguments)
        return as_python and any(text in of_texts and repr(text) not in of_texts for text in texts)

    def _written(self, messages: Sequence[Message], tools: Sequence[Tool], answering: bool) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=None if self.own else PLAIN_TEMPLATE,
            add_generation_prompt=answering,
            tokenize=False,
        )


def _argument_texts(message: Message) -> list[str]:
    arguments = (function_of(call).get("arguments") for call in message.get("tool_calls") or ())
    return [text for text in arguments if isinstance(text, str)]


def special_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the id and the text of each token that is no text, but for the one that stands for what is unknown."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
    if tokenizer.eos_token_id is not None:
        special.add(tokenizer.eos_token_id)  # which some have for the unknown as well
    ids = sorted(special)
    return dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))


def refusals() -> tuple[type[Exception], ...]:
    """Return what a template raises on turns that it was not made for; most of it comes from the functions that it
    calls.
    """
    import jinja2

    return (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    )
