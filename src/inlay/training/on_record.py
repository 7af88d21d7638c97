"""What this machine's record is told of a run that is finished: what was said of it, and what it took."""

import torch

from ..cost.machine import copies, kernels, name_of
from ..cost.record import Taken, record
from .run_state import RunState


def add_to_record(state: RunState, process_bytes: int) -> None:
    """Add the run, whose process took so much, to the record; not one of which nothing was said, or that took no step,
    or that came after another in its process, as the record tells what a new process takes beside its tensors."""
    told, found, done, run = state.forecast, state.estimate, state.progress, state.run
    if told is None or told.cost is None or found is None or not done.step or not state.is_first:
        return
    machine, memory = told.machine, told.cost.step.memory
    record(
        Taken(
            device=machine.device.type,
            dtype=name_of(machine.dtype),
            threads=torch.get_num_threads(),
            task=machine.task,
            samples=machine.samples,
            method=run.settings.method.name,
            model=run.task.base.name,
            said_step_seconds=told.cost.step_seconds(machine.measured()),
            step_seconds=done.seconds / done.step,
            said_tensors=told.cost.tensor_bytes,
            tensors=found.step.peak,
            weights=memory["weights"] + memory["adapter"],
            copies=copies(told.cost.step.trained),
            kernels=kernels(told.cost),
            before=machine.before,
            process=process_bytes,
            text_seconds=state.text_seconds,
        )
    )
