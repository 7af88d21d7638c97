"""Why no setting that may be chosen makes a run fit in its memory, and what else there is to try."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..cost.machine import Machine
from ..cost.run_cost import RunCost, Way
from ..errors import InlayError
from ..models.recompute import ALL
from ..names import listed
from ..show.units import bytes_text

_NUMBER = 4  # bytes of one that is trained
_OF_ROWS = ("activations", "inputs", "loss", "temporaries")


def why_not(way: Way, cost: RunCost, machine: Machine, cost_of: Callable[[Way], RunCost]) -> str:
    """Say it of the way that takes least. Other ways are followed by `cost_of`, so that what is named to try does
    help."""
    memory, process_bytes, limit = cost.step.memory, machine.taken(cost), machine.memory
    if machine.samples and replace(machine, samples=False).fits(cost):
        return "try --samples 0, as a process that writes no texts takes less"
    if (beside := process_bytes - cost.tensor_bytes) > limit:
        return f"no setting helps, as the process takes about {bytes_text(beside)} beside its tensors"
    needed = cost.tensor_bytes - memory["weights"]  # what the step takes that is not of the frozen base
    others = _others(way, packs=needed <= limit)
    enough = [flag for flag, other in others if _fits(other, machine, cost_of)]
    if sum(memory[part] for part in _OF_ROWS) >= process_bytes - limit:
        enough.insert(0, "shorter rows (--max-length)")
    if enough:
        return f"try {listed([*enough, 'a smaller base'], 'or')}"
    lasting = sum(memory[part] for part in ("weights", "adapter", "optimizer")) + _NUMBER * cost.step.trained
    if lasting > limit:
        return "what stays from step to step is too much; train less of the base, or a smaller one"
    return "too much by far; try a smaller base, or a method that trains less of it"


def _others(way: Way, *, packs: bool) -> Iterator[tuple[str, Way]]:
    if not way.packed and not way.streamed:
        if packs:
            yield "--quantize nf4", replace(way, packed=True)
        yield "--stream as a last resort", replace(way, streamed=True, recompute=ALL)


def _fits(way: Way, machine: Machine, cost_of: Callable[[Way], RunCost]) -> bool:
    try:
        return machine.fits(cost_of(way))
    except InlayError:  # such as of a method that cannot train a base in 4 bits
        return False
