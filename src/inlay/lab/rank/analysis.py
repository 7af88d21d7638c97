"""`inlay rank RUN`: the rank of what a run has learned, layer by layer, and what a smaller rank would score."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from ...bases.base import Base
from ...data.settings import Reading
from ...errors import SettingsError
from ...formats import peft_plain
from ...formats.files import check_free
from ...inference.evaluation import ready_to_score, scored_rows
from ...inference.opened import Found, Opened, find_adapter
from ...models.sites import Place, Sites
from ...ranges import RANK, Settings, check_settings
from .curve import CutCurve, Measure
from .directions import LEADING, AgainstBase, Overlap, against_base, cosine, overlap
from .export import Cut, write_cut
from .ranks import Ranks, ranks
from .spectrum import Spectrum
from .truncation import available
from .updates import Update, Updates, updates_of

RANKS = (16, 8, 4, 2, 1)
_VALUES = 256  # singular values of a layer that the result has
_AFFORDABLE = 1e11  # O I min(O, I), over the layers, up to which the base is decomposed unasked: minutes on two cores

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class AgainstRun:
    """Comparison with the update of another run at the same layer."""

    overlap: Overlap
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Layer:
    name: str
    place: Place
    shape: tuple[int, int]
    way: str
    """thin: from the factors. dense: from the weight's change, entry by entry."""
    norm: float
    """Frobenius norm of the update."""
    relative: float
    """The same over that of the base's weight."""
    values: list[float]
    """Singular values, the largest first."""
    ranks: Ranks
    base: AgainstBase | None
    other: AgainstRun | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    folder: str
    method: str
    model: str
    trainable: int
    layers: list[Layer]
    others: int
    curve: CutCurve | None
    cut: Cut | None
    compared_with: str | None
    notes: list[str]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class RankSettings(Settings):
    """What to analyse, and how much of it."""

    other: Path | None = None
    """Another run on the same base, whose directions are compared."""
    base: Literal["auto", "always", "never"] = "auto"
    """Whether to decompose the base's weights too; auto: if that takes no more than minutes."""
    ranks: Annotated[tuple[int, ...], RANK] = RANKS
    curve: bool = True
    data: str | None = None
    reading: Reading = Reading()
    """How these are read, where it is not as in training."""
    split: Literal["train", "valid", "test"] = "valid"
    to: Annotated[int | None, RANK] = None
    out: Path | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "--")
        if (self.to is None) != (self.out is None):
            raise SettingsError(
                "--to RANK and --out FOLDER belong together: the rank to cut to, and where to write that"
            )
        if self.plain and self.to is None:
            raise SettingsError("--plain says how a cut adapter is written; give --to RANK and --out FOLDER with it")
        if self.data is not None and not self.curve and self.to is None:
            raise SettingsError("--data names rows to evaluate on, and --no-curve evaluates nothing; leave one out")
        if not self.ranks:
            raise SettingsError("--ranks is empty; it needs numbers from 1 on")


def analyse(
    found: Found,
    opened: Callable[[], Opened],
    device: torch.device,
    asked: RankSettings,
    say: Say,
    *,
    model: str | Base | None,
    fetch: bool,
) -> Analysis:
    """Analyse an adapter, which `opened` gives on its base. `model` is the base if it was named; without `fetch` no hub
    is asked for what only the adapter's files name.

    Raises InvalidRequest before any weights are loaded, as far as the files tell: for an adapter that changes no weight
    matrix, another run of another base, an `out` that is not empty, or data that is not there.
    """
    began = time.perf_counter()
    updates_of(found.planned, found.planned.model)
    if asked.plain:
        peft_plain.check_cut(found.planned)
    other = None if asked.other is None else _of_same_base(found, find_adapter(asked.other, model, fetch=fetch))
    if asked.out is not None:
        check_free(asked.out, "--out")
    without_data = asked.data is None and "data" not in found.provenance and asked.to is None
    wanted = (asked.curve and not without_data) or asked.to is not None
    task = scored_rows(found.task, asked.data, asked.reading, fetch=fetch) if wanted else None
    if task is not None and asked.split not in task.data.splits:
        raise SettingsError(f"{task.data.source} has no {asked.split} split; it has {', '.join(task.data.splits)}")
    if task is not None:
        task = ready_to_score(found, task, asked.split, device)

    seconds: dict[str, float] = {}
    theirs = {} if other is None else _spectra_of(other, device)
    tuned = opened().adapter
    base_model = tuned.model if tuned.removable else found.base_as_trained(device)
    updates = updates_of(tuned, base_model)
    seconds["loading"], began = _since(began)

    spectra = _spectra(updates, say)
    seconds["spectra"], began = _since(began)
    with_base = _affordable(updates) if asked.base == "auto" else asked.base == "always"
    sites = Sites(tuned.model, tuned.heads, tuned.part)
    layers = [_layer(update, spectra[name], sites, with_base, theirs) for name, update in updates.layers.items()]
    seconds["directions"], began = _since(began)

    curve, cut = None, None
    if asked.to is not None and asked.to >= (most := max(available(own) for own in spectra.values())):
        raise SettingsError(
            f"--to is {asked.to}, but no layer's update has a rank above {most}: there is nothing to cut"
        )
    if task is not None:
        say(f"evaluate {len(task.lengths(asked.split))} rows of {asked.split}, for each rank")
        measure = Measure(tuned, base_model, spectra, task, asked.split)
        curve = measure.curve(asked.ranks) if asked.curve else None
        if asked.to is not None and asked.out is not None:
            cut = write_cut(found, measure, asked.to, asked.out, device, model, asked.plain)
        seconds["curve"], began = _since(began)
    return Analysis(
        folder=str(found.asked),
        method=tuned.method.name,
        model=found.base.name,
        trainable=sum(p.numel() for p in tuned.parameters()),
        layers=layers,
        others=updates.others,
        curve=curve,
        cut=cut,
        compared_with=None if asked.other is None else str(asked.other),
        notes=[
            *(task.skipped() if task is not None else ()),
            *_notes(updates, with_base, asked, theirs),
            *_notes_of(found, asked.curve and without_data),
        ],
        seconds=seconds,
    )


def _spectra(updates: Updates, say: Say) -> dict[str, Spectrum]:
    dense = sum(update.thin is None for update in updates.layers.values())
    if dense:
        say(f"decompose the change of {dense} weights, entry by entry: it is no product of thin factors")
    return {name: update.spectrum for name, update in updates.layers.items()}


def _spectra_of(found: Found, device: torch.device) -> dict[str, Spectrum]:
    tuned = found.as_trained(device).adapter
    base = tuned.model if tuned.removable else found.base_as_trained(device)
    spectra = {name: update.spectrum for name, update in updates_of(tuned, base).layers.items()}
    del tuned, base
    gc.collect()  # models with adapters hold themselves in a circle
    return spectra


def _layer(update: Update, own: Spectrum, sites: Sites, with_base: bool, theirs: dict[str, Spectrum]) -> Layer:
    of_update = ranks(own.values, own.shape)
    there = min(available(own), LEADING)
    base = against_base(own, update.base(), update.tuned(), there) if with_base and there else None
    norm = float(own.values.norm())
    other = theirs.get(update.name)
    shared = min(there, available(other)) if other is not None else 0
    return Layer(
        name=update.name,
        place=sites.place(update.name),
        shape=own.shape,
        way=own.way,
        norm=norm,
        relative=norm / update.base_norm(),
        values=own.values[:_VALUES].tolist(),
        ranks=of_update,
        base=base,
        other=AgainstRun(overlap=overlap(own, other, shared), cosine=cosine(own, other)) if other and shared else None,
    )


def _of_same_base(found: Found, other: Found) -> Found:
    mine, its = (each.provenance.get("base_fingerprint") for each in (found, other))
    if mine != its or (mine is None and found.base.path != other.base.path):
        raise SettingsError(
            f"--with {other.asked} was trained on another base than {found.folder}, so their directions cannot be "
            "compared; name a run on the same base"
        )
    shared = updates_of(found.planned, found.planned.model).layers.keys() & (
        updates_of(other.planned, other.planned.model).layers.keys()
    )
    if not shared:
        raise SettingsError(
            f"--with {other.asked} changes none of the layers that {found.folder} changes; name another run"
        )
    return other


def _affordable(updates: Updates) -> bool:
    shapes = [update.shape for update in updates.layers.values()]
    return sum(rows * columns * min(rows, columns) for rows, columns in shapes) <= _AFFORDABLE


def _notes(updates: Updates, with_base: bool, asked: RankSettings, theirs: dict[str, Spectrum]) -> list[str]:
    notes = []
    if not with_base and asked.base == "auto":
        notes.append(
            "The base's weights are too large to be decomposed unasked, so overlap and intruders are left out; "
            "with --base always they are not."
        )
    if updates.others:
        notes.append(
            f"{updates.others} tensors that were trained beside these matrices, such as biases and norms, are no "
            "update of a matrix; in a cut adapter they are the base's again."
        )
    if theirs and (alone := updates.layers.keys() - theirs.keys()):
        notes.append(f"{len(alone)} of the layers are not changed by the other run, and are not compared.")
    return notes


def _notes_of(found: Found, curve_is_missing: bool) -> list[str]:
    missing = (
        "The adapter does not say what data it was trained with: name some with --data for the scores at each rank."
    )
    return [*([missing] if curve_is_missing else []), *(f"{note}." for note in found.notes)]


def _since(began: float) -> tuple[float, float]:
    now = time.perf_counter()
    return round(now - began, 3), now


def _plain(value: object) -> object:
    """Make it what JSON can have: None for what is not finite, such as the interval of a single batch."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


def by_role(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Return the layers of each role, in the order of the model, but those outside its blocks last."""
    roles = dict.fromkeys(layer.place.role for layer in sorted(layers, key=lambda layer: layer.place.block is None))
    return {role: [layer for layer in layers if layer.place.role == role] for role in roles}


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and most."""
    return statistics.median(values), min(values), max(values)
