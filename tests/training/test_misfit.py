"""What is said of a run that no setting makes fit."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inlay.cost.run_cost import CannotBeFollowed, RunCost, Way
from inlay.errors import TargetError
from inlay.methods import METHODS
from inlay.training.misfit import why_not

BESIDE, BESIDE_SAMPLES = 700, 1000


@dataclass(frozen=True)
class SmallMachine:
    memory: int
    samples: bool = False

    def taken(self, cost: RunCost) -> int:
        return cost.tensor_bytes + (BESIDE_SAMPLES if self.samples else BESIDE)

    def fits(self, cost: RunCost) -> bool:
        return self.taken(cost) <= self.memory


WAY = Way(method=METHODS["lora"](), dtype=torch.float32, part=None, packed=False, streamed=False, batch_size=1)


def cost(weights: int, rows: int, trained: int = 1) -> RunCost:
    memory = {"weights": weights, "adapter": 4 * trained, "optimizer": 8 * trained, "gradients": 0}
    memory |= {"activations": rows, "inputs": 0, "loss": 0, "temporaries": 0}
    made: Any = SimpleNamespace(step=SimpleNamespace(memory=memory, trained=trained), tensor_bytes=sum(memory.values()))
    return made


def said(
    way: Way,
    limit: int,
    packed: int = 250,
    streamed: int = 80,
    rows: int = 300,
    trained: int = 1,
    samples: bool = False,
) -> str:
    """Say it of a base of 800 bytes, which takes so many in 4 bits, and with its blocks in its files."""

    def cost_of(other: Way) -> RunCost:
        return cost(packed if other.packed else streamed, rows, trained)

    machine: Any = SmallMachine(limit, samples)
    return why_not(way, cost(800, rows, trained), machine, cost_of)


def test_what_is_named_is_enough_by_itself() -> None:
    assert said(WAY, 690) == "no setting helps, as the process takes about 700 B beside its tensors"
    every = "try shorter rows (--max-length), --quantize nf4, --stream as a last resort or a smaller base"
    assert said(WAY, 1600) == every
    assert said(WAY, 1600, packed=810) == every.replace("--quantize nf4, ", "")
    assert said(WAY, 1200) == "try --stream as a last resort or a smaller base"
    assert (
        said(WAY, 1600, trained=200)
        == "what stays from step to step is too much; train less of the base, or a smaller one"
    )
    assert said(WAY, 850, rows=900) == "too much by far; try a smaller base, or a method that trains less of it"


@pytest.mark.parametrize("had", ["packed", "streamed"])
def test_what_is_asked_for_already_is_not_named(had: str) -> None:
    assert said(replace(WAY, **{had: True}), 1600) == "try shorter rows (--max-length) or a smaller base"


@pytest.mark.parametrize("problem", [CannotBeFollowed("it looks at values"), TargetError("q_proj is quantized")])
def test_what_cannot_be_followed_or_trained_is_not_named(problem: Exception) -> None:
    def fails(way: Way) -> RunCost:
        raise problem

    machine: Any = SmallMachine(1600)
    found = why_not(WAY, cost(800, 300), machine, fails)
    assert found == "try shorter rows (--max-length) or a smaller base"


@pytest.mark.parametrize(("rows", "packed"), [(700, True), (900, False)])
def test_a_base_in_fewer_bits_is_tried_only_if_it_could_be_enough(rows: int, packed: bool) -> None:
    tried: list[Way] = []

    def cost_of(way: Way) -> RunCost:
        tried.append(way)
        return cost(250, rows)

    machine: Any = SmallMachine(850)
    why_not(WAY, cost(800, rows), machine, cost_of)
    assert [way.packed for way in tried] == [True, False][not packed :]


def test_a_run_that_would_fit_if_it_wrote_no_texts_is_told_so() -> None:
    assert said(WAY, 1900, samples=True) == "try --samples 0, as a process that writes no texts takes less"
    assert "samples" not in said(WAY, 1600, samples=True)
