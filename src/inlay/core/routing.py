"""Which adapters run: what was made active for good, and what each thread has chosen for a while with `using`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import AdapterStateError

_changes = threading.Lock()  # of the overrides of any model


@dataclass(frozen=True)
class Route:
    """A choice of adapters: by names for a whole batch, or by rows."""

    names: tuple[str, ...] = ()
    rows: dict[str, Tensor] | None = None  # adapter name -> the batch rows it serves; then `names` is empty
    row_count: int = 0  # rows of the batch that `rows` describes


@dataclass
class Routing:
    """One object per model, shared by all of its slots."""

    lasting: Route = field(default_factory=Route)
    overrides: dict[int, Route] = field(default_factory=dict)  # by thread
    only_override: Route | None = None  # if exactly one thread has one
    merged: str | None = None  # lives in the hosts' weights already

    def now(self) -> Route:
        """Return what runs in this thread. Raises AdapterStateError where that cannot be told."""
        if not self.overrides:
            return self.lasting
        if torch.compiler.is_compiling():  # a graph cannot ask which thread it runs in
            return self._only("a compiled model cannot tell whose adapters to run")
        here = threading.get_ident()
        if here in self.overrides:
            return self.overrides[here]
        if torch._C._current_graph_task_id() != -1 and here not in {t.ident for t in threading.enumerate()}:
            # An accelerator's backward pass, which runs the forward again for checkpointing in a thread of its own.
            return self._only("a backward pass that runs the forward again cannot tell whose adapters to run")
        return self.lasting

    @property
    def active(self) -> tuple[str, ...]:
        return self.now().names

    @property
    def rows(self) -> dict[str, Tensor] | None:
        return self.now().rows

    @contextmanager
    def during(self, route: Route) -> Iterator[None]:
        """Run this route in the thread that is here now, and afterwards what it ran before."""
        thread = threading.get_ident()
        before = self.override(route, thread)
        try:
            yield
        finally:
            self.override(before, thread)

    def override(self, route: Route | None, thread: int) -> Route | None:
        """Set what runs in a thread, None for what is active for good, and return what was set before."""
        with _changes:
            before = self.overrides.pop(thread, None)
            if route is not None:
                self.overrides[thread] = route
            self.only_override = next(iter(self.overrides.values())) if len(self.overrides) == 1 else None
        return before

    def _only(self, problem: str) -> Route:
        if self.only_override is None:
            raise AdapterStateError(
                f"{len(self.overrides)} threads are inside using(...) of one model, and {problem}; let one at a time in"
            )
        return self.only_override

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"overrides": {}, "only_override": None}  # no thread is inside `using` of a copy
