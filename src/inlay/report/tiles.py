"""The figures at the top of a report, each beside the base model's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..show.units import bytes_text, count_text, percent_text, points_text, seconds_text, text_or_unknown
from ..stats import wilson_interval
from .forgetting import interval_text, level
from .reach import reach_text


@dataclass(frozen=True, kw_only=True)
class Tile:
    name: str
    value: str
    before: str | None = None
    """The base model's value."""
    details: list[str]


def tiles(summary: dict[str, Any]) -> list[Tile]:
    metrics = summary.get("metrics") or {}
    base, tuned = metrics.get("base") or {}, metrics.get("tuned") or {}
    trained_details, time_details, memory_details = [], [], []
    trainable, total = summary.get("trainable_parameters"), summary.get("total_parameters")
    if trainable is not None and total:
        trained_details.append(f"{percent_text(trainable / total)} of {count_text(total)}")
    if reach := summary.get("coverage"):
        trained_details.append(reach_text(reach))
    if summary.get("adapter_bytes"):
        trained_details.append(f"adapter file {bytes_text(summary['adapter_bytes'])}")
    if summary.get("wall_seconds") is not None:
        time_details.append(f"{seconds_text(summary['wall_seconds'])} with loading and evaluation")
    if summary.get("device") and summary.get("dtype"):
        memory_details.append(f"on {summary['device']}, {summary['dtype']}")
    of_scores = _of_texts if summary.get("task") == "causal" else _of_labels
    return [
        *of_scores(base, tuned, metrics, split_of(summary)),
        *([_forgetting(found)] if (found := summary.get("forgetting")) else []),
        Tile(
            name="Training time",
            value=text_or_unknown(seconds_text, summary.get("train_seconds")),
            details=time_details,
        ),
        Tile(
            name="Peak memory",
            value=text_or_unknown(bytes_text, summary.get("peak_memory_bytes")),
            details=memory_details,
        ),
        Tile(name="Trained parameters", value=text_or_unknown(count_text, trainable), details=trained_details),
    ]


def split_of(summary: dict[str, Any]) -> str:
    return (summary.get("metrics") or {}).get("split", "valid")


def _of_labels(base: dict[str, Any], tuned: dict[str, Any], metrics: dict[str, Any], split: str) -> list[Tile]:
    details = []
    if "accuracy" in base and "accuracy" in tuned:
        details.append(f"{points_text(tuned['accuracy'] - base['accuracy'])} points")
    if "accuracy" in tuned:
        low, high = wilson_interval(tuned["accuracy"], metrics["rows"])
        details.append(f"95 % interval {100 * low:.1f} to {percent_text(high)}")
    return [
        _score("Accuracy", base, tuned, "accuracy", percent_text, details),
        _score("Macro F1", base, tuned, "macro_f1", "{:.3f}".format, ["mean over the labels"]),
        _score("Loss", base, tuned, "loss", "{:.3f}".format, [f"on the {split} split"]),
    ]


def _of_texts(base: dict[str, Any], tuned: dict[str, Any], metrics: dict[str, Any], split: str) -> list[Tile]:
    """The loss; and of the texts that were written, what could be measured of them."""
    of_texts: tuple[tuple[str, str, Callable[[float], str], str], ...] = (
        ("Slots filled", "slots", percent_text, "texts that have every value of their prompt"),
        ("Exact match", "exact_match", percent_text, "texts that are a reference word for word"),
        ("BLEU", "bleu", "{:.1f}".format, "of 100, against all references"),
        ("ROUGE-L", "rouge_l", "{:.3f}".format, "mean F1 with the best reference"),
    )
    return [
        _score("Loss", base, tuned, "loss", "{:.3f}".format, [f"nats per learned token of the {split} split"]),
        _score("Perplexity", base, tuned, "perplexity", "{:.2f}".format, ["exp of the loss"]),
        *(_score(name, base, tuned, key, text, [why]) for name, key, text, why in of_texts if key in tuned),
    ]


def _forgetting(found: dict[str, Any]) -> Tile:
    if found["measure"] == "loss":
        details = [f"{level(found)}: nats per token of general text", f"95 % interval {interval_text(found)}"]
        return Tile(name="Forgetting", value=text_or_unknown("{:+.3f}".format, found["value"]), details=details)
    details = [f"of 1, CKA with the base; 95 % interval {interval_text(found)}"]
    return Tile(name="Geometry kept", value=text_or_unknown("{:.3f}".format, found["cka"]), details=details)


def _score(
    name: str, base: dict[str, Any], tuned: dict[str, Any], key: str, text: Callable[[float], str], details: list[str]
) -> Tile:
    before = text_or_unknown(text, base[key]) if key in base and key in tuned else None
    return Tile(name=name, before=before, value=text_or_unknown(text, tuned.get(key)), details=details)
