"""inlay plan MODEL [DATA]: what each method would take, before anything is loaded."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..data.settings import DataSettings
from ..show.units import counted
from ..training.plan_settings import PlanSettings
from .arguments import Model, OtherData
from .parse import parse
from .screen import print_json, show, width

if TYPE_CHECKING:
    from ..api.plan import Costs


@dataclass(frozen=True, kw_only=True)
class PlanArguments(PlanSettings):
    """Tell what each method would take of memory and time, by a step that is followed without weights or values.

    Without DATA give --tokens, the length of a row. MODEL may be a folder with a config.json alone.
    """

    model: Model
    data: OtherData = OtherData()
    methods: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    json: bool = False
    """Print one JSON object instead of text."""


_OWN = [field.name for field in dataclasses.fields(PlanSettings)]
_TITLES = {**dict.fromkeys(_OWN, "The run"), "data.": "The data", "json": "The output"}


def main(arguments: list[str]) -> int:
    asked = parse(PlanArguments, arguments, "plan", titles=_TITLES)
    from ..api.plan import plan
    from ..training.planning import Asked
    from .compare import contender

    contenders = [contender(label) for label in asked.methods]
    chosen = [Asked(label=each.label, method=each.method, quantize=each.quantize) for each in contenders]
    data = None if asked.data.path is None else DataSettings(path=asked.data.path, **asked.data.asked())
    settings = {field.name: getattr(asked, field.name) for field in dataclasses.fields(PlanSettings)}
    del settings["methods"]
    found = plan(asked.model, data, chosen, progress=_progress(asked.json), **settings)
    if asked.json:
        print_json(found.as_json())
    else:
        _show(found)
    return 0


def _progress(quiet: bool) -> Callable[[str], None]:
    if quiet or not sys.stderr.isatty():
        return lambda label: None
    return lambda label: print(f"\r\033[K{label} …", end="", file=sys.stderr, flush=True)


def _show(found: "Costs") -> None:
    result = found.result
    show(
        f"{result.model} on {result.source}: {result.batch_size} rows a step, of at most {result.longest} tokens"
        f"{', packed' if result.packs else ''}; {result.dtype} on {result.device}",
        2,
    )
    print(found.table.screen(width()))
    for line in found.changes:
        show(line, 2)
    for label, why in found.left_out.items():
        show(f"{label}: {why}", 2)
    print()
    show("what tensors take at most; the optimizer with gradients, other is the loss and what comes and goes:", 2)
    print(found.parts.screen(width()))
    if result.earlier_runs:
        show(f"time and process are corrected by {counted(result.earlier_runs, 'earlier run')} on this machine", 2)
    elif result.device == "cpu":
        show("time and process may be off by a third: no run on this machine is on record yet", 2)
