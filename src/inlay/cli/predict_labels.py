"""inlay predict with a classifier: labels for a text, for every text of a file, or for what is typed."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import SettingsError
from ..inference.classifier import Classifier, classifier_of
from ..inference.opened import Found
from ..outside import shown
from .predict import Predict, file_of, typed
from .screen import print_json

_SHOWN = 3


def main(command: Predict, found: Found, device: Any) -> None:
    columns: dict[str, str] | None = found.provenance.get("columns")
    texts = _texts(command, columns or {"text": "text"})
    classifier = classifier_of(found, device)
    takes_pairs = command.pair is not None if columns is None else "text_pair" in columns
    if takes_pairs != (command.pair is not None) and texts is not None and len(texts) == 1:
        raise SettingsError(
            "this model was trained on pairs of texts; give the second with --pair"
            if takes_pairs
            else "this model was trained on single texts; leave --pair out"
        )
    if texts is not None:
        _print(command, classifier, texts)
    else:
        for text in typed():
            _print(command, classifier, [(text, command.pair)])


def _texts(command: Predict, columns: dict[str, str]) -> list[tuple[str, str | None]] | None:
    """The texts to label; None to read them from standard input, one at a time."""
    if command.input is None:
        return None
    if file_of(command.input) is None:
        return [(command.input, command.pair)]
    from ..data.classification import load_texts

    return load_texts(command.input, {role: c for role, c in columns.items() if role != "label"})


def _print(command: Predict, classifier: Classifier, texts: list[tuple[str, str | None]]) -> None:
    found = classifier.log_probabilities(texts).exp()
    for (text, pair), row in zip(texts, found, strict=True):
        order = row.argsort(descending=True).tolist()
        ranked = [(classifier.labels[i], row[i].item()) for i in order]
        if command.json:
            entry: dict[str, Any] = {"text": text, "pair": pair, "label": ranked[0][0], "probability": ranked[0][1]}
            print_json(entry | {"probabilities": dict(ranked)})
        elif len(texts) == 1:
            print("\n".join(_bars(ranked[:_SHOWN])), flush=True)
        else:
            print(f"{shown(ranked[0][0])}\t{ranked[0][1]:.3f}\t{' '.join(text.split())}", flush=True)


def _bars(ranked: Iterable[tuple[str, float]]) -> Iterator[str]:
    for label, probability in ranked:
        yield f"{probability:>7.1%}  {'█' * round(24 * probability):<24}  {shown(label)}"
