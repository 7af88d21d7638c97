"""Whether a base in 16 bits runs with its own parameters in float32, as training in place has them.

Some models ask one parameter for the dtype of all, and then mix the two. That is tried out without values.
"""

from collections.abc import Callable

import torch
from torch import nn

from ..attached.adapter import plan_attach
from ..core.method import Method
from ..core.state import commit
from ..errors import SettingsError


def check_narrow(empty: Callable[[], nn.Module], method: Method, part: str | None, dtype: torch.dtype) -> None:
    """Raise SettingsError if the model runs in this dtype, and no more once the method is attached."""
    model = empty().to(dtype)
    if not _runs(model):
        return  # values decide what it does, so nothing can be said
    commit(plan_attach(model, method, part=part))
    if not _runs(model):
        raise SettingsError(
            f"{method.name} trains parameters in float32, and {type(model).__name__} mixes them with its own "
            f"{str(dtype).removeprefix('torch.')}; choose --dtype float32, or another method"
        )


@torch.no_grad()
def _runs(model: nn.Module) -> bool:
    ids_BT = torch.zeros(1, 8, dtype=torch.long, device="meta")
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    try:
        with torch.device("meta"):
            model(**inputs)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return False
    return True
