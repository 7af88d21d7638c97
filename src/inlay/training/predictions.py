"""predictions.jsonl: what the tuned model says of rows of the evaluation split, beside the base."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..data.classification import Example
from ..formats.files import as_json, write_text


def write_predictions(
    path: Path, examples: Sequence[Example], labels: Sequence[str], tuned: Tensor, base: Tensor
) -> None:
    """`tuned` and `base` are the (rows, labels) log-probabilities of the two."""
    lines = []
    for example, tuned_row, base_row in zip(examples, tuned.exp(), base, strict=True):
        predicted = int(tuned_row.argmax())
        entry = {
            "text": example.text,
            "pair": example.pair,
            "label": labels[example.label],
            "predicted": labels[predicted],
            "probability": round(tuned_row[predicted].item(), 6),
            "label_probability": round(tuned_row[example.label].item(), 6),
            "base_predicted": labels[int(base_row.argmax())],
        }
        lines.append(as_json(entry) + "\n")
    write_text(path, "".join(lines))


def write_text_predictions(
    path: Path, prompts: Sequence[str], references: Sequence[Sequence[str]], tuned: Sequence[str], base: Sequence[str]
) -> None:
    """Of the first rows: what the two write after each prompt. `base` may be empty, if there is none any more."""
    lines = []
    for i, (prompt, text) in enumerate(zip(prompts, tuned, strict=True)):
        entry = {"prompt": prompt, "references": list(references[i]), "text": text}
        entry["base_text"] = base[i] if base else None
        lines.append(as_json(entry) + "\n")
    write_text(path, "".join(lines))
