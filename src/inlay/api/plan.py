"""Plans from Python: what each method would take, before anything is loaded.

plan = inlay.plan("builtin:minilm", rows, methods=["lora", "full"], memory="4GB")
plan.table; plan.rows
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError, did_you_mean
from ..methods import FAMILIES, METHODS
from ..show.table import Column, Table
from ..show.units import bytes_text, count_text, seconds_text, text_or_unknown
from ..training.plan_settings import PlanSettings
from ..training.planning import Asked, NotPlanned, Planned, PlanResult
from ..training.planning import plan as plan_all
from .asked import named_method
from .given_data import given_data
from .given_model import given_model

_BAR = 10  # letters


def plan(
    model: str | Path,
    data: object = None,
    methods: Sequence[str | Method | Asked] = (),
    *,
    progress: Callable[[str], None] = lambda label: None,
    **settings: object,
) -> "Plan":
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
    if unknown := next((name for name in settings if name not in known | of_data), None):
        raise SettingsError(f"unknown setting {unknown}{did_you_mean(unknown, known | of_data)}")
    values: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
    reading: dict[str, Any] = {name: value for name, value in settings.items() if name in of_data}
    asked = [each if isinstance(each, Asked) else _asked(each) for each in methods] or list(_all())
    wanted = PlanSettings(methods=tuple(each.label for each in asked), **values)
    name = given_model(model, None).name
    if data is None or isinstance(data, DataSettings):
        return Plan(plan_all(name, data, wanted, asked, progress))
    with given_data(data) as rows:
        chosen = DataSettings(path=rows.path if isinstance(rows.path, str) else str(rows.path), **reading)
        return Plan(plan_all(name, chosen, wanted, asked, progress))


@dataclass(frozen=True, repr=False)
class Plan:
    """What each method would take."""

    result: PlanResult

    @property
    def rows(self) -> Sequence[Planned | NotPlanned]:
        return self.result.rows

    @property
    def table(self) -> Table:
        """One row a method, by family: its memory by part at the peak, its time and its file."""
        columns = [
            Column(name="method"),
            Column(name="trained", text=count_text, right=True),
            Column(name="file", text=bytes_text, right=True),
            *(Column(name=name, text=bytes_text, right=True) for name in _PARTS),
            Column(name="tensors", text=bytes_text, right=True),
            Column(name="process" if self.result.device == "cpu" else "device", text=bytes_text, right=True),
            Column(name="of the memory"),
            Column(name="step", text=_seconds, right=True),
            Column(name="run", text=_seconds, right=True),
        ]
        return Table(columns=columns, rows=[self._row(row) for row in self._by_family()])

    def _by_family(self) -> Iterator[Planned | NotPlanned]:
        planned = [row for row in self.rows if isinstance(row, Planned)]
        for family in FAMILIES:
            yield from (row for row in planned if row.method.family == family)
        yield from (row for row in self.rows if isinstance(row, NotPlanned))

    def _row(self, row: Planned | NotPlanned) -> list[object]:
        if isinstance(row, NotPlanned):
            return [row.label, row.why]
        memory = row.memory
        parts = [sum(memory[part] for part in own) for own in _PARTS.values()]
        used = row.process_bytes / self.result.memory
        bar = "█" * min(_BAR, round(_BAR * used)) + "░" * max(0, _BAR - round(_BAR * used))
        said = bar if row.fits else f"{_BAR * '█'} too much"
        return [
            row.label,
            row.trained_parameters,
            row.file_bytes,
            *parts,
            row.tensor_bytes,
            row.process_bytes,
            said,
            row.step_seconds,
            row.run_seconds,
        ]

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
            "memory_bytes": None if result.memory == float("inf") else round(result.memory),
            "earlier_runs": result.earlier_runs,
            "methods": {row.label: _object(row) for row in result.rows},
        }

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table.html()


_PARTS = {
    "weights": ("weights",),
    "adapter": ("adapter",),
    "gradients": ("gradients",),
    "optimizer": ("optimizer",),
    "activations": ("activations", "inputs"),
    "loss": ("loss",),
    "temporary": ("temporaries",),
}


def _object(row: Planned | NotPlanned) -> dict[str, object]:
    if isinstance(row, NotPlanned):
        return {"problem": row.why}
    return {
        "trained_parameters": row.trained_parameters,
        "file_bytes": row.file_bytes,
        "memory": dict(row.memory),
        "tensor_bytes": row.tensor_bytes,
        "evaluation_bytes": row.cost.evaluation_bytes,
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


def _asked(method: str | Method) -> Asked:
    chosen, implied = named_method(method)
    return Asked(label=method if isinstance(method, str) else method.name, method=chosen, **implied)


def _seconds(value: float) -> str:
    return text_or_unknown(seconds_text, value)
