"""inlay doctor MODEL: the layers of a model, and what each target reaches, from its configuration alone."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..attached.adapter import plan_attach
from ..bases.auto_class import no_writer
from ..bases.base import Base, empty_classifier, empty_language_model, find_base
from ..bases.part import part_for_texts
from ..core.method import Method
from ..errors import InvalidRequest
from ..methods import METHODS
from ..methods.reparameterized.lora import LoRA
from ..models import weights
from ..models.sites import ROLES, Sites
from ..show.reach import Reach, reach_of, reach_text
from ..show.units import count_text, counted
from .screen import print_json, show


def show_model(name: str, method: str | None, as_json: bool) -> None:
    """Print a model's layers, and what each target, and the method if one is named, reaches of them.

    Raises SettingsError if there is no such model or method, or none that Inlay can train.
    """
    asked = None if method is None else METHODS[method]()
    found = _facts(find_base(name), asked)
    if as_json:
        print_json(found, indent=2)
        return
    blocks = f"{found['blocks']} blocks, " if found["blocks"] else "no blocks that could be recognised, "
    show(f"{name}: {found['class']}, {count_text(found['parameters'])} parameters, {blocks}room for {found['room']}", 2)
    if found["part"]:
        show(f"  with rows of texts: {found['part']}", 2)
    print("linear layers")
    width = max(map(len, found["linear_layers"]), default=0)
    for layer, sizes in found["linear_layers"].items():
        show(f"  {layer:<{width}}  {', '.join(sizes)}", width + 4)
    print("what each target reaches, by method lora")
    _print_reaches(found["targets"])
    if asked is not None:
        print("what the method reaches, with its own settings")
        _print_reaches(found["methods"])


def _print_reaches(reaches: Mapping[str, "_Reached | None"]) -> None:
    for target, reach in reaches.items():
        layers = "" if reach is None or "virtual_tokens" in reach else f"{counted(reach['hosts'], 'layer')}, "
        text = "nothing" if reach is None else f"{layers}{reach_text(reach)}"
        show(f"  {target:<12} {text}", 15)


def _facts(base: Base, asked: Method | None) -> dict[str, Any]:
    writes = no_writer(base.config) is None
    model = empty_language_model(base.config) if writes else empty_classifier(base.config)
    part = part_for_texts(model, base.config)
    sites = Sites(model, part=part.name)
    linear = Counter(
        (name.rpartition(".")[2], " × ".join(map(str, weights.size(m))))
        for name, m in sites.body()
        if weights.is_linear(m)
    )
    layers: dict[str, list[str]] = {}
    for (layer, size), count in linear.items():
        layers.setdefault(layer, []).append(f"{count} of {size}")
    return {
        "model": base.name,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "blocks": len(sites.blocks),
        "room": f"{base.positions} tokens" if base.positions < 10**9 else "any length",
        "part": part.reason,
        "linear_layers": layers,
        "targets": {role: _reach(model, LoRA(targets=(role,)), part.name) for role in ROLES},
        **({"methods": {asked.name: _reach(model, asked, part.name)}} if asked is not None else {}),
    }


class _Reached(Reach):
    hosts: int


def _reach(model: nn.Module, method: Method, part: str | None) -> _Reached | None:
    """Count what the method reaches; None if nothing."""
    try:
        planned = plan_attach(model, method, part=part)
    except InvalidRequest:
        return None
    return {"hosts": len(planned.hosts_of_method), **reach_of(planned.coverage)}
