"""Why no setting that may be chosen makes a run fit in its memory, and what else there is to try."""

from ..cost.run_cost import RunCost
from ..names import listed
from ..show.units import bytes_text

_NUMBER = 4  # bytes of one that is trained
_PACKED, _STREAMED = 0.7, 0.9  # of the base's bytes, that it takes less in 4 bits, and with its blocks in its files
_OF_ROWS = ("activations", "inputs", "loss", "temporaries")


def why_not(cost: RunCost, process_bytes: float, limit: float, *, packed: bool, streamed: bool) -> str:
    """Say it of a run whose process would take so much; `packed` and `streamed` are said of its base.

    Named is what saves enough by itself; if nothing does, all that does together.
    """
    memory, beside = cost.step.memory, process_bytes - cost.tensor_bytes
    if beside > limit:
        return f"no setting helps, as the process takes about {bytes_text(beside)} beside its tensors"
    lasting = sum(memory[part] for part in ("adapter", "optimizer")) + _NUMBER * cost.step.trained
    left = memory["weights"] * (1.0 if packed else 1 - _PACKED if not streamed else 1 - _STREAMED)
    if lasting + left > limit:
        return "what stays from step to step is too much; train less of the base, or a smaller one"
    saved = {"shorter rows (--max-length)": float(sum(memory[part] for part in _OF_ROWS))}
    if not packed and not streamed:
        saved = {"--quantize nf4": _PACKED * memory["weights"], **saved}
        saved["--stream as a last resort"] = _STREAMED * memory["weights"]
    excess = process_bytes - limit
    if enough := [name for name, bytes in saved.items() if bytes >= excess]:
        return f"try {listed([*enough, 'a smaller base'], 'or')}"
    both = {name: saved[name] for name in ("--quantize nf4", "shorter rows (--max-length)") if name in saved}
    if sum(both.values()) >= excess:
        return f"try {listed(list(both), 'and')} together, or a smaller base"
    return "too much by far; try a smaller base, or a method that trains less of it"
