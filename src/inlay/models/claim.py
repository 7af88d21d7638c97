"""What a quantized model says of itself while it has adapters: that it has some.

transformers.Trainer, and whatever is built on it, trains no model that is quantized and does not say so. The attribute
that it asks for also makes `save_pretrained` write PEFT's adapters alone, of which there are none here: so this method
writes what it writes without the attribute, all of the model.
"""

from torch import nn

_SAYS = "_hf_peft_config_loaded"
_SAVES = "save_pretrained"


class _SaveWhole:
    """The model's own `save_pretrained`, which does not hear that there are adapters."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, *args: object, **kwargs: object) -> object:
        setattr(self.model, _SAYS, False)
        try:
            return getattr(type(self.model), _SAVES)(self.model, *args, **kwargs)
        finally:
            setattr(self.model, _SAYS, True)


def make(model: nn.Module) -> None:
    """Let a quantized model of transformers say that it has adapters, unless it says so already."""
    if getattr(model, "is_quantized", False) and getattr(model, _SAYS, None) is False:
        model.__dict__.update({_SAYS: True, _SAVES: _SaveWhole(model)})


def withdraw(model: nn.Module) -> None:
    """Undo what `make` did, if it did anything."""
    if isinstance(model.__dict__.get(_SAVES), _SaveWhole):
        del model.__dict__[_SAVES], model.__dict__[_SAYS]
