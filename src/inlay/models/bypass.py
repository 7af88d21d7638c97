"""Layers whose weight is read by the code around them, which an adapter at the layer would not reach.

A layer is adapted where it is called. A module that computes `self.dt_proj.weight @ x`, or hands `self.conv1d.weight`
to a kernel, goes past that. Its source tells; a class whose source cannot be had tells nothing, and `watch.py` looks at
what is left while the model runs. So it does for a short cut, a kernel that may stand in for the layers that are called
otherwise, and for a case that an optional argument leads to, where without it the layer is called.
"""

import ast
import functools
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

_TENSORS = ("weight", "bias")
# What tells of a tensor without its values.
_FACTS = {
    "dtype",
    "device",
    "shape",
    "ndim",
    "size",
    "element_size",
    "dim",
    "stride",
    "numel",
    "requires_grad",
    "is_meta",
    "data_ptr",
}
_COMPARISONS: dict[type[ast.cmpop], Callable[..., bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LOOKING = {"isinstance", "hasattr", "getattr", "setattr", "id", "type", "len"}
# Ways to a layer that do not spell its name.
_BY_NAME = {"getattr", "children", "modules", "named_children", "named_modules", "get_submodule", "_modules"}
# Methods that make or tie parameters, and are no part of a call.
_MAKING = ("__init__", "init", "_init", "reset", "_reset", "tie", "_tie", "set_", "resize", "_resize", "load", "_load")


def bypassed(module: nn.Module) -> set[str]:
    """Name the layers, relative to the module, whose weight or bias its code reads without calling them."""
    read: dict[str, set[str]] = {}
    for name, tensor, cases in _facts(type(module)).read:
        if all(_may_lead(case, module) for case in cases):
            read.setdefault(name, set()).add(tensor)
    return {name for name, tensors in read.items() if _goes_past(_child(module, name), tensors)}


def _may_lead(case: "_Case", module: nn.Module) -> bool:
    """Tell whether the test may come out so without optional arguments."""
    test, wanted, is_extra = case
    return not is_extra and _truth(test, module) in (wanted, None)


def _goes_past(layer: nn.Module | None, read: set[str]) -> bool:
    """Tell whether its weight or bias is read, or else all the parameters that it has, such as stacks of experts."""
    return layer is not None and (
        not read.isdisjoint(_TENSORS) or 0 < len(layer._parameters) <= len(read & {*layer._parameters})
    )


def bypassed_in(model: nn.Module) -> set[str]:
    """Name such layers in full, and layers that share their weight with another one and are never called."""
    found: set[str] = set()
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                owners[id(p)] = owners.get(id(p), 0) + 1
    for name, module in model.named_modules():
        if not module._modules:
            continue
        facts = _facts(type(module))
        unused = (child for child in module._modules if facts.known and child not in facts.named)
        for child in (*bypassed(module), *(c for c in unused if _only_lends(module._modules[c], owners))):
            found.add(f"{name}.{child}" if name else child)
    return found


def _only_lends(child: nn.Module | None, owners: dict[int, int]) -> bool:
    """Tell whether all that the layer has is in another module too."""
    if child is None or child._modules:
        return False
    own = [p for p in child._parameters.values() if p is not None]
    return bool(own) and all(owners[id(p)] > 1 for p in own)


def _child(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


_Case = tuple[ast.expr, bool, bool]
"""A test, the outcome that leads to the reading, and whether it takes an optional argument, without which the layer is
called."""
_Read = tuple[str, str, tuple[_Case, ...]]
"""A layer, the attribute of it that is read, and the tests around it."""


@dataclass(frozen=True)
class _Facts:
    """What a class's code does with the modules in it."""

    read: frozenset["_Read"]  # layers whose weight is read
    named: frozenset[str]  # attributes that its forward mentions, itself or in what it calls of the class
    known: bool  # whether these are all that it uses


@functools.cache
def _facts(cls: type[nn.Module]) -> _Facts:
    methods = dict(_methods(cls))
    called = {path for method in methods.values() for path in _calls(method)}
    read = {path for method in methods.values() for path in _reads(method, called)}
    named: set[str] = set()
    waiting = {"forward"} & methods.keys()
    known = bool(waiting)
    while waiting:
        method = methods[name := waiting.pop()]
        mentioned = set(_mentions(method))
        waiting |= (mentioned - named - {name}) & methods.keys()
        named |= mentioned
    return _Facts(frozenset(read), frozenset(named), known and not named & _BY_NAME)


def _methods(cls: type[nn.Module]) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the methods that can be part of a call, as far as their source can be had."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module or not issubclass(base, nn.Module):
            continue
        if "forward" not in vars(base) and base.__module__ != cls.__module__:
            continue
        for name, function in vars(base).items():
            function = inspect.unwrap(function) if callable(function) else None
            if name in seen or name.startswith(_MAKING) or not inspect.isfunction(function):
                continue
            seen.add(name)
            try:
                tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
            except (OSError, TypeError, SyntaxError, IndexError):
                continue
            if isinstance(tree, ast.FunctionDef) and tree.args.args:
                yield name, tree


def _reads(method: ast.FunctionDef, called: set[str]) -> Iterator[_Read]:
    """Yield the layers, such as `conv1d` or `mixer.conv1d`, and those of their attributes whose values this method
    uses.
    """
    parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            path = _path(node.value, method)
            if not path or _is_look(node, parents) or (path in called and _on_short_cut(node, parents)):
                continue
            yield path, node.attr, tuple(_cases(node, parents, path, method))


def _cases(node: ast.AST, parents: dict[ast.AST, ast.AST], path: str, method: ast.FunctionDef) -> Iterator[_Case]:
    """Yield the tests that decide whether the node is reached, each with the outcome that leads to it."""
    while (parent := parents.get(node)) is not None:
        if isinstance(parent, ast.If) and node is not parent.test:
            leads_here = node in parent.body
            otherwise = parent.orelse if leads_here else parent.body
            is_extra = _without_arguments(parent.test, method) is (not leads_here) and path in _calls_in(
                otherwise, method
            )
            yield parent.test, leads_here, is_extra
        node = parent


def _without_arguments(test: ast.expr, method: ast.FunctionDef) -> bool | None:
    """Decide `x is None` and `x is not None` as if x were a tensor that is None unless it is given; others are caches,
    which decoding gives."""
    match test:
        case ast.Compare(ast.Name(name), [ast.Is() | ast.IsNot() as compared], [ast.Constant(None)]):
            own = method.args
            last = own.args[len(own.args) - len(own.defaults) :]
            defaults = [*own.defaults, *own.kw_defaults]
            for argument, default in zip([*last, *own.kwonlyargs], defaults, strict=True):
                is_none = isinstance(default, ast.Constant) and default.value is None
                kind = ast.unparse(argument.annotation) if argument.annotation else ""
                if argument.arg == name and is_none and "Tensor" in kind:
                    return isinstance(compared, ast.Is)
    return None


def _truth(test: ast.expr, module: nn.Module) -> bool | None:
    """Decide a test of the module's own settings, such as `self.parts > 1 and self.exact`; None if it cannot be."""
    if isinstance(test, ast.BoolOp):
        decides = isinstance(test.op, ast.Or)
        outcomes = [_truth(value, module) for value in test.values]
        return decides if decides in outcomes else None if None in outcomes else not decides
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        outcome = _truth(test.operand, module)
        return None if outcome is None else not outcome
    sides = [test.left, test.comparators[0]] if isinstance(test, ast.Compare) and len(test.ops) == 1 else [test]
    values = [_setting(side, module) for side in sides]
    if not all(isinstance(value, int | float) for value in values):
        return None
    if not isinstance(test, ast.Compare):
        return bool(values[0])
    compare = _COMPARISONS.get(type(test.ops[0]))
    return None if compare is None else compare(*values)


def _setting(node: ast.expr, module: nn.Module) -> object:
    """Look up a constant or `self.name`; None for anything else, and for what training changes."""
    if isinstance(node, ast.Constant):
        return node.value
    if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"):
        return None
    return None if node.attr == "training" else vars(module).get(node.attr)


def _on_short_cut(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Tell whether it is inside an `if` out of which some of the cases return."""
    while (parent := parents.get(node)) is not None:
        if isinstance(parent, ast.If) and any(
            isinstance(inner, ast.If) and any(isinstance(step, ast.Return) for step in inner.body)
            for inner in parent.body
        ):
            return True
        node = parent
    return False


def _is_look(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Tell whether the tensor is only looked at, or changed in place, and its values go nowhere."""
    parent = parents.get(node)
    while isinstance(parent, ast.Attribute) and parent.attr == "data":
        node, parent = parent, parents.get(parent)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _FACTS or parent.attr.startswith("_") or parent.attr.endswith("_")
    if isinstance(parent, ast.Call) and node in parent.args:
        name = parent.func.attr if isinstance(parent.func, ast.Attribute) else getattr(parent.func, "id", "")
        return name in _LOOKING or name.endswith("_")
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Store)
    return isinstance(parent, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in parent.ops)


def _path(node: ast.AST, method: ast.FunctionDef) -> str | None:
    """Strip the self of `self.a.b`; None for what does not begin with it."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if parts and isinstance(node, ast.Name) and node.id == method.args.args[0].arg:
        return ".".join(reversed(parts))
    return None


def _calls(method: ast.FunctionDef) -> Iterator[str]:
    yield from _calls_in(method.body, method)


def _calls_in(steps: list[ast.stmt], method: ast.FunctionDef) -> Iterator[str]:
    for node in (inner for step in steps for inner in ast.walk(step)):
        if isinstance(node, ast.Call) and (path := _path(node.func, method)):
            yield path


def _mentions(method: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and (node.attr in _BY_NAME or _path(node, method) == node.attr):
            yield node.attr
        elif isinstance(node, ast.Name) and node.id in _BY_NAME:
            yield node.id
