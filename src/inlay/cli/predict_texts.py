"""inlay predict with a language model: the answer to a prompt, to every prompt of a file, or a conversation."""

import sys
from typing import Any

from ..data.classification import load_texts
from ..data.conversation import Message
from ..inference.generator import Generator, generator_of
from ..inference.opened import Found
from .predict import Predict, file_of, typed
from .screen import print_json

_PROMPTS = ("prompt", "instruction", "text")  # roles of the column that a row's prompt stands in


def main(command: Predict, found: Found, device: Any) -> None:
    columns: dict[str, str] = found.provenance.get("columns", {})
    prompts = None if command.input is None else _prompts(command.input, columns)
    generator = generator_of(found, device)
    if prompts is not None:
        for prompt, answer in zip(prompts, _answers(command, generator, [[_turn(p)] for p in prompts]), strict=True):
            _print(command, prompt, answer, alone=len(prompts) == 1)
        return
    said: list[Message] = []
    together = generator.converses and sys.stdin.isatty()
    for text in typed():
        said = [*said, _turn(text)] if together else [_turn(text)]
        (answer,) = _answers(command, generator, [said])
        said.append({"role": "assistant", "content": answer})
        _print(command, text, answer, alone=True)


def _prompts(text: str, columns: dict[str, str]) -> list[str]:
    if file_of(text) is None:
        return [text]
    column = next((columns[role] for role in _PROMPTS if role in columns), "prompt")
    return [prompt for prompt, _ in load_texts(text, {"text": column})]


def _answers(command: Predict, generator: Generator, conversations: list[list[Message]]) -> list[str]:
    return generator.answers(conversations, command.max_tokens, command.temperature)


def _turn(text: str) -> Message:
    return {"role": "user", "content": text}


def _print(command: Predict, prompt: str, answer: str, alone: bool) -> None:
    if command.json:
        entry: dict[str, Any] = {"prompt": prompt, "text": answer}
        print_json(entry)
    else:
        print(answer if alone else f"{' '.join(answer.split())}", flush=True)
