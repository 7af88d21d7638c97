"""The states of all random generators that a training may draw from."""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor

from ..devices import generator_state, is_accelerator, set_generator_state


class RandomNumbers(TypedDict):
    """The random states of Python and NumPy, as JSON has them."""

    python: tuple[int, Sequence[int], float | None]
    """Version, internal state, and what is kept of a pair."""
    numpy: dict[str, Any]


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random states, which are bytes: of the CPU, and of the device if that is another."""
    states = {"cpu": torch.get_rng_state()}
    if is_accelerator(device):
        states["device"] = generator_state(device)
    return states


def set_random_tensors(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Go on from what `random_tensors` gave."""
    torch.set_rng_state(tensors["cpu"])
    if is_accelerator(device):
        set_generator_state(device, tensors["device"])


def random_numbers() -> RandomNumbers:
    """Return the random states of Python and NumPy, as JSON has them."""
    state = np.random.get_state(legacy=False)
    return {"python": random.getstate(), "numpy": state | {"state": {**state["state"], "key": _key(state).tolist()}}}


def check_random_state(tensors: dict[str, Tensor], numbers: RandomNumbers, device: torch.device) -> None:
    """Raise some error, having changed nothing, if `set_random_state` could not go on from these, or not rightly."""
    torch.Generator().set_state(tensors["cpu"])
    if is_accelerator(device):
        torch.Generator(device).set_state(tensors["device"])
    state, gauss = _python_state(numbers), numbers["python"][2]
    random.Random().setstate(state)
    own = _numpy_state(numbers)
    np.random.RandomState().set_state(own)  # which looks neither at the position nor at what is kept of a pair
    place, key = own["state"]["pos"], _key(numbers["numpy"])
    if type(place) is not int or not 0 <= place <= len(key) or not all(type(number) is int for number in key):
        raise ValueError("NumPy's random state is none")
    if own["has_gauss"] not in (0, 1) or not _is_number(own["gauss"]) or not (gauss is None or _is_number(gauss)):
        raise ValueError("what is kept of a pair of random numbers is no number")


def set_random_state(tensors: dict[str, Tensor], numbers: RandomNumbers, device: torch.device) -> None:
    """Go on from what `random_tensors` and `random_numbers` gave, on a device of the same kind."""
    set_random_tensors(tensors, device)
    random.setstate(_python_state(numbers))
    np.random.set_state(_numpy_state(numbers))


@dataclass(frozen=True)
class Draws:
    """The random numbers of a step, such as dropout's: by the seed, the step and the row alone, whichever process
    computes the row, and whatever was drawn before.
    """

    seed: int
    step: int
    device: torch.device

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave the random state after the block as it was before."""
        before = random_tensors(self.device), random_numbers()
        try:
            yield
        finally:
            set_random_state(*before, self.device)

    def begin(self, row: int) -> None:
        """Begin to draw for the rows of the step's batch from this one on."""
        digest = hashlib.sha256(f"{self.seed} {self.step} {row}".encode()).digest()
        set_seed(int.from_bytes(digest[:4]))  # 32 bits are what NumPy takes


def _python_state(numbers: RandomNumbers) -> tuple[int, tuple[int, ...], float | None]:
    version, internal, gauss = numbers["python"]
    return version, tuple(internal), gauss


def _numpy_state(numbers: RandomNumbers) -> dict[str, Any]:
    state = numbers["numpy"]
    return state | {"state": {**state["state"], "key": np.array(_key(state), dtype=np.uint32)}}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _key(state: dict[str, Any]) -> Any:
    return state["state"]["key"]
