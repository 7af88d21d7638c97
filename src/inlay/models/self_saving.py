"""What `save_pretrained` of a transformers model does while it has adapters: it writes all of the model, and they are
written beside it.

transformers.Trainer, and whatever is built on it, saves nothing but by `save_pretrained`, and goes on from the tensors
in the model's own file: so the adapters' are there too, though `from_pretrained` reads the base alone.

It also trains no model that is quantized and does not say that it has adapters. The attribute that it asks for makes
`save_pretrained` write PEFT's adapters alone, of which there are none here: so it does not hear of the attribute.
"""

import inspect
import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..errors import SettingsError

_SAYS = "_hf_peft_config_loaded"
_SAVES = "save_pretrained"

Beside = Callable[[nn.Module, Path], str | None]

_log = logging.getLogger("inlay")


class _SavesAll:
    """The model's own `save_pretrained`, after which the adapters are written, and once it is said where."""

    def __init__(self, model: nn.Module, beside: Beside):
        self.model, self.beside, self.has_told = model, beside, False

    def __call__(self, *args: object, **kwargs: object) -> object:
        own = getattr(type(self.model), _SAVES)
        given = inspect.signature(own).bind(self.model, *args, **kwargs).arguments
        if given.get("push_to_hub"):
            raise SettingsError(
                "save_pretrained(push_to_hub=True) would upload the model without its adapters, which are written "
                "beside it afterwards; leave push_to_hub out, and upload the folder: hf upload NAME FOLDER"
            )
        says = self.model.__dict__.pop(_SAYS, None)
        try:
            result = own(self.model, *args, **kwargs)
        finally:
            if says is not None:
                self.model.__dict__[_SAYS] = says
        if given.get("is_main_process", True):
            folder = str(list(given.values())[1])  # the first argument, whatever it is called
            said = self.beside(self.model, Path(folder))
            if said is not None and not self.has_told:
                self.has_told = True
                _log.warning(said)
        return result


def begin(model: nn.Module, beside: Beside) -> None:
    """Let the model write its adapters by `beside`, which returns what is to be said once, and a quantized one say that
    it has some, unless it says so already.
    """
    if not callable(getattr(type(model), _SAVES, None)) or _SAVES in model.__dict__:
        return
    model.__dict__[_SAVES] = _SavesAll(model, beside)
    if getattr(model, "is_quantized", False) and getattr(model, _SAYS, None) is False:
        model.__dict__[_SAYS] = True


def end(model: nn.Module) -> None:
    """Undo what `begin` did, if it did anything."""
    if isinstance(model.__dict__.get(_SAVES), _SavesAll):
        del model.__dict__[_SAVES]
        model.__dict__.pop(_SAYS, None)
