"""The page that scripts/peft_files.py writes: how many of each type came out how, and why the others are refused."""

import re
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import inlay

PAGE = """\
# Files of Hugging Face PEFT

`python scripts/peft_files.py --markdown docs/peft_files.md` writes this page: {count} adapters on {models} tiny random
models, with PEFT {peft}, transformers {transformers} and torch {torch}. All trained tensors are off their start. Equal
outputs are those that agree to 1e-5.

## What PEFT made

**Equal**: Inlay loads the file and computes what the model computed in which PEFT made it. Saved again, it is loaded by
Inlay with the same outputs to the last bit, by PEFT with equal ones, and saved once more it is the same bytes.
**Equal, saved in Inlay's form**: the same, but what Inlay saves has a type that PEFT does not have. **Refused**: an
error that names the setting, before anything changed; the sentences are below. **Not made**: PEFT cannot make such an
adapter, or not read its own file. *Common settings* are those that recipes and trainers set every day.

{read}

## What Inlay made

Each method that PEFT has too, as by default on all the models, and with other settings on four. **Equal**: PEFT loads
what Inlay saved and computes the same. **Not made**: PEFT cannot run such an adapter on that model even if it
made it (the transposed layers of GPT-2 with three methods), or it changes nothing there.

{written}

## Sentences

{refusals}
"""
KINDS = {"equal": "equal", "own": "equal, saved in Inlay's form", "refused": "refused by name", "wrong": "wrong"}
Outcomes = list[Any]


def tables(outcomes: Outcomes) -> str:
    return "\n\n".join(_table(*part) for part in _parts(outcomes) if part[0])


def page(outcomes: Outcomes) -> str:
    read, written = (_table(*part) for part in _parts(outcomes))
    versions = {name: version(name).split("+")[0] for name in ("peft", "transformers", "torch")}
    models = len({o.case.model for o in outcomes})
    return PAGE.format(
        count=len(outcomes), models=models, read=read, written=written, refusals=_refusals(outcomes), **versions
    )


def _parts(outcomes: Outcomes) -> list[tuple[Outcomes, bool]]:
    ours = [o for o in outcomes if o.case.type in inlay.METHODS]
    return [([o for o in outcomes if o not in ours], True), (ours, False)]


def _table(outcomes: Outcomes, with_common: bool) -> str:
    heads = [*KINDS.values(), "not made"]
    rows = [["type" if with_common else "method", *heads], ["---", *["--:"] * len(heads)]]
    counts = {
        t: _count(outcomes, lambda o, t=t: o.case.type == t) for t in dict.fromkeys(o.case.type for o in outcomes)
    }
    alone = [t for t, count in counts.items() if set(count) <= {"refused", "unmade"}]
    rows += [[t, *_cells(count)] for t, count in counts.items() if t not in alone]
    if alone:
        rest = _count(outcomes, lambda o: o.case.type in alone)
        rows.append([f"{len(alone)} types that Inlay does not read", *_cells(rest)])
    total, common = _count(outcomes, lambda o: True), _count(outcomes, lambda o: o.case.common)
    rows.append(["**all**", *_cells(total)])
    if with_common:
        rows.append(["**common settings**", *_cells(common)])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    right, made = common["equal"] + common["own"], sum(common[k] for k in KINDS)
    share = (
        f"\n\n{100 * right / max(1, made):.1f} % of the {made} with common settings are equal." if with_common else ""
    )
    return text + share


def _count(outcomes: Outcomes, which: Callable[[Any], bool]) -> Counter[str]:
    return Counter(o.kind for o in outcomes if which(o))


def _cells(count: Counter[str]) -> list[str]:
    return [str(count[kind]) if count[kind] else "" for kind in (*KINDS, "unmade")]


def _refusals(outcomes: Outcomes) -> str:
    """Each sentence once, with what it was said of."""
    said: dict[str, list[str]] = {}
    for o in outcomes:
        if o.kind == "refused":
            sentence = re.sub(r"peft_type \w+; known:.*", "peft_type …", o.detail)
            said.setdefault(sentence, []).append(o.case.type if sentence.endswith("…") else o.case.name)
    return "\n".join(f"- {', '.join(dict.fromkeys(of))}: *{sentence}*" for sentence, of in said.items())
