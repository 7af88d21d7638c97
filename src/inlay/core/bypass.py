"""Layers whose weight is read by the code around them, which an adapter at the layer would not reach.

A layer is adapted where it is called. A module that computes `self.dt_proj.weight @ x`, or hands `self.conv1d.weight`
to a kernel, goes past that. Its source tells; a class whose source cannot be had tells nothing, and `watch.py` looks at
what is left while the model runs.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_TENSORS = ("weight", "bias")
# What tells of a tensor without its values.
_FACTS = {"dtype", "device", "shape", "ndim", "size", "dim", "stride", "numel", "requires_grad", "is_meta", "data_ptr"}
_LOOKING = {"isinstance", "hasattr", "getattr", "setattr", "id", "type", "len"}
# Methods that make or tie parameters, and are no part of a call.
_MAKING = ("__init__", "init", "_init", "reset", "_reset", "tie", "_tie", "set_", "resize", "_resize", "load", "_load")


def bypassed(module: nn.Module) -> set[str]:
    """Names, relative to the module, of layers whose weight or bias its code reads without calling them."""
    return {name for name in _facts(type(module)).read if _child(module, name) is not None}


def bypassed_in(model: nn.Module) -> set[str]:
    """Full names of such layers, and of layers that share their weight with another one and are never called."""
    found: set[str] = set()
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                owners[id(p)] = owners.get(id(p), 0) + 1
    for name, module in model.named_modules():
        facts = _facts(type(module))
        silent = (child for child in module._modules if facts.known and child not in facts.named)
        for child in (*bypassed(module), *(c for c in silent if _only_lends(module._modules[c], owners))):
            found.add(f"{name}.{child}" if name else child)
    return found


def _only_lends(child: nn.Module | None, owners: dict[int, int]) -> bool:
    """Whether all that the layer has is in another module too."""
    if child is None or child._modules:
        return False
    own = [p for p in child._parameters.values() if p is not None]
    return bool(own) and all(owners[id(p)] > 1 for p in own)


def _child(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


@dataclass(frozen=True)
class _Facts:
    """What a class's code does with the modules in it."""

    read: frozenset[str]  # layers whose weight is read
    named: frozenset[str]  # attributes that are mentioned at all in what can be part of a call
    known: bool  # whether its whole source was found


@functools.cache
def _facts(cls: type) -> _Facts:
    read: set[str] = set()
    named: set[str] = set()
    known = True
    overridden: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module or not issubclass(base, nn.Module):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            known = False
            continue
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for method in methods:
            if method.name not in overridden and not method.name.startswith(_MAKING) and method.args.args:
                owner = method.args.args[0].arg
                read |= set(_reads(method, owner))
                if not method.name.startswith("get_"):
                    named |= set(_mentions(method, owner))
        overridden |= {method.name for method in methods}
    if cls.forward is nn.Module.forward or "getattr" in named:
        known = False  # a container, or a class that finds its children by their names
    return _Facts(frozenset(read), frozenset(named), known)


def _reads(method: ast.FunctionDef, owner: str) -> Iterator[str]:
    """The layers, such as `conv1d` or `mixer.conv1d`, whose weight's values are used in this method."""
    parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and node.attr in _TENSORS and isinstance(node.ctx, ast.Load):
            path = _path(node.value, owner)
            if path and not _is_look(node, parents):
                yield path


def _is_look(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the tensor is only looked at, or changed in place, and its values go nowhere."""
    parent = parents.get(node)
    while isinstance(parent, ast.Attribute) and parent.attr == "data":
        node, parent = parent, parents.get(parent)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _FACTS or parent.attr.startswith("_") or parent.attr.endswith("_")
    if isinstance(parent, ast.Call) and node in parent.args:
        called = parent.func.attr if isinstance(parent.func, ast.Attribute) else getattr(parent.func, "id", "")
        return called in _LOOKING or called.endswith("_") or called == "GatheredParameters"
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Store)
    return isinstance(parent, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in parent.ops)


def _path(node: ast.AST, owner: str) -> str | None:
    """`a.b` of `self.a.b`; None of what does not begin with self."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if parts and isinstance(node, ast.Name) and node.id == owner:
        return ".".join(reversed(parts))
    return None


def _mentions(method: ast.FunctionDef, owner: str) -> Iterator[str]:
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            yield "getattr"
        elif isinstance(node, ast.Attribute) and node.attr in ("children", "modules", "_modules", "named_children"):
            yield "getattr"
