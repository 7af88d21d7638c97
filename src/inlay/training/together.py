"""A run that several processes share: what is told of them, and what they must have alike."""

import socket

from .. import processes
from ..batches.batch import batch_count
from ..core.method import Method
from ..show.units import counted
from .checkpoint_fit import own_tensors
from .loop import marks
from .run_state import RunState, versions
from .settings import RunSettings, to_dict

_PLACES = ("model", "data", "retain", "out", "device")  # settings that may differ: what is found there may not


def told_of_processes(settings: RunSettings[Method]) -> str | None:
    """Say how several processes share each step; None if there is one."""
    if (count := processes.count()) == 1:
        return None
    machines = counted(len(set(processes.gathered(socket.gethostname()))), "machine")
    rows = settings.rows_at_once
    text = f"{count} processes on {machines} share each step, {counted(rows, 'row')} at once"
    if (idle := count - batch_count(settings.batch_size, rows)) <= 0:
        return text
    return f"{text}; {idle} of them {'has' if idle == 1 else 'have'} none: give a smaller --micro-batch-size"


def check_alike(state: RunState) -> None:
    """Raise ProcessLost if the processes do not train the same: no later step would tell."""
    if processes.count() == 1:
        return
    adapter, run = state.adapter, state.run
    assert adapter is not None
    tensors = own_tensors(adapter)
    asked = {f"the setting {name}": value for name, value in to_dict(state.asked).items() if name not in _PLACES}
    own = {f"the version of {name}": version for name, version in versions().items()}
    alike = {"the data": state.data, "the base": adapter.base_fingerprint, "dtype": run.dtype}
    processes.check_equal(alike | own | asked | dict(zip(tensors, marks(tensors.values()), strict=True)))
