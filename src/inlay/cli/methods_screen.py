"""The pages of `inlay methods`: the methods by family, and one family or method explained."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator

from ..api.asked import SHORT_FOR
from ..core.method import Method
from ..methods import FAMILIES, METHODS
from ..methods.explained import Block, blocks, explained, settings
from ..methods.llama_7b import BYTES_TO_TRAIN, on_llama_7b
from ..methods.peak_rate import STEPS, WIDTH, rates_of
from ..show.table import Column, Table
from ..show.units import bytes_text, percent_text
from .flags import value_text
from .screen import print_json
from .train import short_flags

LEGEND = "double lines: trained · single lines: frozen · I inputs, O outputs of a layer"
_WIDEST = 100  # columns; longer lines are hard to read


def print_methods(name: str, json: bool) -> None:
    """Print all methods, or those of a name, or what is known of them as JSON."""
    if name in SHORT_FOR:
        method, implied = SHORT_FOR[name]
        if not json:
            print(f"{name} is {method} with {' '.join(short_flags(implied))}:\n")
        name = method
    if name and name not in FAMILIES:
        name = METHODS.find(name, also=FAMILIES).name
    if json:
        print_json(_facts(name), indent=2)
    else:
        print("\n".join(_text(name)))


def facts(method: type[Method]) -> dict[str, object]:
    text, count = explained(method), on_llama_7b(method)
    return {
        "family": method.family,
        "trains": method.summary,
        "idea": text.idea,
        "picture": text.picture,
        "formula": text.formula,
        "when": text.when,
        "cost": text.cost,
        "on_llama_2_7b": {
            "settings": count.settings,
            "trained_parameters": count.trained,
            "total_parameters": count.total,
            "bytes_to_train": BYTES_TO_TRAIN * count.trained,
        },
        "can_merge": count.can_merge,
        "virtual_tokens": method().virtual_tokens,
        "learning_rate": {"reading": rates_of(method).reading, "writing": rates_of(method).writing},
        "epochs": method.epochs,
        "paper": method.paper,
        "peft_type": method.format.peft_type if method.format.read_by_peft else None,
        "settings": {setting.name: setting.default for setting in settings(method)},
    }


def family_facts(family: str) -> dict[str, object]:
    text = "\n\n".join(block.text for block in family_text(family))
    return {"explanation": text, "methods": {method.name: facts(method) for method in members(family)}}


def family_text(family: str) -> list[Block]:
    docstring = FAMILIES[family].__doc__
    assert docstring
    return list(blocks(docstring))


def members(family: str) -> list[type[Method]]:
    return [method for method in METHODS.values() if method.family == family]


def found_out(method: type[Method]) -> dict[str, str]:
    """Return what is counted or computed, or said by the class, in sentences by what they are about."""
    count, tokens = on_llama_7b(method), method().virtual_tokens
    example = ", ".join(f"{name} {value_text(value)}" for name, value in count.settings.items())
    share = f"{count.trained:,} of {count.total:,} parameters ({percent_text(count.share)})"
    saved = (
        f"in PEFT's format, {method.format.peft_type}"
        if method.format.read_by_peft
        else "in two files like PEFT's, which cannot read it"
    )
    return {
        "trained": method.summary,
        "of Llama 2 7B": f"{share}, with {example}" if example else share,
        "to train them": f"{bytes_text(BYTES_TO_TRAIN * count.trained)} for values, gradients and AdamW's averages",
        **({"virtual tokens": f"{tokens} before every text"} if tokens else {}),
        "merging": "yes, into the base's weights" if count.can_merge else "no",
        "learning rate": learning_rate_text(method),
        "epochs": f"{method.epochs:g}, or more for fewer than 100 steps, if --epochs does not say otherwise",
        "saved": saved,
        "paper": method.paper,
    }


def learning_rate_text(method: type[Method]) -> str:
    """Return the rates that a run begins from which asks for none."""
    rates = rates_of(method)
    return (
        f"{rates.reading:g} for a classifier, {rates.writing:g} for a language model, at the peak, in {STEPS} steps of "
        f"a model {WIDTH} wide; lower for a wider model and for a longer run, higher for more labels than two; "
        "--learning-rate sets it"
    )


def _facts(name: str) -> dict[str, object]:
    if name in METHODS:
        return {name: facts(METHODS[name])}
    return {family: family_facts(family) for family in FAMILIES if name in ("", family)}


def _text(name: str) -> Iterator[str]:
    if name in METHODS:
        return _method(METHODS[name])
    return _family(name) if name else _overview()


def _overview() -> Iterator[str]:
    for family in FAMILIES:
        yield family
        yield from _table(members(family))
        yield ""
    yield from _lines(_shares(METHODS.values()))
    yield from _lines("inlay methods NAME explains a method or a family.")


def _family(family: str) -> Iterator[str]:
    for block in family_text(family):
        yield from _block(block)
        yield ""
    yield from _table(members(family))
    yield ""
    yield from _lines(_shares(members(family)))


def _method(method: type[Method]) -> Iterator[str]:
    text = explained(method)
    yield from _lines(f"{method.name}, of the family {method.family} (inlay methods {method.family})")
    yield ""
    yield from _lines(text.idea)
    for part in filter(None, (text.picture, text.formula)):
        yield ""
        yield textwrap.indent(part, "  ")
    yield ""
    if text.picture:
        yield from _lines(LEGEND, indent="  ")
        yield ""
    said = {about: sentence for about, sentence in (("when", text.when), ("cost", text.cost)) if sentence}
    yield from _beside((said | found_out(method)).items())
    yield ""
    if chosen := settings(method):
        yield f"Settings: inlay train --method {METHODS.reference(method)} --method.NAME VALUE"
        rows = ((f"{s.name} = {value_text(s.default)}", s.text) for s in chosen)
        yield from _beside(rows, indent="  ")
    else:
        yield "No settings."


def _table(methods: Iterable[type[Method]]) -> Iterator[str]:
    longest = max(map(len, METHODS))
    rows = (
        (m.name.ljust(longest), f"{percent_text(on_llama_7b(m).share)}{'*' * bool(m.example)}".ljust(9), m.summary)
        for m in methods
    )
    return _beside(rows, indent="  ")


def _shares(methods: Iterable[type[Method]]) -> str:
    needed = "; * it needs settings there, see inlay methods NAME" if any(method.example for method in methods) else ""
    return f"The share is what a method trains of Llama 2 7B's parameters{needed}."


def _beside(rows: Iterable[tuple[str, ...]], indent: str = "") -> Iterator[str]:
    """Yield columns without headings, of which the last has wrapped texts."""
    rows = list(rows)
    table = Table(columns=[Column(name="") for _ in rows[0]], rows=rows)
    yield textwrap.indent(table.screen(_width() - len(indent)), indent)


def _block(block: Block) -> Iterator[str]:
    return iter([textwrap.indent(block.text, "  ")]) if block.is_verbatim else _lines(block.text)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _WIDEST)


def _lines(text: str, indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        _width(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
