"""What stands below each field of a settings class in the code, which is its help."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache


def field_texts(kind: type) -> dict[str, str]:
    """Return the text below each field of a dataclass and of those that it inherits from, each in one line."""
    texts: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if dataclasses.is_dataclass(cls):
            texts |= _own_texts(cls)
    return texts


@cache
def _own_texts(cls: type) -> dict[str, str]:
    """Find the text below each field; there is none where the source cannot be had, as in a console."""
    try:
        source = inspect.getsource(cls)
    except OSError:
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts
