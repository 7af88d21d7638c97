"""Plans from Python: what each method would take, before anything is loaded.

plan = inlay.plan("builtin:minilm", rows, methods=["lora", "full"], memory="4GB")
plan.table; plan.rows
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..cost.busy import told_of_share
from ..data.settings import DataSettings
from ..elsewhere import SETTINGS
from ..errors import SettingsError, unknown_names
from ..methods import FAMILIES, METHODS
from ..names import listed
from ..show.table import Column, Table
from ..show.units import bytes_text, count_text, counted, seconds_text, text_or_unknown
from ..training.plan_settings import PlanSettings
from ..training.planning import Asked, NotPlanned, Planned, PlanResult
from ..training.planning import plan as plan_all
from .asked import named_method
from .given_data import given_data
from .given_model import given_model
from .plan_page import flags, render

_BAR = 6  # letters
_UNKNOWN_PROCESS = "The process may take a fifth more"


def plan(
    model: str | Path,
    data: object = None,
    methods: Sequence[str | Method | Asked] = (),
    *,
    progress: Callable[[str], None] = lambda label: None,
    **settings: object,
) -> "Costs":
    """Tell the memory, the time and the file of each method, without loading weights.

    Args:
        model: A folder, a Hugging Face model id, or a built-in; of a folder its config.json is enough.
        data: As for `inlay.train`; without it give `tokens`, and `rows` if the time of a run is wanted.
        methods: Names, or methods with their settings. Default: all.
        progress: Hears the name of each method as its turn comes.
        settings: Those of `inlay plan`, such as `memory="8GB"`.

    Raises SettingsError or DataError for what cannot be planned; a method that does not fit the model has its reason in
    its row.
    """
    known = {field.name for field in fields(PlanSettings)} - {"methods"}
    of_data = {field.name for field in fields(DataSettings)} - {"path"}
    if unknown := [name for name in settings if name not in known | of_data]:
        raise SettingsError(unknown_names("unknown setting", unknown, known | of_data, SETTINGS))
    values: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
    reading: dict[str, Any] = {name: value for name, value in settings.items() if name in of_data}
    asked = _told_apart([each if isinstance(each, Asked) else _asked(each) for each in methods] or _all())
    wanted = PlanSettings(methods=tuple(each.label for each in asked), **values)
    name = given_model(model, None).name
    if data is None or isinstance(data, DataSettings):
        return Costs(plan_all(name, data, wanted, asked, progress))
    with given_data(data) as rows:
        chosen = DataSettings(path=rows.path if isinstance(rows.path, str) else str(rows.path), **reading)
        return Costs(plan_all(name, chosen, wanted, asked, progress))


@dataclass(frozen=True, repr=False)
class Costs:
    """What each method would take."""

    result: PlanResult

    @property
    def rows(self) -> Sequence[Planned | NotPlanned]:
        return self.result.rows

    @property
    def planned(self) -> list[Planned]:
        """The methods that fit the model, by family; in each the one that takes least comes first."""
        known = list(FAMILIES)
        planned = [row for row in self.rows if isinstance(row, Planned)]
        return sorted(
            planned,
            key=lambda row: known.index(row.method.family) if row.method.family in known else len(known),
        )

    @property
    def table(self) -> Table:
        """One row a method, by family: what it trains and saves, its memory beside what there is, its time."""
        limit = self.result.memory
        most = limit if math.isfinite(limit) else max((row.process_bytes for row in self.planned), default=1)
        columns = [
            Column(name="method"),
            Column(name="trains", text=count_text, right=True),
            Column(name="file", text=bytes_text, right=True),
            Column(name="process" if self.result.device == "cpu" else "device", text=bytes_text, right=True),
            Column(name=f"of {bytes_text(limit)}" if math.isfinite(limit) else "compared"),
        ]
        if timed := any(row.step_seconds is not None for row in self.planned):
            columns += [Column(name=name, text=_seconds, right=True) for name in ("a step", "training")]
        rows = [
            [
                row.label,
                row.trained_parameters,
                row.file_bytes,
                row.process_bytes,
                _bar(row.process_bytes / most) if row.fits else "too much",
                *([row.step_seconds, row.run_seconds] if timed else []),
            ]
            for row in self.planned
        ]
        return Table(columns=columns, rows=rows)

    @property
    def parts(self) -> Table:
        """One row a method: where the memory of its tensors goes when they take most."""
        columns = [Column(name=name, right=bool(i), text=bytes_text) for i, name in enumerate(("method", *_COLUMNS))]
        rows = [
            [row.label, *(sum(row.memory[part] for part in own) for own in _COLUMNS.values()), row.cost.step.peak]
            for row in self.planned
        ]
        return Table(columns=[*columns, Column(name="all", right=True, text=bytes_text)], rows=rows)

    @property
    def steps(self) -> str:
        """How long the runs are and what a step has, in words."""
        counts = sorted({row.steps for row in self.planned})
        rows = counted(self.result.batch_size, "row")
        if not counts:
            return f"{rows} a step"
        most = counted(counts[-1], "step")
        return f"{counts[0]:,} to {most} of {rows}" if len(counts) > 1 else f"{most} of {rows}"

    @property
    def left_out(self) -> dict[str, str]:
        """The methods that do not fit the model, or cannot be followed, and why."""
        return {row.label: row.why for row in self.rows if isinstance(row, NotPlanned)}

    @property
    def changes(self) -> list[str]:
        """What makes the methods fit that do not, in words."""
        found: dict[str, list[str]] = {}
        for row in self.planned:
            if not row.fits:
                found.setdefault(flags(row.change) or row.why_not, []).append(row.label)
        return [
            f"{listed(labels, 'and')} fit{'s' * (len(labels) == 1)} with {what}"
            if what.startswith("--")
            else f"{listed(labels, 'and')}: {what}"
            for what, labels in found.items()
        ]

    @property
    def precision(self) -> str:
        """How far off the figures may be, in a sentence or two."""
        if self.result.earlier_runs:
            runs = counted(self.result.earlier_runs, "earlier run")
            what = "Time and process are" if self.result.runs_of_kind else "Time is"
            known = f"{what} corrected by {runs} on this machine."
            if not self.result.runs_of_kind and self.result.device == "cpu":
                known += f" {_UNKNOWN_PROCESS}: none of them was of this kind."
        elif self.result.device == "cpu":
            known = f"Tensors are exact. {_UNKNOWN_PROCESS}, and time be half off: no run here is on record yet."
        else:
            known = "Tensors are exact; the device has 500 MiB more for its context."
        if any(row.step_seconds is not None for row in self.planned):
            beside = ["scoring the base", *self._texts, "forgetting"]
            known += f" On top of the training's time come {listed(beside, 'and')}"
            known += ", and blocks that are read from the files." if self.result.stream else "."
            if told := told_of_share(self.result.processor_share):
                known += f" {told[0].upper()}{told[1:]}."
        return known

    @property
    def _texts(self) -> list[str]:
        """Say how many texts a run writes, and how long that takes as far as earlier runs tell."""
        count, each = self.result.texts, self.result.text_seconds
        if not count:
            return ["texts"] if count is None else []
        took = "no run of this model tells how long" if each is None else f"about {seconds_text(each * count)}"
        return [f"{counted(count, 'text')} ({took})"]

    @property
    def page(self) -> str:
        """The plan as a page that opens offline: HTML."""
        return render(self.result, self.planned, self.left_out, self.changes, self.precision)

    @property
    def shared(self) -> str:
        """Where the base is, and how many processes share a step, in words; empty if it is whole in one process."""
        result = self.result
        if result.processes == 1:
            return ", its blocks read from its files" if result.stream else ""
        if result.stream:
            base = "read its blocks from its files"
        else:
            base = "share the base out as well" if result.shard else "have the whole base each"
        return f", on each of {result.processes} processes, which {base}"

    def as_json(self) -> dict[str, object]:
        """Return the plan as one object: bytes and seconds."""
        result = self.result
        return {
            "model": result.model,
            "data": result.source,
            "device": result.device,
            "dtype": result.dtype,
            "batch_size": result.batch_size,
            "longest": result.longest,
            "memory_bytes": None if math.isinf(result.memory) else round(result.memory),
            "processes": result.processes,
            "shard": result.shard,
            "stream": result.stream,
            "earlier_runs": result.earlier_runs,
            "runs_of_kind": result.runs_of_kind,
            "texts": result.texts,
            "text_seconds": result.text_seconds,
            "processor_share": round(result.processor_share, 2),
            "skipped": list(result.skipped),
            "methods": {row.label: _object(row) for row in result.rows},
        }

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table.html()


_COLUMNS = {
    "frozen": ("weights",),
    "adapter": ("adapter",),
    "optimizer": ("gradients", "optimizer"),
    "activations": ("activations", "inputs"),
    "other": ("loss", "temporaries"),
}
"""The columns of a table that a terminal has room for, and what each holds."""


def _bar(share: float) -> str:
    """Draw a share in blocks and their eighths, with its per cent."""
    whole, eighths = divmod(round(8 * _BAR * min(share, 1.0)), 8)
    blocks = "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()
    return f"{blocks or '▏':<{_BAR}}{f'{100 * share:.0f} %':>5}"


def _object(row: Planned | NotPlanned) -> dict[str, object]:
    if isinstance(row, NotPlanned):
        return {"problem": row.why}
    return {
        "trained_parameters": row.trained_parameters,
        "file_bytes": row.file_bytes,
        "memory": dict(row.memory),
        "tensor_bytes": row.tensor_bytes,
        "process_bytes": row.process_bytes,
        "steps": row.steps,
        "step_seconds": row.step_seconds,
        "run_seconds": row.run_seconds,
        "fits": row.fits,
        "change": row.change,
    }


def _all() -> Iterator[Asked]:
    for name, method in METHODS.items():
        yield Asked(label=name, method=method())


def _told_apart(asked: Iterable[Asked]) -> list[Asked]:
    """Give the methods of one label numbers from the second on, as `lora-2`."""
    seen = Counter[str]()
    found = []
    for each in asked:
        seen[each.label] += 1
        found.append(replace(each, label=f"{each.label}-{count}") if (count := seen[each.label]) > 1 else each)
    return found


def _asked(method: str | Method) -> Asked:
    chosen, implied = named_method(method)
    return Asked(label=method if isinstance(method, str) else method.name, method=chosen, **implied)


def _seconds(value: float) -> str:
    return text_or_unknown(seconds_text, value)
