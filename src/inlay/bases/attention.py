"""How a model computes its attention, by the names that transformers has for the ways."""

from typing import Any

import torch
from transformers.utils import import_utils

from ..devices import is_accelerator
from ..errors import SettingsError

_HALF = (torch.float16, torch.bfloat16)


def kinds_of_attention(device: torch.device) -> tuple[str, ...]:
    """Return what can be asked for on this device, by what is installed; not every model has each."""
    flash = is_accelerator(device) and import_utils.is_flash_attn_2_available()
    return ("sdpa", "eager", *(("flash_attention_2",) if flash else ()))


def choose_attention(model: Any, asked: str, device: torch.device, dtype: torch.dtype) -> str:
    """Let the model, which may be empty, compute attention as it is asked to, and return how it does; by auto it stays
    as it was. Raises SettingsError if the model, the device or this installation cannot."""
    if asked == "auto":
        return model.config._attn_implementation
    if asked == "flash_attention_2":
        if not is_accelerator(device) or dtype not in _HALF:
            raise SettingsError(
                f"attention is {asked}, which needs an accelerator and a base in 16 bits; this run computes on "
                f"{device} in {str(dtype).removeprefix('torch.')}. Leave out --attention"
            )
        if not import_utils.is_flash_attn_2_available():
            raise SettingsError(
                f"attention is {asked}, and the package flash-attn is not installed, or not for this device: "
                "pip install flash-attn, or leave out --attention"
            )
    if not model._can_set_attn_implementation():
        raise SettingsError(f"attention is {asked}, and {type(model).__name__} has one way only; leave out --attention")
    try:
        model.set_attn_implementation(asked)
    except (ValueError, ImportError) as problem:
        reason = str(problem).split(". ")[0]
        raise SettingsError(f"attention is {asked}: {reason}; leave out --attention") from None
    return asked
