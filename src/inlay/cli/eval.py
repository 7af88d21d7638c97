"""inlay eval RUN_OR_ADAPTER [DATA]: the tuned model's scores, beside its base's."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..data.settings import DataSettings
from ..errors import SettingsError
from .parse import parse


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Score a trained adapter beside its base: on the data that it was trained with, or on DATA."""

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """A run's folder, or an adapter's."""
    data: Annotated[Positional[str | None], arg(metavar="DATA")] = None
    """Data with the same columns. Default: the run's own."""
    split: Literal["train", "valid", "test"] = "valid"
    """Which part of the data."""
    model: str | None = None
    """The base model, if it is no longer where it was."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Eval, arguments, "eval")
    result = evaluate(command)
    if command.json:
        print(json.dumps(result, ensure_ascii=False))
        return 0
    print(f"{result['rows']} rows of {command.split} from {result['data']}")
    print(f"{'':<8}{'accuracy':>10}{'macro-F1':>10}{'loss':>10}")
    for name in ("base", "tuned"):
        if (scores := result[name]) is None:
            print(f"{name:<8}  trained over: full fine-tuning changed the base itself")
        else:
            print(f"{name:<8}{scores['accuracy']:>10.4f}{scores['macro_f1']:>10.4f}{scores['loss']:>10.4f}")
    return 0


def evaluate(command: Eval) -> dict[str, Any]:
    from ..data.classification import load_classification
    from ..formats import peft
    from ..inference.classifier import open_classifier

    trained = peft.read_provenance(peft.adapter_folder(Path(command.adapter)))
    settings = DataSettings(**trained.get("data", {"path": command.data or ""}))
    if command.data is not None:
        settings = replace(settings, path=command.data)
    data = load_classification(settings)
    if command.split not in data.splits:
        raise SettingsError(f"{data.source} has no {command.split} split; it has {', '.join(data.splits)}")
    if tuple(trained.get("labels", data.labels)) != data.labels:
        raise SettingsError(
            f"{data.source} has the labels {', '.join(data.labels[:8])}; the adapter was trained on "
            f"{', '.join(trained['labels'][:8])}"
        )
    classifier = open_classifier(Path(command.adapter), command.model, command.device)
    rows = data.splits[command.split]
    base = classifier.base_scores(rows)
    return {
        "data": data.source,
        "split": command.split,
        "rows": len(rows),
        "base": base.as_dict() if base else None,
        "tuned": classifier.scores(rows).as_dict(),
    }
