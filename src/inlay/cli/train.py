"""inlay train MODEL DATA --method NAME: one run."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..api.asked import SHORT_FOR
from ..core.method import Method
from ..errors import InterruptTold, SettingsError
from ..formats.paths import path_of
from ..launch import check_each_has_rows, own_number
from ..methods import METHODS
from ..ranges import Range, kind_of
from ..training.settings import MethodT, RunSettings
from .arguments import DataArguments, Model
from .config_file import read_config_file
from .console import watching
from .flags import Flag
from .next_steps import next_steps
from .parse import parse, take
from .screen import show
from .several import asks_for_several, run_in_several

if TYPE_CHECKING:
    from ..api.run import Run

DEFAULT_METHOD = "lora"
_DESCRIPTION = "Train one adapter on MODEL with DATA and write its run's folder."
FIRST = [  # which decide what other flags there are
    Flag(
        setting="method",
        kind=kind_of(str),
        default=DEFAULT_METHOD,
        text=f"The method: {', '.join(METHODS)}; qlora, which is lora with --quantize nf4; or package.module:Class, a "
        "method of your own. Its options are below.",
        metavar="NAME",
    ),
    Flag(
        setting="config",
        kind=kind_of(str | None),
        default=None,
        text="A run.yaml with settings, and MODEL and DATA if they are not given here; flags win over it.",
        metavar="FILE",
    ),
]
_MOST_USED = ["method", "config", "out", "epochs", "batch_size", "learning_rate", "seed"]


@dataclass(frozen=True, kw_only=True)
class Train(RunSettings[MethodT]):
    model: Model
    data: DataArguments
    method: MethodT
    go_on: bool = False
    """Go on with the run in --out if it was stopped, begin it if there is none, leave it alone if it is finished: one
    command to repeat until it is done. The settings must be those that the run began with."""
    processes: Annotated[int, Range(1, 10_000)] = 1
    """Processes of this machine that share each step, one for each accelerator or some of the CPU's cores. For several
    machines start the command with torchrun (docs/scale.md). The adapter is the same, bit for bit, whatever the number,
    if micro_batch_size is."""
    json: bool = False
    """Print one JSON event per line instead of text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_has_rows(self.batch_size, self.processes)


def main(arguments: list[str]) -> int:
    settings = parse_settings(arguments)
    if asks_for_several(settings.processes):
        return run_in_several(settings.processes, ["train", *take(arguments, "--processes")[1]])
    run = train_as_asked(settings, arguments)
    if not settings.json and own_number() == 0:  # which has the run's folder
        show(next_steps(run))
    return 0


def train_as_asked(settings: Train[Method], arguments: list[str]) -> "Run":
    """Train with the settings that the arguments of `inlay train` describe."""
    try:
        with watching(settings.json) as watcher:
            from ..api.training import train

            asked = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RunSettings)}
            return train(**asked, progress=watcher, go_on=settings.go_on, command=["inlay", "train", *arguments])
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, InterruptTold):
            raise
        goes_on = settings.go_on and settings.out is not None and (path_of(settings.out) / "run.yaml").is_file()
        what = "went on: its folder is as it was" if goes_on else "began: no folder was written"
        print(f"interrupted before the run {what}", file=sys.stderr)
        raise InterruptTold from None


def parse_settings(arguments: list[str]) -> Train[Method]:
    """Return the run that the arguments describe, with the settings of a `--config` file beneath them."""
    config, arguments = take(arguments, "--config")
    method, arguments = take(arguments, "--method")
    from_file = None if config is None else read_config_file(path_of(config))
    if method is None:
        method = (from_file.method if from_file else None) or DEFAULT_METHOD
    method, implied = SHORT_FOR.get(method, (method, {}))
    try:
        kind = METHODS.find(method, also=SHORT_FOR)
    except SettingsError as problem:
        if from_file is None:
            raise
        raise SettingsError(f"{from_file.path}: {problem}") from problem
    beneath = [*short_flags(implied), *(from_file.arguments(kind) if from_file else [])]
    titles = {
        **dict.fromkeys(_MOST_USED, "Most used"),
        **{field.name: "The run" for field in dataclasses.fields(Train) if field.name not in _MOST_USED},
        "method.": f"The method {kind.name}, which `inlay methods {kind.name}` explains",
        "data.": "The data",
    }
    return parse(
        Train[kind], arguments, "train", beneath, description=_DESCRIPTION, first=FIRST, titles=titles, method=kind.name
    )


def short_flags(implied: Mapping[str, object]) -> list[str]:
    """Return the flags of the settings that a short name stands for."""
    return [part for name, value in implied.items() for part in (f"--{name}", str(value))]
