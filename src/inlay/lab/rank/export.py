"""The cut adapter, written as a LoRA that Inlay and PEFT load, then loaded anew and evaluated once more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...bases.base import Base
from ...errors import VerificationFailed
from ...formats.files import folder_written_whole
from ...formats.peft_format import OWN_PROVENANCE
from ...formats.places import PLACES, moved
from ...inference.opened import Found, find_adapter
from ...tasks.metric import Scores, better_than
from .curve import Measure, Point
from .truncation import attach_cut, by_energy, uniform

_TOLERANCE = 1e-4  # of a loss: another place in memory may change a sum's last bits


@dataclass(frozen=True, kw_only=True)
class Cut:
    to: int
    folder: str
    per_layer: bool
    """Whether the ranks differ from layer to layer, because that scored better at the same size."""
    ranks: dict[str, int]
    uniform: Point
    by_energy: Point
    whole: Scores
    rows: int
    """On which all of these are scored."""
    again: Scores
    """Of what was written, loaded anew."""

    @property
    def chosen(self) -> Point:
        return self.by_energy if self.per_layer else self.uniform


def write_cut(
    found: Found,
    measure: Measure,
    rank: int,
    out: Path,
    device: torch.device,
    model: str | Base | None,
    plain: bool,
) -> Cut:
    """Cut the update to this rank, or to ranks by layer that take no more parameters if these score better.

    Raises VerificationFailed, and leaves nothing behind, if what was written does not have the score that was measured.
    """
    same, differing = uniform(measure.layers, rank), by_energy(measure.layers, rank)
    of_same, of_differing = measure.point(same), measure.point(differing)
    per_layer = better_than(of_differing.scores, of_same.scores, measure.task.main_score)
    ranks, expected = (differing, of_differing.scores) if per_layer else (same, of_same.scores)
    with folder_written_whole(out) as unfinished:
        _write(found, measure, ranks, unfinished, plain)
        opened = find_adapter(unfinished, model).as_trained(device)
        again = measure.task.evaluate(opened.model, measure.split).scores
        _check(expected, again, measure.task.main_score)
    return Cut(
        to=rank,
        folder=str(out),
        per_layer=per_layer,
        ranks=ranks,
        uniform=of_same,
        by_energy=of_differing,
        whole=measure.whole.scores,
        rows=len(measure.task.lengths(measure.split)),
        again=again,
    )


def _write(found: Found, measure: Measure, ranks: Mapping[str, int], folder: Path, plain: bool) -> None:
    adapter = attach_cut(measure.model, measure.layers, ranks, measure.tuned)
    try:
        about = {key: value for key, value in found.provenance.items() if key not in OWN_PROVENANCE}
        if PLACES in about:
            about[PLACES] = moved(about[PLACES], found.folder, folder)
        about["cut_from"] = {"adapter": str(found.folder), "rank": max(ranks.values())}
        adapter.save(folder, plain, provenance=about, tokenizer=found.tokenizer)
    finally:
        adapter.detach()


def _check(expected: Scores, again: Scores, main_score: str) -> None:
    if not all(
        math.isclose(again[key], value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for key, value in expected.items()
    ):
        raise VerificationFailed(
            f"the cut adapter, loaded again, should have {main_score} {expected[main_score]:.6f}, as measured before, "
            f"but has {again[main_score]:.6f}; nothing is kept"
        )
