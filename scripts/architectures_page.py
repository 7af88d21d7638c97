"""The page that scripts/architectures.py writes: a table for each kind of architecture, and what the numbers mean."""

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import inlay
from tests.architectures import ARCHITECTURES

Found = dict[str, Any]

INTRODUCTION = """\
# Architectures

Every method on {count} architectures of transformers {transformers} (torch {torch}), as tiny random models:
`{command}` writes this page.

**✓** The adapter attaches; one training step gives every part of it a gradient and leaves the frozen base as it was;
saved and loaded on a fresh base it gives the same output; merged it gives what it gave beside the base, or refuses to
be merged; each row of a batch, and a padded row, comes out as it does alone; generation with a cache writes what
generation without one writes; detaching brings the base back bit for bit. What a base itself does not do (generate,
pad a row) is left out. **–** It is refused with a sentence before anything has changed, or in the first training
step where the sentence says so. A number leads to the sentence.

Settings are as by default, but for sizes (rank 2, three virtual tokens) and for `bitfit`, which adds biases where there
are none. Rows named *texts* adapt the language model of a vision-language model; rows named *images* adapt all of it.

"""


def page(
    found: Iterable[Found], command: str = "python scripts/architectures.py --markdown docs/architectures.md"
) -> str:
    cells = {(v["architecture"], v["method"]): v for v in found if v["method"] in inlay.METHODS}
    names = [name for name in ARCHITECTURES if any(name == a for a, _ in cells)]
    methods = [m for m in inlay.METHODS if any(m == other for _, other in cells)]
    notes: dict[str, int] = {}
    text = INTRODUCTION.format(
        count=len(names), transformers=version("transformers"), torch=version("torch").split("+")[0], command=command
    )
    for kind in dict.fromkeys(ARCHITECTURES[name].kind for name in names):
        text += f"## {kind.capitalize()}\n\n| | {' | '.join(methods)} |\n|---|{':-:|' * len(methods)}\n"
        for name in names:
            if ARCHITECTURES[name].kind == kind:
                row = (_cell(cells.get((name, method)), notes) for method in methods)
                text += f"| {name} | {' | '.join(row)} |\n"
        text += "\n"
    return text + "## Sentences\n\n" + "".join(f"{number}. {sentence}\n" for sentence, number in notes.items())


def _cell(verdict: Found | None, notes: dict[str, int]) -> str:
    if verdict is None:
        return ""
    if verdict["faults"]:
        return "✗"
    sentences = [verdict["refused"]] if verdict["refused"] else verdict["notes"]
    numbers = [notes.setdefault(plain(s, verdict["architecture"]), len(notes) + 1) for s in sentences]
    return ("–" if verdict["refused"] else "✓") + "".join(f"<sup>{n}</sup>" for n in dict.fromkeys(numbers))


def plain(sentence: str, architecture: str) -> str:
    """The sentence without what is this model's alone, so that the same one of several models is one."""
    sentence = re.sub(r"\b\w+(?:\.\w+)*\.\d+(?:\.\w+)*\.(?=\w)|\b\w+(?:\.\w+)*\.(?=\d+\b)", "…", sentence)
    sentence = re.sub(r"…\d+", "a block", sentence)
    sentence = re.sub(r"\b[A-Z]\w*(?:For[A-Z]\w+|Model|MTModel)\b", "the model", sentence)
    return re.sub(rf"(?<![\w.]){re.escape(architecture.split(' ')[0])}(?![\w.])", "the model", sentence)
