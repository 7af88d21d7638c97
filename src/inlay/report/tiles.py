"""The figures at the top of a report, each beside the base model's."""

import math

from ..formats.summary import Summary, kept_start
from ..show.forgetting import MOVED, Forgetting, interval_text, level
from ..show.peak import peak_text
from ..show.reach import left_out_text, virtual_tokens_text
from ..show.units import bytes_text, count_text, percent_text, seconds_text, signed, text_or_unknown
from ..tasks.page import Tile


def tiles(summary: Summary, of_task: list[Tile]) -> list[Tile]:
    """Return the tiles of any run, after those of its task."""
    trained_details, time_details, memory_details = [], [], []
    trainable, total = summary.get("trainable_parameters"), summary.get("total_parameters")
    if trainable is not None and total:
        trained_details.append(f"{percent_text(trainable / total)} of {count_text(total)}")
    if reach := summary.get("coverage"):
        tokens, share = reach.get("virtual_tokens"), percent_text(reach["share"])
        trained_details.append(virtual_tokens_text(tokens) if tokens else f"in layers with {share} of the body")
    if summary.get("adapter_bytes"):
        trained_details.append(f"adapter file {bytes_text(summary['adapter_bytes'])}")
    if summary.get("wall_seconds") is not None:
        time_details.append(f"{seconds_text(summary['wall_seconds'])} with loading and evaluation")
    if when := peak_text(summary.get("raised_peak"), summary.get("peak_memory_bytes")):
        memory_details.append(when)
    if summary.get("device") and summary.get("dtype"):
        memory_details.append(f"on {summary['device']}, {summary['dtype']}")
    if (device := summary.get("device_memory")) is not None:
        memory_details.append(f"tensors; {bytes_text(device['reserved_bytes'])} with what PyTorch keeps for the next")
        if device["beside_bytes"] is not None:
            memory_details.append(f"{bytes_text(device['beside_bytes'])} beside it: context, libraries, other programs")
    shown = [
        *of_task,
        *([_forgetting(forgotten)] if (forgotten := summary.get("forgetting")) else []),
        Tile(
            name="Training time",
            value=text_or_unknown(seconds_text, summary.get("train_seconds")),
            details=time_details,
        ),
        Tile(
            name="Peak memory",
            value=text_or_unknown(bytes_text, summary.get("peak_memory_bytes")),
            details=memory_details,
        ),
        Tile(
            name="Trained parameters",
            value=text_or_unknown(count_text, trainable),
            details=trained_details,
            more=("Left out", left) if reach and (left := left_out_text(reach)) else None,
        ),
    ]
    return [*shown, _steps(summary)] if len(shown) % 2 else shown  # rows of as many


def _steps(summary: Summary) -> Tile:
    planned, best = summary.get("planned_steps"), summary.get("best_step")
    details = [f"of {planned:,} planned"] if planned else []
    if best:
        details.append(f"the best after step {best:,}")
    elif kept_start(summary):
        details.append("none better than the start")
    return Tile(name="Optimizer steps", value=text_or_unknown("{:,}".format, summary.get("steps")), details=details)


def spans(count: int) -> list[int]:
    """Return how many of a row's twelve columns each tile takes, with at most four in a row and no row left short."""
    rows = math.ceil(count / 4)
    in_row = [count // rows + (row < count % rows) for row in range(rows)]
    return [12 // tiles for tiles in in_row for _ in range(tiles)]


def _forgetting(found: Forgetting) -> Tile:
    if found["measure"] == "loss":
        details = [f"{level(found)}: nats per token of general text", f"95 % interval {interval_text(found)}"]
        value = text_or_unknown(lambda value: signed(value, 3), found["value"])
        return Tile(name="Forgetting", value=value, details=details)
    details = [f"how far embeddings of general text moved ({MOVED})", f"95 % interval {interval_text(found)}"]
    return Tile(name="Forgetting", value=text_or_unknown("{:.3f}".format, found["value"]), details=details)
