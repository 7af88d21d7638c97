"""The parameters of the base whose names fit patterns.   https://arxiv.org/abs/2203.06904

A parameter that is in several places of the model (tied) is trained in all of them, whichever of its names fits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ... import expressions
from ...core.delta import Delta
from ...core.method import Method, Rates
from ...errors import SettingsError, TargetError
from ...formats.peft_format import PeftFormat
from ...models.sites import Sites
from .retrained import Retrained


@dataclass(frozen=True, kw_only=True)
class Pattern(Method):
    r"""Trains the parameters whose names fit what you write; the rest is frozen.

        layers.0.self_attn.q_proj.weight ──▶ fits no include ────▶ ┌────────┐
        layers.0.mlp.up_proj.weight ───────▶ fits an exclude ────▶ │ frozen │
                                                                   └────────┘
        layers.0.self_attn.v_proj.weight ──▶ fits an include ────▶ ╔═════════╗
        layers.1.self_attn.v_proj.weight ──▶ fits an include ────▶ ║ trained ║
                                                                   ╚═════════╝

        p' = p + d    if p's name fits include and not exclude; else p' = p
        example: --method.include '.*\.v_proj\.weight'

    When: To try a choice of parameters that no other method is: only the values' layers, only the upper half, norms and
    embeddings together. The survey it comes from calls such methods specification-based. Not as a first try: nothing
    but your patterns says how much is trained, so look at the count before you start.

    Cost: That of what is chosen: a gradient and AdamW's averages for each of its parameters, and no backward pass below
    the lowest of them. Merged, it costs nothing at inference.
    """

    name, family, paper = "pattern", "selective", "https://arxiv.org/abs/2203.06904"
    summary = "the parameters whose names fit patterns"
    learning_rate = Rates(reading=2.5e-4, writing=1.1e-3, width_power=1.5)
    example = {"include": (r".*\.v_proj\.weight",)}
    format = PeftFormat(peft_type="INLAY_PATTERN")

    include: tuple[str, ...] = ()
    r"""Regular expressions for whole parameter names, such as '.*\.bias'; what fits one of them is trained."""
    exclude: tuple[str, ...] = ()
    """Regular expressions for names that are not trained though they fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("include", "exclude"):
            for pattern in getattr(self, field):
                expressions.check(pattern, f"method.{field} is", SettingsError)

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        places: dict[int, list[tuple[str, nn.Module, str]]] = {}
        names: dict[int, list[str]] = {}
        for host_name, host in sites.changeable():
            for own, p in host._parameters.items():
                if p is not None:
                    places.setdefault(id(p), []).append((host_name, host, own))
                    names.setdefault(id(p), []).append(f"{host_name}.{own}" if host_name else own)
        self._check(sites, [name for some in names.values() for name in some])
        chosen: dict[str, tuple[nn.Module, dict[str, int]]] = {}
        for p, some in places.items():
            if all(host_name in sites.bypassed for host_name, _, _ in some) and _chosen(self, names[p]):
                raise TargetError(
                    f"method.include fits {names[p][0]}, which the model uses without calling the layer that has it, "
                    "so that a copy would do nothing; name it in method.exclude"
                )
        for p, some in names.items():
            if _chosen(self, some):
                for host_name, host, own in places[p]:
                    if not sites.in_head(host_name):
                        chosen.setdefault(host_name, (host, {}))[1][own] = p
        first: dict[int, tuple[Retrained, str]] = {}
        for host_name, (host, parts) in chosen.items():
            delta = Retrained(host, tuple(parts))
            for own, p in parts.items():  # tied parameters stay tied
                delta.tie(own, *first.setdefault(p, (delta, own)))
            yield host_name, delta

    def _check(self, sites: Sites, names: list[str]) -> None:
        kind = type(sites.model).__name__
        if not self.include:
            raise TargetError("method.include is empty; give regular expressions for the names of parameters")
        for pattern in (*self.include, *self.exclude):
            if not any(_fits((pattern,), name) for name in names):
                raise TargetError(f"pattern {pattern!r} fits no parameter of {kind}; its names are like {names[-1]}")
        in_head = [name for name in names if sites.in_head(name.rpartition(".")[0])]
        for pattern in self.exclude:
            if all(name in in_head for name in names if _fits((pattern,), name)):
                raise TargetError(f"pattern {pattern!r} excludes only the model's head, which is always trained whole")
        if not any(_fits(self.include, name) and not _fits(self.exclude, name) for name in names):
            raise TargetError(f"method.exclude leaves nothing of what method.include selects in {kind}")


def _chosen(method: Pattern, names: list[str]) -> bool:
    return any(_fits(method.include, name) for name in names) and not any(_fits(method.exclude, n) for n in names)


def _fits(patterns: tuple[str, ...], name: str) -> bool:
    return any(expressions.fits(pattern, name) for pattern in patterns)
