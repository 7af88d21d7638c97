"""inlay predict RUN_OR_ADAPTER [INPUT]: labels for a text, for every text of a file, or for what is typed."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import DataError, SettingsError
from .parse import parse

if TYPE_CHECKING:
    from ..inference.classifier import Classifier

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The label of a text and how probable it is; of each text of a file; or of what you type."""

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """A run's folder, or an adapter's."""
    input: Annotated[Positional[str | None], arg(metavar="INPUT")] = None
    """A text, or a file: .txt with a text a line, or rows as for training. Default: standard input, a text a line."""
    pair: str | None = None
    """The second text, for a model of text pairs."""
    model: str | None = None
    """The base model, if it is no longer where it was."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object per text."""


def main(arguments: list[str]) -> int:
    command = parse(Predict, arguments, "predict")
    from ..inference.classifier import open_classifier

    texts = _texts(command)
    classifier = open_classifier(Path(command.adapter), command.model, command.device)
    takes_pairs = "text_pair" in classifier.provenance["columns"]
    if takes_pairs != (command.pair is not None) and texts is not None and len(texts) == 1:
        raise SettingsError(
            "this model was trained on pairs of texts; give the second with --pair"
            if takes_pairs
            else "this model was trained on single texts; leave --pair out"
        )
    if texts is not None:
        _print(command, classifier, texts)
    else:
        for text in _typed():
            _print(command, classifier, [(text, command.pair)])
    return 0


def _texts(command: Predict) -> list[tuple[str, str | None]] | None:
    """The texts to label; None to read them from standard input, one at a time."""
    if command.input is None:
        return None
    path = Path(command.input)
    if len(command.input) < 1000 and "\n" not in command.input:
        from ..data.classification import load_texts
        from ..data.rows import EXTENSIONS
        from ..formats import peft

        if path.is_file():
            columns = peft.read_provenance(peft.adapter_folder(Path(command.adapter))).get("columns", {})
            return load_texts(command.input, {role: c for role, c in columns.items() if role != "label"})
        if " " not in command.input and path.suffix in (*EXTENSIONS, ".txt", ".gz"):
            raise DataError(f"{command.input}: no such file; to label this as a text, add a space to it")
    if not command.input.strip():
        raise DataError("the text is empty; give one, or a file")
    return [(command.input, command.pair)]


def _typed() -> Iterator[str]:
    if sys.stdin.isatty():
        print("one text a line; an empty line ends")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
        elif sys.stdin.isatty():
            return


def _print(command: Predict, classifier: "Classifier", texts: list[tuple[str, str | None]]) -> None:
    found = classifier.log_probabilities(texts).exp()
    for (text, pair), row in zip(texts, found, strict=True):
        order = row.argsort(descending=True).tolist()
        ranked = [(classifier.labels[i], row[i].item()) for i in order]
        if command.json:
            entry: dict[str, Any] = {"text": text, "pair": pair, "label": ranked[0][0], "probability": ranked[0][1]}
            print(json.dumps(entry | {"probabilities": dict(ranked)}, ensure_ascii=False), flush=True)
        elif len(texts) == 1:
            print("\n".join(_bars(ranked[:_SHOWN])), flush=True)
        else:
            print(f"{ranked[0][0]}\t{ranked[0][1]:.3f}\t{' '.join(text.split())}", flush=True)


def _bars(ranked: Iterable[tuple[str, float]]) -> Iterator[str]:
    for label, probability in ranked:
        yield f"{probability:>7.1%}  {'█' * round(24 * probability):<24}  {label}"
