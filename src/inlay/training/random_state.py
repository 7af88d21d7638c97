"""The states of all random generators that a training may draw from."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_tensors(device: torch.device) -> dict[str, Tensor]:
    """Those of torch, which are bytes: on the CPU, and on the device if that is another."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def random_numbers() -> dict[str, Any]:
    """Those of Python and NumPy, as JSON has them."""
    state: Any = np.random.get_state(legacy=False)
    return {"python": random.getstate(), "numpy": state | {"state": {**state["state"], "key": _key(state).tolist()}}}


def set_random_state(tensors: dict[str, Tensor], numbers: dict[str, Any], device: torch.device) -> None:
    """Go on from what `random_tensors` and `random_numbers` gave, on a device of the same kind."""
    torch.set_rng_state(tensors["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["device"], device)
    if device.type == "mps":
        torch.mps.set_rng_state(tensors["device"])
    version, internal, gauss = numbers["python"]
    random.setstate((version, tuple(internal), gauss))
    state = numbers["numpy"]
    np.random.set_state(state | {"state": {**state["state"], "key": np.array(_key(state), dtype=np.uint32)}})


def _key(state: dict[str, Any]) -> Any:
    return state["state"]["key"]
