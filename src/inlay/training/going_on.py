"""One call that begins a run or goes on with it: what a queue that may kill its jobs can repeat until it is done."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .. import processes
from ..core.method import Method
from ..errors import SettingsError
from ..formats.files import held, remove_unfinished
from ..formats.paths import path_of
from ..formats.summary import RunSummary
from ..machine import refusals
from .active_run import ActiveRun
from .asked import check_same_settings
from .checkpoint import has_checkpoint, read_summary, remove_checkpoint
from .ending import check_beaten
from .journal import Journal, Watcher
from .prepared import prepare_run
from .run import begun, go_on_from_checkpoint, train
from .score_parts import SCORE_PARTS
from .settings import RunSettings
from .shared_base import NoSharing
from .source_tasks import learn_sources, source_tasks, without_sources

_FILES = (  # that a run writes, but for run.yaml, which goes last
    "resolved.yaml",
    "metrics.jsonl",
    "log.txt",
    "summary.json",
    "report.html",
    "predictions.jsonl",
    SCORE_PARTS,
)
_FOLDERS = ("adapter", "checkpoints", "sources")


@refusals()
def go_on(
    settings: RunSettings[Method],
    watcher: Watcher = lambda _: None,
    command: Sequence[str] = (),
    *,
    bases: NoSharing | None = None,
) -> RunSummary:
    """Finish the run that the settings describe, in the folder `out` that they name: begin it, go on from its
    checkpoint, begin anew if it has none, or leave it alone if it is finished. Returns its summary.

    Raises as `train` and `resume` do, and SettingsError if the folder holds a run with other settings, unless it has
    kept nothing, as one that did not fit in memory.
    """
    if settings.out is None:
        raise SettingsError("--go-on needs --out: the folder in which the run goes on, or begins")
    folder, journal = path_of(settings.out), Journal(watcher)
    if not processes.from_first((folder / "run.yaml").is_file):
        return train(settings, watcher, command, bases=bases)
    folder = processes.mirrored(folder)
    with held(folder):
        summary = read_summary(folder)
        is_finished = summary is not None and summary.get("status") == "finished"
        if is_finished or has_checkpoint(folder) or (folder / "adapter").exists():  # else nothing of it would be lost
            check_same_settings(folder, settings)
        if summary is not None and is_finished:
            remove_checkpoint(folder)  # which a kill at the very end has left
            remove_unfinished(folder)
            journal.record("note", text=f"{folder} is finished: there is nothing to do")
            finished: RunSummary = {**summary, "folder": str(folder)}
            if settings.fail_below_baseline:
                check_beaten(finished)
            return finished
        if has_checkpoint(folder):
            return go_on_from_checkpoint(folder, journal, named=settings, bases=bases)
        run = prepare_run(without_sources(settings), journal, folder)
        journal.record("note", text=f"{folder} was stopped before it had a checkpoint: it begins anew")
        _clear(folder)
        sources = source_tasks(settings, folder)
        with begun(run, settings, journal):
            before = partial(learn_sources, tasks=sources, train=train)
            return ActiveRun(run, settings, journal, command, before=before, bases=bases).finish()


def _clear(folder: Path) -> None:
    """Remove what a run that cannot go on has written; what somebody else has put there stays."""
    remove_unfinished(folder)
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
