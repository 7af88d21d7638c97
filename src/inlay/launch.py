"""How many processes were started together to train one adapter, as the environment tells each of them.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and so do accelerate launch
and what runs on clusters by either. Nothing here needs torch.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import SettingsError

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_OTHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_OF_ACCELERATE = {  # engines of accelerate's that would do what Inlay does, and how Inlay is told to
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "--shard divides the base over the processes, as ZeRO-3 does"),
    "ACCELERATE_USE_FSDP": ("FSDP", "--shard divides the base over the processes, by FSDP2"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "--shard divides the base over the processes"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        "a parallelism config",
        "every process has rows of its own, and --shard divides the base over them; layers and texts are not divided",
    ),
}
_MIXED = "ACCELERATE_MIXED_PRECISION"
STARTED_BY = "INLAY_STARTED_BY"  # the number of the process by which `inlay` has started several
_PATIENCE = "INLAY_PATIENCE"  # seconds that a process waits for another in one exchange
_TEN_MINUTES = 600.0


_begun: list[float] = []  # when the command of this process began, if it is one's


@contextmanager
def command() -> Iterator[None]:
    """Count the time since now, such as that of loading libraries, to the first run of the block."""
    _begun[:] = [time.perf_counter()]
    try:
        yield
    finally:
        _begun.clear()


def take_command_begin() -> float:
    """Return when the command began whose first run begins now; the time now for another run, or from Python."""
    return _begun.pop() if _begun else time.perf_counter()


def started() -> int:
    """Return how many processes were started together."""
    return number_in("WORLD_SIZE", 1)


def own_number() -> int:
    """Return this process's number among those that were started together, from 0 on."""
    return number_in("RANK", 0) if started() > 1 else 0


def is_left_behind() -> bool:
    """Tell whether the process by which `inlay` has started this one is gone: it was killed, and could not say so."""
    by = number_in(STARTED_BY, 0)
    return started() > 1 and by > 0 and os.getppid() != by


def patience() -> float:
    """Return the seconds that a process waits for another before it takes it for lost."""
    asked = os.environ.get(_PATIENCE, "")
    try:
        seconds = float(asked) if asked else _TEN_MINUTES
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 1e6:
        raise SettingsError(f"the environment variable {_PATIENCE} is {asked}; it takes seconds, from 1 to 1e6")
    return seconds


def check_alone() -> None:
    """Raise SettingsError if this process is one of several that would each do the same."""
    for name in ("WORLD_SIZE", *_OF_OTHERS):
        if number_in(name, 1) > 1:
            raise SettingsError(
                f"the environment variable {name} is {os.environ[name]}, and only train and resume run in several "
                "processes: each of these would do all of what is asked for; start it once, or unset the variable"
            )


def check_launcher() -> None:
    """Raise SettingsError for processes that do not learn how to find each other, or that wait for another engine."""
    patience()
    for name, (engine, instead) in _OF_ACCELERATE.items():
        if os.environ.get(name) == "true":
            raise SettingsError(
                f"accelerate was told to use {engine} ({name}), which Inlay does not; start with torchrun, or with "
                f"accelerate launch --multi_gpu and no more. In Inlay {instead}"
            )
    if (mixed := os.environ.get(_MIXED, "no")) not in ("", "no"):
        raise SettingsError(
            f"accelerate was told to compute in {mixed} ({_MIXED}), which Inlay does not ask it for; give accelerate "
            "launch --mixed_precision no, and Inlay --dtype"
        )
    if started() > 1:
        if missing := [name for name in _NEEDED if name not in os.environ]:
            raise SettingsError(
                f"WORLD_SIZE is {started()}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
                "set, by which the processes find each other; start them with torchrun, or on one machine with "
                f"--processes {started()}"
            )
        for name, most in (("RANK", started() - 1), ("MASTER_PORT", 65_535)):
            if not os.environ[name].isdecimal() or int(os.environ[name]) > most:
                raise SettingsError(
                    f"WORLD_SIZE is {started()}, and the environment variable {name} is {os.environ[name]!r}; it takes "
                    f"a number from 0 to {most}, which torchrun sets"
                )
        return
    for name in _OF_OTHERS:
        if number_in(name, 1) > 1:
            raise SettingsError(
                f"the environment variable {name} is {os.environ[name]}: each of so many processes would train an "
                "adapter of its own; start them with torchrun, which tells each of the others (docs/scale.md has the "
                "files for Slurm and Kubernetes), or unset the variable"
            )


def check_each_has_rows(batch_size: int, count: int) -> None:
    """Raise SettingsError for a step of fewer rows than there are processes that share it."""
    if batch_size < count:
        raise SettingsError(
            f"batch_size is {batch_size}, fewer rows than the {count} processes that share a step; start fewer"
        )


def number_in(name: str, default: int) -> int:
    """Return the number in an environment variable; the default if there is none."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
