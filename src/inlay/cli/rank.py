"""inlay rank RUN: the rank of what was learned, and a cut adapter. inlay rank MODEL DATA: a rank before training."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..data.settings import Reading
from ..errors import SettingsError
from ..ranges import RANK, SEED, Range, check_settings
from .console import progress_shown, watching
from .parse import parse
from .screen import print_json, width


@dataclass(frozen=True, kw_only=True)
class Rank:
    """`inlay rank RUN`: the rank of what a run has learned, and the score at smaller ranks. `inlay rank MODEL DATA`: a
    rank for each layer, before training.

    RUN writes rank.json and rank.html into the run's folder: every layer's singular values and ranks, its overlap with
    the base's directions, intruders, and the measured score of the update cut to smaller ranks. MODEL DATA writes
    settings for inlay train --config, from the model's first gradients or its activations.
    """

    subject: Annotated[Positional[str], arg(metavar="RUN_OR_MODEL")]
    """The folder of a run or of an adapter; or, with DATA, a model to be trained."""
    train_data: Annotated[Positional[str | None], arg(metavar="[DATA]")] = None
    """Data to train on, for a rank before training."""

    other: Annotated[str | None, arg(name="with")] = None
    """Another run on the same base, to compare directions with."""
    to: Annotated[int | None, RANK] = None
    """Write the adapter cut to this rank, or to ranks by layer of the same size if that scores better."""
    out: str | None = None
    """A new or empty folder. RUN: for the cut adapter. MODEL DATA: for the suggestion, by default rank-suggestion."""
    plain: bool = False
    """Write the cut adapter with one rank and one alpha for all layers, as llama.cpp and vLLM need it."""
    ranks: Annotated[tuple[int, ...], RANK] = (16, 8, 4, 2, 1)
    """The ranks of the curve."""
    curve: bool = True
    """Evaluate the update cut to smaller ranks."""
    base: Literal["auto", "always", "never"] = "auto"
    """Compare with the base's directions, which decomposes each weight. auto: if that takes minutes at most."""
    data: str | None = None
    """Other data to evaluate on. Default: the run's data."""
    reading: Annotated[Reading, arg(name="data")] = Reading()
    split: Literal["train", "valid", "test"] = "valid"
    """The split to evaluate on."""
    model: str | None = None
    """The base model, if it has moved."""
    allow_download: bool = False
    """Download what only the adapter's files name and this machine lacks."""

    origin: Annotated[Literal["activations", "gradients"], arg(name="from")] = "gradients"
    """What the ranks follow: the first gradients, which did better where both were tried
    (docs/lesson.md), or the variance of each layer's inputs (EVA)."""
    rank: Annotated[int, RANK] = 16
    """The budget, as the rank that takes as many parameters in every layer."""
    targets: tuple[str, ...] = ("all-linear",)
    """Which layers, as for method lora."""
    attempt: Annotated[bool, arg(name="try")] = False
    """Train with the suggested ranks and with one rank everywhere, and show both scores."""
    epochs: Annotated[float, Range(above=0, most=100_000)] = 1.0
    """Passes over the data when --try trains."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the order of the rows, and for what --try trains."""

    device: str = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_settings(self, "--")


BOTH = {"subject", "train_data", "reading", "out", "device", "json"}
BEFORE = {"origin", "rank", "targets", "attempt", "epochs", "seed"}
FLAGS = {"other": "with", "origin": "from", "attempt": "try"}  # settings whose flag is a word of Python
_TITLES = {
    **{FLAGS.get(f.name, f.name): "RUN, after training" for f in fields(Rank) if f.name not in BOTH | BEFORE},
    **{FLAGS.get(f.name, f.name): "MODEL DATA, before training" for f in fields(Rank) if f.name in BEFORE},
    "json": "Both",
    "out": "Both",
    "device": "Both",
    "data.": "The data",
}


def main(arguments: list[str]) -> int:
    command = parse(Rank, arguments, "rank", titles=_TITLES)
    _check(command)
    return _analyse(command) if command.train_data is None else _suggest(command)


def _check(command: Rank) -> None:
    """Raise SettingsError for a setting that this form of the verb does not have."""
    before = command.train_data is not None
    for field in fields(Rank):
        asked = getattr(command, field.name) != field.default
        if field.name not in BOTH and asked and (field.name in BEFORE) != before:
            flag, given = FLAGS.get(field.name, field.name), "MODEL DATA" if before else "RUN"
            form = "RUN alone, after training" if before else "MODEL DATA, before training"
            raise SettingsError(f"--{flag} is given with {given}; it belongs to inlay rank {form}")


def _analyse(command: Rank) -> int:
    from ..api.run import open

    run = open(command.subject, command.model, device=command.device, allow_download=command.allow_download)
    asked = ("other", "base", "ranks", "curve", "data", "split", "to", "out", "plain")
    say = (lambda _: None) if command.json else (lambda text: print(text, flush=True))
    with progress_shown():
        found = run.rank(say, **{name: getattr(command, name) for name in asked}, reading=command.reading)
    if command.json:
        print_json(found.result.as_dict())
    else:
        print(f"{found.text(width())}\nreport  {found.page}")
    return 0


def _suggest(command: Rank) -> int:
    from ..api.rank import suggest_rank
    from ..methods.reparameterized.lora import LoRA

    method = LoRA(rank=command.rank, targets=command.targets)
    asked = {name: getattr(command, name) for name in ("origin", "attempt", "epochs", "seed", "device")}
    with watching(command.json) as watcher:
        out = command.out or "rank-suggestion"
        asked |= command.reading.asked()
        found = suggest_rank(command.subject, command.train_data, method, out=out, progress=watcher, **asked)
    if command.json:
        print_json(found.result.as_dict())
    else:
        print(found.text(width()))
    return 0
