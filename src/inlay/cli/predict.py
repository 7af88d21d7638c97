"""inlay predict RUN_OR_ADAPTER [INPUT]: what a trained model says to a text, to a file of them, or to what is typed."""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DataError, SettingsError
from .parse import parse

_OF_ONE_TASK = {"pair": "classify", "max_tokens": "causal", "temperature": "causal"}
_DOES = {"classify": "gives labels", "causal": "writes texts"}


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The label of a text and how probable it is, or the answer to a prompt; of each in a file; or of what you type."""

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """A run's folder, or an adapter's."""
    input: Annotated[Positional[str | None], arg(metavar="INPUT")] = None
    """A text, or a file: .txt with a text a line, or rows as for training. Default: standard input, a text a line; in
    a terminal a conversation, if the model was trained on some."""
    pair: str | None = None
    """The second text, for a classifier of text pairs."""
    max_tokens: int | None = None
    """Tokens of an answer at most, for a language model. Default: one and a half times the longest in training."""
    temperature: float = 0.0
    """How freely a language model chooses its words; 0: always the most probable."""
    model: str | None = None
    """The base model, if it is no longer where it was."""
    allow_download: bool = False
    """Fetch from a hub what only the adapter's files name, and what is not on this machine."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object per text."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise SettingsError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise SettingsError(f"temperature is {self.temperature}; it must be at least 0")


def main(arguments: list[str]) -> int:
    command = parse(Predict, arguments, "predict")
    from ..inference.opened import find_adapter
    from ..training.base import pick_device
    from .assumptions import say

    if command.input is not None:
        file_of(command.input)
    device = pick_device(command.device)
    found = find_adapter(Path(command.adapter), command.model, fetch=command.allow_download)
    task = "classify" if found.classifies else "causal"
    for field in dataclasses.fields(Predict):
        if _OF_ONE_TASK.get(field.name, task) != task and getattr(command, field.name) != field.default:
            raise SettingsError(f"--{field.name.replace('_', '-')} is not for this adapter, which {_DOES[task]}")
    if task == "causal":
        from . import predict_texts as predicting
    else:
        from . import predict_labels as predicting
    say(found)
    predicting.main(command, found, device)
    return 0


def file_of(text: str) -> Path | None:
    """The file that the input names; None if it is a text. Raises DataError if it is neither."""
    path = Path(text)
    if len(text) < 1000 and "\n" not in text:
        from ..data.rows import EXTENSIONS

        if path.is_file():
            return path
        if " " not in text and path.suffix in (*EXTENSIONS, ".txt", ".gz"):
            raise DataError(f"{text}: no such file; to use this as a text, add a space to it")
    if not text.strip():
        raise DataError("the text is empty; give one, or a file")
    return None


def typed() -> Iterator[str]:
    """What stands on each line of standard input; in a terminal up to an empty one."""
    if sys.stdin.isatty():
        print("one text a line; an empty line ends")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
        elif sys.stdin.isatty():
            return
