"""inlay eval RUN_OR_ADAPTER [DATA]: the tuned model's scores, beside its base's."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..data.settings import DataSettings
from ..errors import SettingsError
from ..training.journal import SCORES
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
    samples: int | None = None
    """Rows for which a language model writes texts, which BLEU and the like are of. Default: all."""
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
    names = {key: name for key, name in SCORES.items() if key in result["tuned"]}
    print(f"{'':<8}" + "".join(f"{name:>14}" for name in names.values()))
    for name in ("base", "tuned"):
        if (scores := result[name]) is None:
            print(f"{name:<8}  trained over: full fine-tuning changed the base itself")
        else:
            print(f"{name:<8}" + "".join(f"{scores[key]:>14.4f}" for key in names))
    return 0


def evaluate(command: Eval) -> dict[str, Any]:
    from ..formats import peft
    from ..inference.opened import task_of

    folder = Path(command.adapter)
    trained = peft.read_provenance(peft.adapter_folder(folder))
    settings = DataSettings(**trained.get("data", {"path": command.data or ""}))
    if command.data is not None:
        settings = replace(settings, path=command.data)
    scores = _of_texts if task_of(folder) == "causal" else _of_labels
    return {"data": settings.path, "split": command.split} | scores(command, settings, trained)


def _of_labels(command: Eval, settings: DataSettings, trained: dict[str, Any]) -> dict[str, Any]:
    from ..data.classification import load_classification
    from ..inference.classifier import open_classifier

    if command.samples is not None:
        raise SettingsError("--samples is for language models; this adapter gives labels, to every row")
    data = load_classification(settings)
    _check_split(command.split, data)
    if tuple(trained.get("labels", data.labels)) != data.labels:
        raise SettingsError(
            f"{data.source} has the labels {', '.join(data.labels[:8])}; the adapter was trained on "
            f"{', '.join(trained['labels'][:8])}"
        )
    classifier = open_classifier(Path(command.adapter), command.model, command.device)
    rows = data.splits[command.split]
    base = classifier.base_scores(rows)
    tuned = classifier.scores(rows)
    return {"rows": len(rows), "base": base.as_dict() if base else None, "tuned": tuned.as_dict()}


def _of_texts(command: Eval, settings: DataSettings, trained: dict[str, Any]) -> dict[str, Any]:
    from ..data.generation import load_generation
    from ..inference.generator import open_generator

    data = load_generation(settings)
    _check_split(command.split, data)
    generator = open_generator(Path(command.adapter), command.model, command.device)
    base, tuned = generator.scores(data, command.split, command.samples)
    rows = len(data.splits[command.split])
    return {"rows": rows, "base": base.as_dict() if base else None, "tuned": tuned.as_dict()}


def _check_split(split: str, data: Any) -> None:
    if split not in data.splits:
        raise SettingsError(f"{data.source} has no {split} split; it has {', '.join(data.splits)}")
