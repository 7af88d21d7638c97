"""A base model that is held as it is while it has adapters: no gradients, and buffers that keep their bits."""

from torch import nn

from . import buffers
from .modules import base_modules


class FrozenBase:
    """What has to be undone when a base is let go. It does not hold the model, which holds it."""

    def __init__(self, model: nn.Module, keep_buffers: bool):
        self.hooks = buffers.keep(model, list(base_modules(model))) if keep_buffers else []
        self.required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        model.requires_grad_(False)

    def thaw(self, model: nn.Module) -> None:
        """Let the model be trained as it was before."""
        for name, p in model.named_parameters():
            p.requires_grad_(self.required_grad[name])
        for hook in self.hooks:
            hook.close()
