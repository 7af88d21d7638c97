"""A model's blocks: the elements of its outermost lists of like layers, whether they attend or not.

A list of stages, as vision models have, counts as the lists in its stages. What is a single layer, such as the
convolutions before an audio model's encoder, is no block.
"""

from collections.abc import Iterator

from torch import nn

from .modules import base_modules, is_attention, normalizes, parameter_count, within
from .parts import parts

_Lists = nn.ModuleList | nn.Sequential


def stacks(body: list[tuple[str, nn.Module]]) -> dict[str, dict[str, nn.Module]]:
    """Return the blocks among the modules of the base by their names, in order, for each of the outermost lists."""
    lists = [(name, m) for name, m in body if isinstance(m, nn.ModuleList)]
    found: dict[str, dict[str, nn.Module]] = {}
    for name, module in lists:
        if not any(name.startswith(other + ".") for other in found):
            found[name] = dict(_elements(name, module))
    attending = {name.rpartition(".")[0] for name, own in found.items() if any(map(_attends, own.values()))}
    return {name: own for name, own in found.items() if own and not _stands_beside(name, own, attending)}


def _stands_beside(name: str, elements: dict[str, nn.Module], attending: set[str]) -> bool:
    """Tell whether the list is none of blocks but stands beside it, such as what hands on the blocks' results."""
    if any(_attends(m) or is_attention(m) for m in elements.values()):
        return False
    own = [parts(m) for m in elements.values()]
    return name.rpartition(".")[0] in attending or not any(p.leads_back for p in own)


def _elements(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for index, element in module.named_children():
        full = f"{name}.{index}"
        if isinstance(element, _Lists):
            yield from _elements(full, element)
        elif inner := _stacks_of_a_stage(element):
            for within, stack in inner.items():
                yield from _elements(f"{full}.{within}", stack)
        elif _is_block(element):
            yield full, element


def _stacks_of_a_stage(module: nn.Module) -> dict[str, nn.Module]:
    """Return the lists of layers in a stage; none if the module is a layer itself."""
    found: dict[str, nn.Module] = {}
    for name, m in base_modules(module):
        if name and isinstance(m, _Lists) and len(m) and not within(name, found):
            layers = list(m.children())
            if all(_is_block(layer) and not is_attention(layer) and _has_norm(layer) for layer in layers):
                found[name] = m
    attends = any(name and is_attention(m) and not within(name, found) for name, m in base_modules(module))
    inside = sum(parameter_count(m) for m in found.values())
    return {} if attends or 2 * inside < parameter_count(module) else found


def _is_block(module: nn.Module) -> bool:
    """Tell whether it has more than one matrix: a single layer with its norm is none."""
    return sum(p.ndim >= 2 for _, m in base_modules(module) for p in m._parameters.values() if p is not None) > 1


def _has_norm(module: nn.Module) -> bool:
    return any(normalizes(m) for _, m in base_modules(module))


def _attends(block: nn.Module) -> bool:
    """Tell whether an attention is a part of the block."""
    return any(name and is_attention(m) for name, m in base_modules(block))
