"""The files of a run's folder, read for the report: whatever a failed or killed run left behind is enough."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .event import Event
from .summary import Summary


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run, as far as they are there."""

    folder: Path
    summary: Summary
    steps: list[Event]
    evaluations: list[Event]
    """On the split that the summary's metrics are about, from the start on: the base, or a head that was fitted."""
    notes: list[str]
    """What the run said of its data, its model and itself, each once: one that goes on says it again."""
    predictions: list[dict[str, Any]]
    """The lines of predictions.jsonl, which the task reads."""
    asked: str | None
    """run.yaml as it stands."""
    resolved: str | None
    """resolved.yaml as it stands."""
    damaged_lines: dict[str, int]
    """File name -> how many of its lines could not be read."""


def read_run(run: Path, summary: Summary | None = None) -> RunFiles:
    """Read all that the report needs. Raises DataError if no `summary` is given and the folder has no readable
    summary.json, or if its files are not those of a run."""
    from ..formats.read import guarded  # which loads torch

    with guarded(run, "files of a run", error=DataError):
        return _read_run(run, summary)


def _read_run(run: Path, summary: Summary | None) -> RunFiles:
    summary = _summary(run / "summary.json") if summary is None else summary
    events, damaged_events = _json_lines(run / "metrics.jsonl")
    predictions, damaged_predictions = _json_lines(run / "predictions.jsonl")
    split = (summary.get("metrics") or {}).get("split", "valid")
    damaged = {"metrics.jsonl": damaged_events, "predictions.jsonl": damaged_predictions}
    return RunFiles(
        folder=run,
        summary=summary,
        steps=_by_step(e for e in events if e["event"] == "step"),
        evaluations=_by_step(_curve(e for e in events if e["event"] == "evaluate" and e["split"] == split)),
        notes=list(dict.fromkeys(e["text"] for e in events if e["event"] == "note")),
        predictions=predictions,
        asked=_text(run / "run.yaml"),
        resolved=_text(run / "resolved.yaml"),
        damaged_lines={name: count for name, count in damaged.items() if count},
    )


def _summary(path: Path) -> Summary:
    if not path.is_file():
        raise DataError(f"{path.parent}: asked for a report; found no summary.json; name the folder of a run")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: asked for a report; the file is not JSON ({error.msg}); train again"
        ) from None


def _json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows, and how many lines are no JSON: a killed run leaves its last line cut, and may be resumed."""
    rows, damaged = [], 0
    # not str.splitlines, which also splits at U+2028 and other characters that JSON allows inside a string
    for line in (_text(path) or "").split("\n"):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                damaged += 1
    return rows, damaged


def _curve(evaluations: Iterable[Event]) -> Iterator[Event]:
    """Leave out the base where the training began at something better; a run that goes on tells of the base again."""
    found = list(evaluations)
    fitted = any(event.get("start") for event in found)
    return (event for event in found if event["step"] or event.get("start") or not fitted)


def _by_step(events: Iterable[Event]) -> list[Event]:
    """Put events in the order of the steps, each step once: a resumed run repeats those after its last checkpoint."""
    latest = {event["step"]: event for event in events}
    return [latest[step] for step in sorted(latest)]


def _text(path: Path) -> str | None:
    # "replace": the cut in a killed run's last line may fall inside a character
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
