"""What the source of a module's class tells."""

import ast
import inspect
import textwrap
from functools import cache

from torch import nn


@cache
def method_of(kind: type, name: str) -> ast.FunctionDef | None:
    """Return the method's syntax tree, or None where its source cannot be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(kind, name)))))
    except (OSError, TypeError, SyntaxError, AttributeError):
        return None
    return tree.body[0] if isinstance(tree.body[0], ast.FunctionDef) else None


def used_last(module: nn.Module, names: list[str]) -> str:
    """Return which of these layers in it is used last, as far as their order or the code that has the last of them
    tells.
    """
    holder = names[-1].rpartition(".")[0]
    code = getattr(inspect.unwrap(type(module.get_submodule(holder)).forward), "__code__", None)
    used = list(code.co_names) if code is not None else []  # in the order of their first use
    beside = [(n, n.rpartition(".")[2]) for n in reversed(names) if n.rpartition(".")[0] == holder]
    return max(beside, key=lambda pair: used.index(pair[1]) if pair[1] in used else -1)[0]


def gives_several(layer: nn.Module) -> bool:
    """Tell whether a linear layer's own forward returns more than one thing."""
    own = isinstance(getattr(layer, "in_features", None), int) and type(layer).forward is not nn.Linear.forward
    return own and _returns_several(type(layer))


@cache
def _returns_several(kind: type) -> bool:
    forward = method_of(kind, "forward")
    return forward is not None and any(
        isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) for node in ast.walk(forward)
    )
