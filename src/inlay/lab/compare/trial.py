"""One run of a comparison, and which runs a comparison has."""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.method import Method
from ...data.settings import DataSettings
from ...formats.files import held
from ...formats.read import guarded, read_json
from ...formats.summary import Summary
from ...registries import registered
from ...training.asked import check_same_settings
from ...training.checkpoint import read_summary
from ...training.settings import Recipe, RunSettings
from .settings import CompareSettings, Contender


@dataclass(frozen=True)
class Budget:
    """What every contender gets of a data set."""

    epochs: float
    max_length: int  # tokens of a text; the method that takes the most positions leaves them


_NUMBERS = ("trainable_parameters", "train_seconds", "peak_memory_bytes", "steps")  # of a summary, that tables show
EARLIER = "earlier.json"  # in a run's folder: the scores on the tasks that were learned before


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run whose folder tells whether it is finished."""

    label: str  # of its contender
    settings: RunSettings[Method]
    start: Path | None = None
    """The run whose adapter it trains on."""
    earlier: tuple[Path, ...] = ()
    """Runs that learned the tasks before this one, in their order: what is left of these is measured afterwards."""
    registered: tuple[object, ...] = field(default_factory=registered, repr=False, compare=False)
    """Methods, tasks and metrics that the process that runs it has to know."""
    task_file: Path | None = None
    """Its task with the data as tokens, if the comparison has made one."""
    searches: bool = False
    """It only tries a learning rate, which is judged on valid."""

    @property
    def folder(self) -> Path:
        assert self.settings.out is not None
        return Path(self.settings.out)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def needs(self) -> tuple[Path, ...]:
        """Runs that must be finished before this one begins."""
        return self.earlier

    def summary(self) -> Summary | None:
        """Return what the run wrote of itself; None if it never came to that. Raises CheckpointError if
        it is damaged.
        """
        summary = read_summary(self.folder)
        if summary is not None and summary.get("status") == "finished":
            with guarded(self.folder / "summary.json", "a run's summary"):
                metrics = summary["metrics"]
                _check_numbers({name: summary[name] for name in _NUMBERS})
                if metrics["tuned"] is None:
                    raise ValueError("it has no scores")
                _check_numbers(metrics["tuned"])
                _check_numbers(metrics["test"] or {})
        return summary

    def scores_on_earlier(self) -> list[dict[str, float]]:
        path = self.folder / EARLIER
        found = read_json(path, "a run's scores on earlier tasks") if path.is_file() else []
        with guarded(path, "a run's scores on earlier tasks"):
            for scores in found:
                _check_numbers(scores)
        return found

    @property
    def is_finished(self) -> bool:
        summary = self.summary()
        return (
            summary is not None
            and summary.get("status") == "finished"
            and len(self.scores_on_earlier()) == len(self.earlier)
        )

    def check_same_settings(self) -> None:
        """Raise SettingsError if the folder holds a run with other settings, which would pass for this one."""
        check_same_settings(self.folder, self.settings)

    def clear(self) -> None:
        """Make room for the run to begin anew: what an interrupted or failed one left is of no use.
        Raises SettingsError if the run is not over."""
        if self.folder.exists():
            with held(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)


def _check_numbers(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"its {name} is no number")


def run_settings(
    comparison: CompareSettings, contender: Contender, budget: Budget | None = None, **changes: object
) -> RunSettings[Method]:
    """Return the settings of one run: the comparison's, with the contender's method, the budget and the changes."""
    common: dict[str, Any] = {f.name: getattr(comparison, f.name) for f in dataclasses.fields(Recipe)}
    if contender.quantize != "none":
        common["quantize"] = contender.quantize
    if budget is not None:
        common |= dataclasses.asdict(budget)
    common |= changes
    return RunSettings(method=contender.method, **common)


def plain_trials(
    comparison: CompareSettings,
    contenders: list[Contender],
    folder: Path,
    rates: dict[str, float | None],
    budget: Budget,
) -> list[Trial]:
    """List every contender with every seed. The baseline comes last in each: it uses up the base that is shared."""
    in_order = sorted(contenders, key=lambda contender: contender.family == "baseline")
    return [
        Trial(
            label=contender.label,
            settings=run_settings(
                comparison,
                contender,
                out=str(folder / "runs" / f"{slug(contender.label)}-{seed}"),
                seed=seed,
                budget=budget,
                learning_rate=rates.get(contender.label),
            ),
        )
        for seed in range(comparison.seeds)
        for contender in in_order
    ]


def data_of(comparison: CompareSettings) -> tuple[DataSettings, ...]:
    """Name the data sets in the order in which they are learned."""
    return (comparison.data, *(other_data(comparison.data, path) for path in comparison.then))


def other_data(data: DataSettings, path: str) -> DataSettings:
    """Return the settings of data that is learned after `data`: its columns are found by themselves."""
    return DataSettings(
        path=path,
        valid_fraction=data.valid_fraction,
        train_rows=data.train_rows,
        eval_rows=data.eval_rows,
        skip_faulty=data.skip_faulty,
    )


def slug(text: str) -> str:
    """Return a name for files."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


def name_of_data(path: str) -> str:
    return slug(Path(path.removeprefix("builtin:")).name.split(".")[0]) or "data"
