"""Runs in processes that die: at a rename, or when they are killed."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from inlay.errors import INTERRUPTED_EXIT_CODE, InlayError
from inlay.training.settings import RunSettings

DIED = 137
_PROCESSES = multiprocessing.get_context("forkserver")  # forked from one that has loaded what takes long to load
_PROCESSES.set_forkserver_preload(["inlay.training.going_on", "tests.reliability.kills"])


def no_fault(number: int) -> None:
    """Leave the process as it is."""


def started(
    settings: RunSettings[Any],
    dies_at: int | None = None,
    counts: str | None = None,
    together: int = 1,
    fault: Callable[[int], None] = no_fault,
) -> list[BaseProcess]:
    """Processes that begin the run `together` or go on with it; the first dies instead of its rename number `dies_at`,
    counted from zero, and writes to the file `counts` how many it has made. `fault` is told each one's number."""
    port = free_port() if together > 1 else 0
    begun = []
    for number in range(together):
        place = {"RANK": number, "LOCAL_RANK": number, "MASTER_PORT": port} if together > 1 else {}
        found = {name: str(value) for name, value in place.items()}
        if place:
            found |= {"WORLD_SIZE": str(together), "LOCAL_WORLD_SIZE": str(together), "MASTER_ADDR": "127.0.0.1"}
        process = _PROCESSES.Process(
            target=_work, args=(settings, found, None if number else dies_at, None if number else counts, fault, number)
        )
        process.start()
        begun.append(process)
    return begun


def finished(settings: RunSettings[Any], **how: Any) -> int | None:
    """The exit code of such processes, if it is the same."""
    return ended(started(settings, **how))


def ended(begun: list[BaseProcess]) -> int | None:
    for process in begun:
        process.join()
    (code,) = {process.exitcode for process in begun}
    return code


def killed(settings: RunSettings[Any], steps: int, seconds: float, together: int = 1, victim: int = 0) -> bool:
    """Whether the processes were not done so many seconds after they had made so many steps, when one is killed."""
    before, begun = _steps(settings), started(settings, together=together)
    while begun[victim].is_alive() and _steps(settings) < before + steps:
        time.sleep(0.002)
    begun[victim].join(seconds)
    if begun[victim].exitcode is not None:
        assert ended(begun) == 0
        return False
    begun[victim].kill()
    for process in begun:
        process.join()
    return True


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def _steps(settings: RunSettings[Any]) -> int:
    """How many the run has told of, again and again if it was stopped."""
    assert settings.out is not None
    path = Path(settings.out, "metrics.jsonl")
    return path.read_text().count('"event": "step"') if path.is_file() else 0


def _work(
    settings: RunSettings[Any],
    place: dict[str, str],
    dies_at: int | None,
    counts: str | None,
    fault: Callable[[int], None],
    number: int,
) -> None:
    import torch

    from inlay.formats import files
    from inlay.processes import joined
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
    os.environ |= place
    fault(number)
    try:
        with joined():
            go_on(settings)
    except InlayError as problem:
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    if counts is not None:
        Path(counts).write_text(str(made))
