"""The words of the source: what docstrings begin with, no two classes of one name, few types that say Any."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "inlay"
NO_SENTENCE = set("Of Those As From By That Whatever Where Whether With In On At".split())
LINES_WITH_ANY = 156  # at most, imports aside: what a foreign object or a hook brings has no better type
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions() -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DEFINITIONS):
                yield node


def test_docstrings_are_sentences() -> None:
    """A function's begins with a verb, a class's with a noun phrase; a property's may say what it is."""
    wrong = []
    for node in definitions():
        text = ast.get_docstring(node)
        if text is None or any("property" in ast.unparse(each) for each in node.decorator_list):
            continue
        refused = NO_SENTENCE if isinstance(node, ast.ClassDef) else NO_SENTENCE | {"The", "A", "What", "Raises"}
        if text.split()[0] in refused:
            wrong.append(f"{node.name}: {text.splitlines()[0]}")
    assert wrong == []


def test_no_two_classes_share_a_name() -> None:
    names = Counter(node.name for node in definitions() if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_few_types_say_any() -> None:
    lines = [line for path in SOURCE.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.search(r"\bAny\b", line) and "import" not in line]
    assert len(found) <= LINES_WITH_ANY
