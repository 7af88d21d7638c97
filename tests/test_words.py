"""The words of the source: what docstrings begin with, and no two classes of one name; ruff asks for verbs."""

import ast
from collections import Counter
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parent.parent / "src" / "inlay").rglob("*.py"))
NO_SENTENCE = {
    "Of",
    "Those",
    "As",
    "From",
    "By",
    "That",
    "What",
    "Whatever",
    "Where",
    "Whether",
    "With",
    "In",
    "On",
    "At",
}
KINDS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def is_property(node: ast.AST) -> bool:
    return any("property" in ast.unparse(each) for each in getattr(node, "decorator_list", ()))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[path.parts.index("inlay") + 1 :]))
def test_a_docstring_is_a_sentence(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, KINDS) and (text := ast.get_docstring(node)) and not is_property(node):
            assert text.split()[0] not in NO_SENTENCE, f"{node.name}: {text.splitlines()[0]}"
            assert isinstance(node, ast.ClassDef) or text.split()[0] != "What", f"{node.name}: begin with a verb"


def test_no_two_classes_share_a_name() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    names = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert {name for name, count in names.items() if count > 1} == set()
