"""Tasks learned one after another, and what becomes of the earlier ones.

Each contender learns the tasks in two ways. *Apart*: every task has an adapter of its own, trained on the untouched
base. *On and on*: the adapter that has learned one task is trained further on the next; full fine-tuning knows this way
only. The adapter goes on from the best step of the task before; optimizer and schedule begin anew.

With a_ti the score on task i after stage t (Lopez-Paz and Ranzato 2017, https://arxiv.org/abs/1706.08840; Chaudhry et
al. 2018, https://arxiv.org/abs/1801.10112), T tasks, higher scores being better:

    backward transfer   1/(T-1) Σ_{i<T} (a_Ti - a_ii)                      below zero: forgotten
    average forgetting  1/(T-1) Σ_{i<T} (max_{t<T} a_ti - a_Ti)

A classifier's tasks have different labels, so each keeps the head that was trained with it: a_ti is measured with the
head of task i as stage i left it, on the adapter (for full fine-tuning: on the body) as stage t left it. This is task-
incremental learning: which task a text belongs to is known. What is measured comes from the files: the run of task i
is opened as `inlay eval` opens it, and the tensors of stage t, heads aside, take the place of its own. Apart, nothing
takes their place; that zero is measured all the same.
"""

from dataclasses import dataclass
from pathlib import Path

from ...core.method import Method
from ...devices import pick_device
from ...errors import SettingsError
from ...formats import peft
from ...formats.read import read_yaml
from ...methods import loading
from ...training.settings import RunSettings
from .settings import CompareSettings, Contender
from .trial import Budget, Trial, name_of_data, other_data, run_settings, slug

APART, ON = "apart", "on and on"
Matrix = list[list[float]]  # row t has a_t0 … a_tt


@dataclass(frozen=True, kw_only=True)
class Sequence:
    label: str
    way: str
    seed: int
    stages: tuple[Trial, ...]  # the first is the plain run


def sequences(
    comparison: CompareSettings, contenders: list[Contender], first: list[Trial], folder: Path, budgets: list[Budget]
) -> list[Sequence]:
    """List both ways for every contender and seed; the baseline has no adapters to keep apart. `first` are the runs on
    DATA, `budgets` are those of each later data set.
    """
    found = []
    for trial in first:
        contender = next(c for c in contenders if c.label == trial.label)
        ways = (ON,) if contender.family == "baseline" else (APART, ON)
        for way in ways:
            stages = [trial]
            for number, (path, budget) in enumerate(zip(comparison.then, budgets, strict=True), start=2):
                name = f"{slug(trial.label)}-{trial.seed}-{number}-{name_of_data(path)}-{slug(way)}"
                settings = run_settings(
                    comparison,
                    contender,
                    out=str(folder / "runs" / name),
                    seed=trial.seed,
                    data=other_data(comparison.data, path),
                    budget=budget,
                    learning_rate=trial.settings.learning_rate,
                )
                stages.append(
                    Trial(
                        label=trial.label,
                        settings=settings,
                        start=stages[-1].folder if way == ON else None,
                        earlier=tuple(stage.folder for stage in stages),
                    )
                )
            found.append(Sequence(label=trial.label, way=way, seed=trial.seed, stages=tuple(stages)))
    return found


def scores_on_earlier(trial: Trial) -> list[dict[str, float]]:
    """Score each earlier task's model on its own data now that `trial` is trained: on test if there is one."""
    body = trial.folder if trial.start is not None else None
    return [_score(run, trial.settings, body) for run in trial.earlier]


def _score(run: Path, settings: RunSettings[Method], body: Path | None) -> dict[str, float]:
    """Score a run's model, on the base that the comparison names, with the `body` of another run if there is one."""
    from ...inference.evaluation import ready_to_score, scored_rows
    from ...inference.opened import find_adapter

    about = peft.read_provenance(peft.adapter_folder(run))
    device = pick_device(settings.device)
    found = find_adapter(run, settings.model)
    task = scored_rows(found.task, fetch=_is_asked_for(about.get("data"), run))
    split = "test" if "test" in task.data.splits else "valid"
    task = ready_to_score(found, task, split, device)
    opened = found.as_trained(device)
    if body is not None:
        loading.start_from(opened.adapter, body)
    return task.evaluate(opened.model, split).scores


def _is_asked_for(data: object, run: Path) -> bool:
    """Tell whether the comparison names these data, as the run's settings, which it has checked, do."""
    asked = read_yaml(run / "run.yaml", "a run's settings", error=SettingsError)
    return isinstance(data, dict) and isinstance(asked, dict) and data.get("path") == asked["data"]["path"]


def backward_transfer(a: Matrix) -> float:
    """Return what the later tasks gave the earlier ones on average; below zero, what they cost them."""
    last = len(a) - 1
    return sum(a[last][i] - a[i][i] for i in range(last)) / last


def average_forgetting(a: Matrix) -> float:
    """Return how far the earlier tasks are below the best that they ever were, on average."""
    last = len(a) - 1
    return sum(max(a[t][i] for t in range(i, last)) - a[last][i] for i in range(last)) / last
