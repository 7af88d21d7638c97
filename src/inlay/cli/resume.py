"""inlay resume RUN: an interrupted run goes on as if nothing had happened."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ..launch import own_number
from ..ranges import Range
from .console import watching
from .next_steps import next_steps
from .parse import parse, take
from .screen import show
from .several import asks_for_several, run_in_several


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue an interrupted run from its checkpoint, with the settings that it has, to the result that it would have
    had.

    A run writes a checkpoint when Ctrl-C, a closed terminal or SIGTERM stops it, and every --checkpoint-minutes in case
    it is killed. Its data and its base model must be what they were. `inlay train … --out RUN --go-on` begins a run or
    goes on with it.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """The run's folder."""
    allow_download: bool = False
    """Download the base or the data that the run's files name, if this machine lacks them."""
    processes: Annotated[int, Range(1, 10_000)] = 1
    """Processes of this machine that share each step; it need not be the number that the run had."""
    json: bool = False
    """Print one JSON event per line instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Resume, arguments, "resume")
    if asks_for_several(command.processes):
        return run_in_several(command.processes, ["resume", *take(arguments, "--processes")[1]])
    with watching(command.json) as watcher:
        from ..api.training import resume

        run = resume(command.run, progress=watcher, allow_download=command.allow_download)
    if not command.json and own_number() == 0:  # which has the run's folder
        show(next_steps(run))
    return 0
