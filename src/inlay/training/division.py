"""How the steps of a run are divided: as was asked, and further since one did not fit in memory."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar, cast

from .. import processes
from ..attached.adapter import Adapter
from ..devices import free_unused
from ..machine import out_of_memory
from ..models.recompute import ALL, Recomputing, chosen
from ..models.sharding import check_recovers
from ..models.sites import Sites
from .journal import Journal
from .prepared import Prepared
from .shrinking import Shrunk, smaller

T = TypeVar("T")


@dataclass
class Division:
    """The micro-batches of a run, and the modules that are computed again."""

    run: Prepared
    adapter: Adapter
    sites: Sites
    shrunk: tuple[Shrunk, ...]  # each time that a step did not fit
    journal: Journal

    def __post_init__(self) -> None:
        self._recomputing = Recomputing(chosen(self.sites, ALL if self._recomputes else self.run.recomputed))
        if self.shrunk:
            self._divide_batches()

    def undo(self) -> None:
        self._recomputing.undo()

    @property
    def micro_batch_size(self) -> int:
        return self.shrunk[-1].micro_batch_size if self.shrunk else self.run.settings.rows_at_once

    @property
    def _recomputes(self) -> bool:
        return self.shrunk[-1].recomputes if self.shrunk else self.run.recomputed == ALL

    def shrink(self, step: int, why: str) -> Shrunk:
        """Divide the step, which ran out of memory, and those after it further. Raises DoesNotFit if it cannot."""
        has_blocks, batch_size = bool(self.sites.blocks), self.run.settings.batch_size
        found = smaller(step, self.micro_batch_size, batch_size, lambda: has_blocks, self._recomputes)
        self.shrunk = (*self.shrunk, found)
        self._divide_batches()
        if found.recomputes:
            self._recomputing.undo()
            self._recomputing = Recomputing(chosen(self.sites, ALL))
        self.journal.record("shrink", **asdict(found), why=why.partition(";")[0])
        return found

    def tried(self, attempt: Callable[[int], T]) -> T:
        """Return what `attempt` gives with a size of micro-batches, smaller ones if it runs out of memory."""
        while True:
            found, why = None, None
            try:
                found = attempt(self.micro_batch_size)
            except Exception as problem:
                if self.run.settings.on_oom == "stop" or (why := out_of_memory(problem)) is None:
                    raise
                check_recovers(self.adapter.model, why)
            if (why := next(filter(None, processes.gathered(why)), None)) is None:
                return cast(T, found)
            for p in self.adapter.parameters():
                p.grad = None
            free_unused()
            self.shrink(0, why)

    def _divide_batches(self) -> None:
        self.run.task.in_parts(self.micro_batch_size / self.run.settings.batch_size)
