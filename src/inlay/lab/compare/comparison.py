"""A comparison from what was asked to its report."""

import itertools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...attached.adapter import plan_attach
from ...bases.part import part_for_texts
from ...bases.quantized import quantize
from ...bases.streaming import check_files, check_streams
from ...data.settings import DataSettings
from ...devices import is_accelerator, pick_device
from ...errors import SettingsError, TargetError
from ...extras import check_installed
from ...formats.files import held, is_unfinished, remove_unfinished
from ...formats.paths import path_of
from ...methods import METHODS
from ...registries import registered
from ...show.units import counted
from ...tasks.task import Task
from ...training.journal import Journal, Watcher, first_event
from ...training.prepared import pick_dtype, prepare_run, read_task
from ...training.schedule import make_plan, planned_epochs
from . import cluster, search
from .advice import advise
from .executor import Executor, LocalExecutor
from .report import write_comparison
from .result import ComparisonResult
from .runner import Runner
from .script import check_can_start
from .sequence import Sequence as TaskSequence
from .sequence import sequences
from .settings import DEFAULT_METHODS, CompareSettings, Contender
from .table import make_table, sequence_rows
from .task_files import TaskFiles
from .trial import Budget, Trial, data_of, name_of_data, plain_trials, run_settings


def compare(
    comparison: CompareSettings,
    contenders: Sequence[Contender] = (),
    watcher: Watcher = lambda _: None,
    command: Sequence[str] = (),
    *,
    task: Task | None = None,
    begin: Callable[[Path], None] = lambda _: None,
) -> ComparisonResult:
    """Return every contender, by default one of each family and the baseline, is trained with every seed, and the
    folder has table, plots and advice. Goes on where an earlier call with the same settings was stopped; runs that
    failed are tried again.

    `task` has read the data, which are read if there is none; `begin` writes what else belongs into the folder.

    Raises InvalidRequest, with nothing trained, for settings or data that cannot work. KeyboardInterrupt passes through
    when the runs under way have been stopped.
    """
    if comparison.search:
        check_installed("optuna", "--search needs Optuna", "search")
    if comparison.cluster is not None:
        check_installed("ray", "--cluster needs Ray", "cluster")
    else:
        check_can_start([*registered(), *(contender.method for contender in contenders)])
    folder = path_of(default_folder(comparison))
    lora = _contender("lora")
    tasks = {
        data: (task if data == comparison.data else None) or read_task(run_settings(comparison, lora, data=data))
        for data in data_of(comparison)
    }
    contenders = list(contenders or _default_contenders(comparison, tasks[comparison.data]))
    (first, *later), tasks = _check(comparison, contenders, tasks)
    usual = _usual_rates(comparison, contenders, tasks[comparison.data], first)
    notes = [
        *(note for task in tasks.values() for note in task.skipped()),
        *_notes(comparison, contenders, first.epochs),
    ]
    rates: dict[str, float | None] = {}
    _check_folder(folder, plain_trials(comparison, contenders, folder, rates, first), comparison.search > 0)
    total = _count(comparison, contenders)
    with Runner(_executor(comparison, total, command), watcher) as runner, held(folder):
        remove_unfinished(folder, deep=False)  # the runs' folders may be others' to write
        begin(folder)
        runner.total = total
        with TaskFiles(folder) as runner.task_files:
            for data in list(tasks):
                runner.task_files.add(data, tasks.pop(data))  # of no use here any more
            searching = comparison.search * len(contenders)
            begins = {"event": "compare", "folder": str(folder), "runs": total, "searching": searching, "notes": notes}
            watcher(begins)
            looking = search.Search(comparison, folder, first, usual)
            if comparison.search:
                rates |= looking.run(contenders, runner)
                watcher({"event": "rates", "learning_rates": rates})
            trials = plain_trials(comparison, contenders, folder, rates, first)
            chains = sequences(comparison, contenders, trials, folder, later) if comparison.then else []
            of_chains = {stage.name: stage for chain in chains for stage in chain.stages[1:]}
            for trial in (*trials, *of_chains.values()):
                trial.check_same_settings()
            runner.run([*trials, *of_chains.values()])
    result = _result(comparison, contenders, folder, trials, chains, looking, runner, notes, command)
    write_comparison(result)
    return result


def _result(
    comparison: CompareSettings,
    contenders: Sequence[Contender],
    folder: Path,
    trials: Sequence[Trial],
    chains: Sequence[TaskSequence],
    looking: search.Search,
    runner: Runner,
    notes: Sequence[str],
    command: Sequence[str],
) -> ComparisonResult:
    table = make_table(contenders, trials, runner.failures)
    threads = sorted({t for trial in trials if (t := first_event(trial.folder, "model").get("threads")) is not None})
    if threads:
        counts = " or ".join(counted(n, "thread") for n in threads)
        notes = [*notes, f"Times are those of runs on {counts} each; several runs at a time slow one another down."]
    return ComparisonResult(
        comparison=comparison,
        contenders=tuple(contenders),
        folder=folder,
        table=table,
        advice=advise(table, searched=bool(looking.tried)),
        sequences=tuple(sequence_rows(chains, runner.failures)),
        tried=tuple(looking.tried),
        notes=tuple(notes),
        command=shlex.join(command),
    )


def default_folder(comparison: CompareSettings) -> str:
    """Name the folder that the settings ask for, or the one that is taken without."""
    return comparison.out or f"runs/compare-{name_of_data(comparison.data.path)}"


def _default_contenders(comparison: CompareSettings, task: Task) -> list[Contender]:
    """Pick of each family the first that fits the model; a family of which none does is left out."""
    found = []
    for names in DEFAULT_METHODS:
        fitting = (contender for contender in map(_contender, names) if _fits(contender, comparison, task))
        found += itertools.islice(fitting, 1)
    return found


def _contender(name: str) -> Contender:
    return Contender(label=name, method=METHODS[name](), quantize="none")


def _fits(contender: Contender, comparison: CompareSettings, task: Task) -> bool:
    try:
        _check_fits(contender, comparison, task)
    except TargetError:
        return False
    return True


def _check(
    comparison: CompareSettings, contenders: Sequence[Contender], tasks: dict[DataSettings, Task]
) -> tuple[list[Budget], dict[DataSettings, Task]]:
    """Check that every contender fits the model, before any weights are loaded; returns what each of them gets of each
    data set, and the tasks with their data as tokens."""
    shortest = min(contenders, key=lambda contender: contender.method.epochs)
    tightest = max(contenders, key=lambda contender: contender.method.virtual_tokens)
    budgets, with_tokens = [], {}
    for data, task in tasks.items():
        asked = run_settings(comparison, tightest, data=data, out=None)
        run = prepare_run(asked, Journal(lambda _: None), task=task)
        with_tokens[data] = run.task
        epochs = planned_epochs(len(run.task.lengths("train")), run_settings(comparison, shortest, data=data))
        budgets.append(Budget(epochs, run.max_length))
        for contender in contenders:
            _check_fits(contender, comparison, task)
    return budgets, with_tokens


def _usual_rates(
    comparison: CompareSettings, contenders: Sequence[Contender], task: Task, budget: Budget
) -> dict[str, float]:
    """Return the learning rate that each contender has if none is searched for."""
    asked = {c.label: run_settings(comparison, c, budget=budget) for c in contenders}
    rows = len(task.lengths("train"))
    return {label: make_plan(rows, settings, task).learning_rate for label, settings in asked.items()}


def _check_fits(contender: Contender, comparison: CompareSettings, task: Task) -> None:
    """Raise TargetError if the method does not fit the model."""
    empty = task.empty()
    if "nf4" in (contender.quantize, comparison.quantize):
        quantize(empty, pick_dtype(comparison, pick_device(comparison.device)))
    planned = plan_attach(empty, contender.method, part=part_for_texts(empty, task.base.config).name)
    if comparison.stream:
        check_streams(planned)
        check_files(task.base.path)
    if comparison.shard:
        raise SettingsError(
            "shard is on, which shares the base out among the processes of a run, and each run of a comparison has "
            "one; leave --shard out, or train the methods one after the other with inlay train"
        )


def _check_folder(folder: Path, trials: Sequence[Trial], rates_are_searched: bool) -> None:
    """Raise SettingsError if the folder holds something else than runs of this comparison."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"--out {folder} is a file; name a folder")
    known = {"runs", "search", "rows", "report.html", "report.md", "report.csv"}
    found = [path for path in folder.iterdir() if not is_unfinished(path)] if folder.is_dir() else []
    strange = sorted(path.name for path in found if path.name not in known)
    if strange:
        raise SettingsError(f"--out {folder} holds {strange[0]}, which is no comparison's; name another folder")
    if not rates_are_searched:
        for trial in trials:
            trial.check_same_settings()


def _executor(comparison: CompareSettings, total: int, command: Sequence[str]) -> Executor:
    if comparison.cluster is not None:
        return cluster.Cluster.connect(comparison, command)
    device = pick_device(comparison.device)
    if comparison.jobs is None and not is_accelerator(device):
        return LocalExecutor(1, command, most=min(total, torch.get_num_threads()))
    several = torch.accelerator.device_count() if is_accelerator(device) and device.index is None else 0
    if comparison.jobs is not None:
        return LocalExecutor(comparison.jobs, command, accelerators=several)
    most = min(total, max(several, torch.get_num_threads()))  # each keeps a core busy
    return LocalExecutor(max(1, min(several, total)), command, most=most, accelerators=several)


def _count(comparison: CompareSettings, contenders: Sequence[Contender]) -> int:
    plain = comparison.seeds * len(contenders)
    ways = sum(1 if contender.family == "baseline" else 2 for contender in contenders)
    return plain + comparison.search * len(contenders) + comparison.seeds * ways * len(comparison.then)


def _notes(comparison: CompareSettings, contenders: Sequence[Contender], epochs: float) -> list[str]:
    """Return what a reader would not expect."""
    if comparison.epochs is not None:
        return []
    longer = [c for c in contenders if c.method.epochs > epochs]
    return [
        f"{c.label} trains for {c.method.epochs:g} epochs by default; here it has {epochs:g} like the others. "
        f"--epochs {c.method.epochs:g} gives all of them as many."
        for c in longer
    ]
