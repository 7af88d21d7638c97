"""A base's buffers keep their bits while it has adapters: frozen means frozen, of running statistics too.

A normalization that has running statistics uses them in training as it does at inference, and spectral normalization
its vectors. Whatever else writes into buffers of its own (codebooks, counters) works in training on copies of them,
which are dropped. Buffers that a file leaves out are caches, which may change as they like. An adapter that trains a
module whole has statistics of its own, on which its host then runs.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from ..errors import AdapterStateError
from . import weights
from .modules import Guest
from .weights import Host

_RUNNING = {"running_mean", "running_var"}


class KeptBuffers:
    """Hooks at one module that owns buffers, for as long as the model has adapters."""

    def __init__(self, host: Host):
        self.stands_still = _uses_its_statistics(host)  # with `training` off its forward only reads them
        self.training = False
        self.own: dict[str, Tensor] = {}
        # Before the hook of spectral_norm too, which is there already.
        self.hooks = (
            host.register_forward_pre_hook(self._before, prepend=True),
            host.register_forward_hook(self._after, always_call=True),
        )

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _before(self, host: Host, args: object) -> None:
        self.training = host.training and not _runs_on_others(host)
        if not self.training:
            return
        if self.stands_still:
            host.training = False
            return
        for name in weights.statistics(host):
            own = host._buffers[name]
            assert own is not None
            self.own[name], host._buffers[name] = own, own.clone()

    def _after(self, host: Host, args: object, result: object) -> None:
        if self.training:
            self.training = False
            if self.stands_still:
                host.training = True
            host._buffers.update(self.own)
            self.own.clear()


class BufferWatch:
    """Hooks at the model, which tell of a buffer that something else than its own module writes into."""

    def __init__(self, model: nn.Module, owners: dict[str, nn.Module]):
        self.owners = owners
        self.versions: list[int] = []
        self.hooks = (model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _buffers(self) -> list[tuple[str, Tensor]]:
        return [(f"{n}.{name}", m.get_buffer(name)) for n, m in self.owners.items() for name in weights.statistics(m)]

    def _before(self, model: nn.Module, args: object) -> None:
        self.versions = [] if torch.compiler.is_compiling() else [_version(b) for _, b in self._buffers()]

    def _after(self, model: nn.Module, args: object, result: object) -> None:
        if not self.versions or torch.compiler.is_compiling():
            return
        for (name, buffer), version in zip(self._buffers(), self.versions, strict=True):
            if _version(buffer) != version:
                raise AdapterStateError(
                    f"a forward pass has changed {name}, a buffer of the base, from outside of its module, so that it "
                    "can neither be kept nor saved; put what changes it into evaluation (model.eval())"
                )


def keep(model: nn.Module, modules: list[tuple[str, nn.Module]]) -> list["KeptBuffers | BufferWatch"]:
    """Keep the buffers of these modules of `model` as they are, until what this returns is closed."""
    owners = {name: m for name, m in modules if weights.statistics(m)}
    kept = list(map(KeptBuffers, owners.values()))
    others = {
        name: m for name, m in owners.items() if m is not model
    }  # whose hooks would run around those of the watch
    return [*kept, BufferWatch(model, others)] if kept else []


def _uses_its_statistics(module: nn.Module) -> bool:
    if isinstance(module, _SpectralNorm) or module._buffers.keys() >= _RUNNING:
        return True
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())


def _runs_on_others(host: Host) -> bool:
    return any(isinstance(m, Guest) and m.has_statistics() for m in host._modules.values())


def _version(buffer: Tensor) -> int:
    return 0 if buffer.is_inference() else buffer._version
