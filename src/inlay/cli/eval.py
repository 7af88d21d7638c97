"""inlay eval RUN_OR_ADAPTER [DATA]: the tuned model's scores, beside its base's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

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
    allow_download: bool = False
    """Fetch from a hub what only the adapter's files name, and what is not on this machine."""
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
    from ..inference.evaluation import evaluation_data
    from ..inference.opened import find_adapter
    from ..training.base import pick_device
    from .assumptions import say

    device = pick_device(command.device)
    found = find_adapter(Path(command.adapter), command.model, fetch=command.allow_download)
    kind = "classify" if found.classifies else "causal"
    if found.classifies and command.samples is not None:
        raise SettingsError("--samples is for language models; this adapter gives labels, to every row")
    data = evaluation_data(found.provenance, kind, command.data, fetch=command.allow_download)
    if command.split not in data.splits:
        raise SettingsError(f"{data.source} has no {command.split} split; it has {', '.join(data.splits)}")
    say(found)
    base, tuned = (_of_labels if found.classifies else _of_texts)(command, found, device, data)
    return {
        "data": data.source,
        "split": command.split,
        "rows": len(data.splits[command.split]),
        "base": base.as_dict() if base else None,
        "tuned": tuned.as_dict(),
    }


def _of_labels(command: Eval, found: Any, device: Any, data: Any) -> tuple[Any, Any]:
    from ..inference.classifier import classifier_of

    classifier = classifier_of(found, device)
    rows = data.splits[command.split]
    return classifier.base_scores(rows), classifier.scores(rows)


def _of_texts(command: Eval, found: Any, device: Any, data: Any) -> tuple[Any, Any]:
    from ..inference.generator import generator_of

    return generator_of(found, device).scores(data, command.split, command.samples)
