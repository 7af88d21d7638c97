"""Why no setting that may be chosen makes a run fit in its memory, and what else there is to try."""

from ..cost.run_cost import RunCost
from ..show.units import bytes_text

_NUMBER = 4  # bytes of one that is trained


def why_not(cost: RunCost, process_bytes: float, limit: float, *, packed: bool, streamed: bool) -> str:
    """Say it of a run whose process would take so much; `packed` and `streamed` are said of its base."""
    beside, memory = process_bytes - cost.tensor_bytes, cost.step.memory
    if beside > limit:
        return f"no setting helps, as Python and the libraries alone take {bytes_text(beside)}"
    lasting = sum(memory[part] for part in ("weights", "adapter", "optimizer")) + _NUMBER * cost.step.trained
    of_base = memory["weights"] >= lasting / 2
    if lasting > limit and (packed or not of_base):
        return "what stays from step to step is too much; train less of the base, or a smaller one"
    if streamed:
        return "try shorter rows (--max-length) or a smaller base"
    packing = "" if packed else "--quantize nf4, "
    last = ", and as a last resort --stream" if not packed and of_base else ""
    return f"try {packing}shorter rows (--max-length) or a smaller base{last}"
