"""Where a run's model comes from: loaded for it, or still there from the run before, as it was.

A run that leaves its base as it found it hands it back, and the next that wants the same one need not load it. It then
gets exactly what a load would give: the base's bits, checked by their fingerprint; the new heads of its own seed, which
are drawn while loading, so the first run of each seed does load; and the random state as loading leaves it.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor

from ..attached.adapter import Adapter
from ..bases.attention import choose_attention
from ..bases.loading import Loaded, load_onto
from ..models.fingerprint import fingerprint
from ..models.sites import Sites
from .prepared import Prepared
from .random_state import random_tensors, set_random_tensors


def load_base(run: Prepared) -> Loaded:
    """Load the run's model where the run computes, and seed every random number generator."""
    load = partial(run.task.load, run.dtype)
    loaded = load_onto(run.device, load, run.settings.seed, run.packed_for, run.streamed, run.shares_base)
    choose_attention(loaded.model, run.settings.attention, run.device, run.dtype)
    return loaded


class NoSharing:
    """Each run loads its own base."""

    def lend(self, run: Prepared) -> Loaded:
        return load_base(run)

    def take_back(self, adapter: Adapter) -> None:
        pass


@dataclass(frozen=True)
class _Start:
    """What depends on the seed when a model has just been loaded."""

    heads: dict[str, Tensor]
    random: dict[str, Tensor]  # states of torch's generators


@dataclass
class SharedBase(NoSharing):
    """Holds one base between runs. A run that fails does not bring it back, and the next loads anew."""

    loads: int = 0
    _key: Hashable = None
    _held: Loaded | None = None
    _lent: Loaded | None = None
    _fingerprint: str | None = None
    _attention: str | None = None  # what the model's attention was; runs that pack texts choose another
    _starts: dict[int, _Start] = field(default_factory=dict)  # by seed

    def lend(self, run: Prepared) -> Loaded:
        if run.shares_base:
            return load_base(run)  # which is not taken back, as adapters stay in it
        if _key(run) != self._key:
            self._key, self._held, self._starts = _key(run), None, {}
        seed, held, self._held = run.settings.seed, self._held, None
        if held is None or seed not in self._starts:
            del held  # before another is loaded: there is memory for one
            held = load_base(run)
            self.loads += 1
            self._starts[seed] = _Start(_heads(held), random_tensors(run.device))
            self._fingerprint = fingerprint(Sites(held.model, held.heads))
            self._attention = getattr(getattr(held.model, "config", None), "_attn_implementation", None)
        else:
            set_seed(seed)
            _start_with(held, self._starts[seed], run.device)
        self._lent = held
        return held

    def take_back(self, adapter: Adapter) -> None:
        lent, self._lent = self._lent, None
        if lent is None or adapter.model is not lent.model or not adapter.removable:
            return
        adapter.detach()
        model: Any = lent.model
        if self._attention is not None and model.config._attn_implementation != self._attention:
            model.set_attn_implementation(self._attention)
        if fingerprint(Sites(model, lent.heads)) == self._fingerprint:
            self._held = lent


def _key(run: Prepared) -> Hashable:
    """Return what two runs must agree in to start from one loaded model."""
    task, settings = run.task, run.settings
    form = settings.quantize, settings.stream, settings.attention
    return task.name, task.base.path, task.labels, run.dtype, run.device, form


def _heads(loaded: Loaded) -> dict[str, Tensor]:
    sites = Sites(loaded.model, loaded.heads)
    return {n: p.detach().clone() for n, p in loaded.model.named_parameters() if sites.in_head(n)}


@torch.no_grad()
def _start_with(loaded: Loaded, start: _Start, device: torch.device) -> None:
    own = dict(loaded.model.named_parameters())
    for name, value in start.heads.items():
        own[name].copy_(value)
    set_random_tensors(start.random, device)
    loaded.model.eval()  # as it is when it has just been loaded
