"""The page docs/methods.md, made from the methods' own docstrings, settings and a count of what they train.

python scripts/methods_page.py > docs/methods.md
"""

import textwrap
from collections.abc import Iterator

from inlay.cli.flags import value_text
from inlay.cli.methods_screen import LEGEND, family_text, found_out, members
from inlay.core.method import Method
from inlay.methods import FAMILIES, METHODS
from inlay.methods.explained import explained, settings
from inlay.methods.llama_7b import on_llama_7b
from inlay.show.units import percent_text

_TITLES = {
    "baseline": "The baseline",
    "selective": "Selective methods",
    "additive": "Additive methods",
    "reparameterized": "Reparameterization",
    "prompts": "Soft prompts",
}
_INTRO = (
    "Every method of Inlay, explained for a reader who knows what parameter-efficient fine-tuning is for. "
    "`inlay methods NAME` prints the same for one of them.",
    f"In the pictures: {LEGEND}, and D the width of the model. The counts are of Llama 2 7B with a method's defaults: "
    "it is placed on a model of that shape without values, and what it trains is counted, without a task's head. QLoRA "
    "is no method of its own: it is `lora` on a base in 4 bits (`--quantize nf4`), on which any other one runs too.",
    "This page is made by `python scripts/methods_page.py > docs/methods.md`; what it says stands in "
    "`src/inlay/methods/`.",
)


def page() -> str:
    return "\n\n".join(_parts()) + "\n"


def _parts() -> Iterator[str]:
    yield "# Methods"
    yield from map(_wrapped, _INTRO)
    yield _overview()
    for family in FAMILIES:
        yield f"## {_TITLES[family]}"
        for block in family_text(family):
            yield _verbatim(block.text) if block.is_verbatim else _wrapped(block.text)
        for method in members(family):
            yield from _method(method)


def _overview() -> str:
    rows = [("method", "family", "trains", "of Llama 2 7B", "merges")]
    for name, method in METHODS.items():
        count = on_llama_7b(method)
        share = percent_text(count.share) + (" \\*" if method.example else "")
        rows.append((f"[`{name}`](#{name})", method.family, method.summary, share, "yes" if count.can_merge else "no"))
    return _table(rows) + "\n\n\\* with settings that a Llama needs, named below"


def _method(method: type[Method]) -> Iterator[str]:
    text = explained(method)
    yield f"### {method.name}"
    yield _wrapped(text.idea)
    yield _verbatim(text.picture)
    yield _verbatim(text.formula)
    yield _wrapped(f"**When.** {text.when}")
    yield _wrapped(f"**Cost.** {text.cost}")
    yield _table([("", ""), *found_out(method).items()])
    if chosen := settings(method):
        rows = [(f"`{s.name}`", f"`{value_text(s.default)}`", s.text) for s in chosen]
        yield _table([("setting", "default", "what it does"), *rows])


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in (head, " | ".join(["---"] * len(rows[0])), *body))


def _verbatim(text: str) -> str:
    return f"```text\n{text}\n```"


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(page(), end="")
