"""Runs in processes that die: at a rename, or when they are killed."""

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from inlay.training.settings import RunSettings

DIED = 137
_PROCESSES = multiprocessing.get_context("forkserver")  # forked from one that has loaded what takes long to load
_PROCESSES.set_forkserver_preload(["inlay.training.going_on", "tests.reliability.kills"])


def started(settings: RunSettings[Any], dies_at: int | None = None, counts: str | None = None) -> BaseProcess:
    """A process that begins the run or goes on with it; it dies instead of its rename number `dies_at`, counted from
    zero, and writes to the file `counts` how many it has made."""
    process = _PROCESSES.Process(target=_work, args=(settings, dies_at, counts))
    process.start()
    return process


def finished(settings: RunSettings[Any], **how: Any) -> int | None:
    """The exit code of such a process."""
    process = started(settings, **how)
    process.join()
    return process.exitcode


def killed(settings: RunSettings[Any], steps: int, seconds: float) -> bool:
    """Whether the process was not done so many seconds after it had made so many steps, when it is killed."""
    before, process = _steps(settings), started(settings)
    while process.is_alive() and _steps(settings) < before + steps:
        time.sleep(0.002)
    process.join(seconds)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return False
    process.kill()
    process.join()
    return True


def _steps(settings: RunSettings[Any]) -> int:
    """How many the run has told of, again and again if it was stopped."""
    assert settings.out is not None
    path = Path(settings.out, "metrics.jsonl")
    return path.read_text().count('"event": "step"') if path.is_file() else 0


def _work(settings: RunSettings[Any], dies_at: int | None, counts: str | None) -> None:
    import torch

    from inlay.formats import files
    from inlay.training import run_output
    from inlay.training.going_on import go_on

    torch.set_num_threads(1)
    run_output.write_report = lambda *_: None  # it takes longer than the run
    sys.stdout = open(os.devnull, "w")
    made = 0

    def counted(rename: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            nonlocal made
            if made == dies_at:
                os._exit(DIED)
            made += 1
            return rename(*arguments)

        return wrapped

    os.replace, files._exchange = counted(os.replace), counted(files._exchange)
    go_on(settings)
    if counts is not None:
        Path(counts).write_text(str(made))
