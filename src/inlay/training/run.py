"""One run, from what was asked to the files that show what came of it: begun, or gone on with (active_run.py)."""

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml

from .. import processes
from ..bases.base import Base
from ..core.method import Method
from ..errors import CheckpointError, InvalidRequest, SettingsError
from ..formats.files import check_free, held, remove_unfinished, write_text
from ..formats.summary import RunSummary
from ..hub import offline
from ..machine import refusals
from ..show.units import counted
from ..tasks.task import Task
from .active_run import ActiveRun
from .checkpoint import anew, check_is_run, read_checkpoint
from .journal import Journal, Watcher, first_event
from .prepared import Prepared, free_folder, prepare_run, read_task
from .run_state import versions
from .settings import RunSettings, from_dict, non_default, to_dict
from .shared_base import NoSharing
from .source_tasks import learn_sources, source_tasks, without_sources


@refusals()
def train(
    settings: RunSettings[Method],
    watcher: Watcher = lambda _: None,
    command: Sequence[str] = (),
    *,
    resumable: bool = True,
    bases: NoSharing | None = None,
    start: Path | None = None,
    task: Task | None = None,
    begin: Callable[[Path], None] = lambda _: None,
) -> RunSummary:
    """Train one adapter and write its run's folder; returns the summary.

    `bases` lends the model, which is loaded if there is none; `task` has read the data, which are read if there is
    none. With `start`, the folder of an adapter by the same method on the same base, training goes on from its tensors,
    with new heads. `begin` writes what else belongs into the new folder.

    Raises InvalidRequest, having written nothing, for settings or data that cannot work; TrainingFailed, having written
    what there is, if the training does not work out. KeyboardInterrupt passes through after the same, and after the
    checkpoint that `resume` goes on from; a run that is part of another is not `resumable` by itself.
    """
    journal = Journal(watcher)
    prepared = prepare_run(without_sources(settings), journal, task=task)
    sources = source_tasks(settings, prepared.folder)
    new = {each for each in (prepared.folder, *prepared.folder.parents) if not each.exists()}
    with (
        _in_free_folder(prepared, settings) as run,
        _gone_if_refused(run.folder, new | ({run.folder} - {prepared.folder})),
        begun(run, settings, journal),
    ):
        if run.folder != prepared.folder:
            sources = source_tasks(settings, run.folder)
        begin(run.folder)
        if resumable:
            processes.remember("folder", str(run.folder.absolute()))
        before = partial(learn_sources, tasks=sources, train=train)
        active = ActiveRun(
            run, settings, journal, command, before=before, resumable=resumable, bases=bases, start=start
        )
        return active.finish()


@contextmanager
def _in_free_folder(run: Prepared, settings: RunSettings[Method]) -> Iterator[Prepared]:
    """Hold the run's folder, which must still be free: another run may have been faster. If nobody has asked for this
    one, it is then the next of its name. Raises SettingsError."""
    with ExitStack() as stack:

        def another() -> Path | None:
            """Hold the folder; returns the one to try in its place if that cannot be."""
            try:
                with ExitStack() as tried:
                    tried.enter_context(held(run.folder))
                    check_free(run.folder, "--out")
                    stack.push(tried.pop_all())
            except SettingsError:
                if settings.out is not None or (folder := free_folder(settings)) == run.folder:
                    raise
                return folder
            return None

        while (folder := processes.from_first(another)) is not None:
            run = replace(run, folder=processes.own_folder(folder))
        if not processes.is_first():
            stack.enter_context(held(run.folder))
        yield run


@contextmanager
def _gone_if_refused(folder: Path, new: Collection[Path]) -> Iterator[None]:
    """Empty a folder that was free if the run in it is refused, and has not told how it ended; remove it, and those
    that it lies in, if they are `new`.
    """
    try:
        yield
    except InvalidRequest:
        if not (folder / "summary.json").exists():
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for each in (folder, *folder.parents):
                if each in new:
                    with suppress(OSError):  # something else has been put there
                        each.rmdir()
        raise


@refusals()
def resume(
    folder: Path,
    watcher: Watcher = lambda _: None,
    *,
    fetch: bool = False,
    base: Base | None = None,
    bases: NoSharing | None = None,
    task: Task | None = None,
) -> RunSummary:
    """Finish the interrupted run in `folder` as if nothing had happened; returns its summary.

    A base and data that its files name are taken from this machine, and from a hub only with `fetch`; or from `task`,
    which has read both; or the data alone, with `base`. `bases` are as for `train`.

    Raises CheckpointError or another InvalidRequest, which leave it as it was, if it cannot go on; else as `train`.
    """
    processes.from_first(partial(check_is_run, folder))
    folder = processes.mirrored(folder)
    with held(folder):
        return go_on_from_checkpoint(folder, Journal(watcher), fetch=fetch, base=base, bases=bases, task=task)


@contextmanager
def begun(run: Prepared, settings: RunSettings[Method], journal: Journal) -> Iterator[None]:
    """Begin a run in a folder that is locked and has none: it gets its run.yaml, and what is told goes there."""
    remove_unfinished(run.folder)
    path = run.folder / "run.yaml"
    anew = path.exists()
    try:
        write_text(path, yaml.safe_dump(non_default(settings), sort_keys=False, allow_unicode=True))
    except OSError:  # it may be there nonetheless, and with it the folder is that of a run, and not free
        if not anew:
            path.unlink(missing_ok=True)
        raise
    with journal.opened(run.folder, new=True):
        yield


def go_on_from_checkpoint(
    folder: Path,
    journal: Journal,
    *,
    fetch: bool = False,
    named: RunSettings[Method] | None = None,
    base: Base | None = None,
    bases: NoSharing | None = None,
    task: Task | None = None,
) -> RunSummary:
    """Finish the run from the checkpoint in a folder that is held. A hub is asked with `fetch`, or if what the
    checkpoint names is what the user has `named`."""
    checkpoint = read_checkpoint(folder)
    settings = from_dict(checkpoint.identity.settings)
    if settings.learning_rate is None:  # of a version that did not keep it, whose rates were others
        begun_at = first_event(folder, "method").get("learning_rate")
        if begun_at is None:
            raise CheckpointError(
                f"{folder} was begun by an earlier version of Inlay, and {folder / 'metrics.jsonl'} no longer says at "
                f"which learning rate; put the file back, or begin anew: {anew(folder)}"
            )
        settings = replace(settings, learning_rate=begun_at)
    fetch = fetch or (named is not None and _names(settings) == _names(named))
    if base is not None:
        with offline(not fetch):
            task = read_task(settings, base, fetch=fetch)
    run = prepare_run(without_sources(settings), journal, folder, fetch=fetch, task=task)
    checkpoint.check(folder, run.task, run.text, run.plan)
    with journal.opened(folder), offline(not fetch):  # a method may read the base's tokenizer
        remove_unfinished(folder)
        if checkpoint.skipped is not None:
            step = checkpoint.progress["step"]
            journal.record("note", text=f"{checkpoint.skipped}; going on from the one before it, of step {step}")
        own = versions()
        others = [f"{k} {v}, not {own.get(k)}" for k, v in checkpoint.identity.versions.items() if own.get(k) != v]
        if others:
            journal.record("note", text=f"begun with {', '.join(others)}: what follows may differ in the last digits")
        _tell_of_threads(folder, journal)
        command = checkpoint.identity.command
        return ActiveRun(run, settings, journal, command, checkpoint=checkpoint, bases=bases).finish()


def _tell_of_threads(folder: Path, journal: Journal) -> None:
    """Say if the CPU has another number of threads than when the run began, as sums are then divided otherwise."""
    with suppress(CheckpointError):  # the file of events is not needed to go on
        begun, now = first_event(folder, "model").get("threads"), torch.get_num_threads()
        if begun not in (None, now):
            text = f"begun with {counted(begun, 'thread')} a process, not {now}: what follows may differ in the last"
            journal.record("note", text=f"{text} digits; OMP_NUM_THREADS={begun} keeps it the same")


def _names(settings: RunSettings[Method]) -> dict[str, object]:
    """Return all but what a run decides, where it is not asked for, and where its folder was."""
    return {
        name: value
        for name, value in to_dict(settings).items()
        if name not in ("out", "device", "dtype", "learning_rate")
    }
