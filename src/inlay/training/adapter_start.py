"""What an adapter and a new head begin with: the method's own start, another adapter's tensors, what the base tells."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..attached.adapter import Adapter
from ..batches.batch import Batch, to_device
from ..methods import loading
from .prepared import Prepared


def begin(run: Prepared, adapter: Adapter, start: Path | None) -> str | None:
    """Start the attached adapter, from that in a folder if one is given; returns what is to be said of a head that was
    fitted. Raises CheckpointError if the folder's does not fit.
    """
    fit_head = partial(run.task.start_head, adapter, run.plan.steps * run.settings.batch_size)
    look_at_data = partial(run.settings.method.initialize_from_data, adapter, _first_batches(run))
    if start is None:
        told = fit_head()  # first: a method may look at gradients, which the head decides
        look_at_data()
        return told
    look_at_data()  # which may choose shapes
    loading.start_from(adapter, start)
    return fit_head()  # to the features that this adapter makes


def _first_batches(run: Prepared) -> Iterator[Batch]:
    """Yield training batches where the model is, for a method that looks at data before it starts."""
    for batch in run.task.batches(run.settings.batch_size, run.settings.seed):
        yield to_device(batch, run.device)
