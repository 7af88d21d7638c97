"""Where a block ends: with the sum of its last sub-layer and the residual, or with a norm of that sum (post-LN).

Which of the two is read from the source of the block's forward: what it returns is followed back to the module that
gave it. A block whose source does not say so is not guessed at.
"""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from .modules import joined, normalizes
from .source import method_of

UNKNOWN = "?"


def final_norm(block: nn.Module) -> str | None:
    """Return the norm within the block whose result is the block's, None if a sum is, UNKNOWN if the source does not
    tell.
    """
    return _ending(block, "forward", "", 0)


def _ending(module: nn.Module, method: str, prefix: str, depth: int) -> str | None:
    function = method_of(type(module), method)
    if function is None or depth > 6:
        return UNKNOWN
    body = list(_taken(module, function.body))
    returned = [node.value for node in body if isinstance(node, ast.Return) and node.value is not None]
    if not returned:
        return UNKNOWN
    return _source(module, body, returned[-1], returned[-1].lineno, prefix, depth)


def _source(module: nn.Module, body: list[ast.stmt], node: ast.expr, line: int, prefix: str, depth: int) -> str | None:
    """Return what gives the value of `node`, as of `line`."""
    if isinstance(node, ast.Tuple | ast.List) and node.elts:
        return _source(module, body, node.elts[0], line, prefix, depth)
    if isinstance(node, ast.Subscript):
        return _source(module, body, node.value, line, prefix, depth)
    if isinstance(node, ast.BinOp):
        if isinstance(node.left, ast.Tuple | ast.List) or isinstance(
            node.right, ast.Tuple | ast.List
        ):  # (hidden, ) + others
            return _source(module, body, node.left, line, prefix, depth)
        return None if isinstance(node.op, ast.Add) else _source(module, body, node.left, line, prefix, depth)
    if isinstance(node, ast.IfExp):
        return _source(module, body, node.body, line, prefix, depth)
    if isinstance(node, ast.Name):
        found = _last_assignment(body, node.id, line)
        if found is None:
            return UNKNOWN
        value, at = found
        return None if value is None else _source(module, body, value, at, prefix, depth)
    if isinstance(node, ast.Call):
        return _called(module, body, node, line, prefix, depth)
    return UNKNOWN


def _called(module: nn.Module, body: list[ast.stmt], node: ast.Call, line: int, prefix: str, depth: int) -> str | None:
    path = _path(node.func)
    if path is not None:
        name = ".".join(path)
        child = _child(module, path)
        if isinstance(child, nn.Module):
            full = joined(prefix, name)
            if normalizes(child):
                return full
            if node.args and next(child.parameters(), None) is None:  # a dropout
                return _source(module, body, node.args[0], line, prefix, depth)
            if isinstance(child, nn.Linear):  # a part of a block that others add to the residual
                return UNKNOWN
            return _ending(child, "forward", full, depth + 1)
        if len(path) == 1 and callable(getattr(type(module), name, None)):
            return _ending(module, name, prefix, depth + 1)
    for argument in node.args:  # apply_chunking_to_forward(self.chunk, ...) and the like
        inner = _path(argument)
        if inner is not None and len(inner) == 1 and inspect.isfunction(getattr(type(module), inner[0], None)):
            return _ending(module, inner[0], prefix, depth + 1)
    if isinstance(node.func, ast.Attribute) and _is_local(body, node.func, line):  # hidden.to(...), hidden.view(...)
        return _source(module, body, node.func.value, line, prefix, depth)
    if node.args:  # a function of a tensor, such as a dropout or a residual connection
        return None if _adds(node) else _source(module, body, node.args[0], line, prefix, depth)
    return UNKNOWN


def _is_local(body: list[ast.stmt], node: ast.expr, line: int) -> bool:
    """Tell whether an attribute is one of a value that the method has, and not of a library: torch.clamp."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return not isinstance(node, ast.Name) or _last_assignment(body, node.id, line) is not None


def _adds(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    return "add" in name.split("_")


def _child(module: nn.Module, path: list[str]) -> object:
    child: Any = module
    for name in path:
        child = child[int(name)] if name.lstrip("-").isdigit() else getattr(child, name, None)
        if child is None:
            return None
    return child


def _path(node: ast.expr) -> list[str] | None:
    """Return the dotted name behind `self`, a number for an index into a list; None if it is not one."""
    if isinstance(node, ast.Name):
        return [] if node.id == "self" else None
    if isinstance(node, ast.Attribute):
        inner = _path(node.value)
        return None if inner is None else [*inner, node.attr]
    if isinstance(node, ast.Subscript):
        inner, index = _path(node.value), _number(node.slice)
        return None if inner is None or index is None else [*inner, str(index)]
    return None


def _number(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, int) else None


def _last_assignment(body: list[ast.stmt], name: str, line: int) -> tuple[ast.expr | None, int] | None:
    """Return the value that was last given to `name` before `line`, and where; None for the value of an
    added-to name.
    """
    found = None
    for node in body:
        if node.lineno >= line:
            break
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            if isinstance(node.op, ast.Add) and not isinstance(node.value, ast.Tuple | ast.List):
                found = (None, node.lineno)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
                if isinstance(first, ast.Name) and first.id == name:
                    found = (node.value, node.lineno)
    return found


def _taken(module: nn.Module, statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements in their order, those inside others too, without the branches that this
    module never takes.
    """
    for node in statements:
        yield node
        for test, branch in _branches(node):
            if test is None or _holds(module, test) is not False:
                yield from _taken(module, branch)


def _branches(node: ast.stmt) -> Iterator[tuple[ast.expr | None, list[ast.stmt]]]:
    if isinstance(node, ast.If):
        yield node.test, node.body
        yield ast.UnaryOp(ast.Not(), node.test), node.orelse
    elif isinstance(node, ast.For | ast.While | ast.With | ast.Try):
        yield None, node.body


def _holds(module: nn.Module, test: ast.expr) -> bool | None:
    """Return whether a condition on what the module is made of holds; None if it is one on what it is called with."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _holds(module, test.operand)
        return None if inner is None else not inner
    path = _path(test)
    if not path or path[-1] == "training":
        return None
    value: object = module
    for name in path:
        if not hasattr(value, name):
            return None
        value = getattr(value, name)
    return value if isinstance(value, bool) else None
