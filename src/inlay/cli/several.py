"""Several processes on this machine that train one adapter: torchrun's agent, which starts `inlay` so many times."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import INTERRUPTED_EXIT_CODE, ProcessLost, SettingsError
from ..launch import STARTED_BY, check_launcher, started

_UNTIL_KILLED = 3600  # seconds that a process which is told to stop has for its step and its checkpoint


def asks_for_several(count: int) -> bool:
    """Tell whether processes are to be started. Raises SettingsError if they were, and are another number, or if others
    would each start some."""
    if started() == 1:
        if count > 1:
            check_launcher()
        return count > 1
    if count not in (1, started()):
        raise SettingsError(
            f"--processes is {count}, and {started()} processes were started already, such as by torchrun; leave it out"
        )
    return False


def run_in_several(count: int, arguments: Sequence[str]) -> int:
    """Run `inlay` with these arguments in each of the processes; returns the exit code of the first that failed.

    Raises ProcessLost if the system has ended that one.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the first process says what failed
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(os.devnull),  # else it leaves a temporary folder
        shutdown_timeout=_UNTIL_KILLED,
    )
    path = () if sys.path[:1] == [os.getcwd()] else ("-P",)  # no file here is to hide a module, if it does not already
    try:
        with _surroundings(count):
            elastic_launch(config, sys.executable)(*path, "-m", "inlay", *arguments)
    except SignalException:
        return INTERRUPTED_EXIT_CODE
    except ChildFailedError as problem:
        number, failure = problem.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise ProcessLost(
                f"process {number} was ended by the system ({name}); the run goes on from its last checkpoint with "
                "inlay resume, if it has come to one"
            ) from None
        return failure.exitcode
    return 0


@contextmanager
def _surroundings(count: int) -> Iterator[None]:
    """Give the processes that are started in the block their threads, this one's number, and a folder for what is
    temporary, which is removed once they have ended, however they have."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="inlay-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // count)))
        os.environ |= {STARTED_BY: str(os.getpid()), **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
