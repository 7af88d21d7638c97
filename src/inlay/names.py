"""Which name an unknown one was meant to be: one that begins or ends alike, that others call so, or but for a slip."""

from collections.abc import Iterable, Mapping

_MOST_ALIKE = 3  # names that are worth listing where they begin or end alike
_SLIPS = ((4, 0), (7, 1), (12, 2))  # how many there may be in a name that is shorter than that; in others three


def meant(asked: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return what was probably meant: one name; several that begin or end alike; none if none is near, since a wrong
    suggestion is worse than none.

    `elsewhere` has words of other tools and papers. Each stands for known names or their last parts, separated by bars;
    one may go on with a value, as `quantize nf4`. One that stands for nothing has no counterpart here.
    """
    known, elsewhere = list(known), elsewhere or {}
    whole, last = _plain(asked), _plain(asked.rpartition(".")[2])
    for name in known:
        if _plain(name) == whole:
            return (name,)
    if same := [name for name in known if _plain(name.rpartition(".")[2]) == last]:
        return tuple(same)
    words = {_plain(word): _known(stands_for, known) for word, stands_for in elsewhere.items()}
    for word in (whole, last):
        if word in words:
            return words[word]
    if alike := [name for name in known if _begins_or_ends_in(name, asked)]:
        return tuple(alike) if len(alike) <= _MOST_ALIKE else ()
    ends = {_plain(name.rpartition(".")[2]): (name,) for name in known}
    return _but_for_a_slip((whole, last), words | ends | {_plain(name): (name,) for name in known})


def listed(names: Iterable[str], word: str = "or") -> str:
    """Write `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def followed(said: str, more: str) -> str:
    """Go on with `more` behind what is said: as a sentence of its own behind a question."""
    return f"{said} {more[:1].upper()}{more[1:]}" if said.endswith("?") else f"{said}; {more}"


def no_setting(method: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say that a method has no such setting, and which was meant or which it has."""
    known = list(known)
    if near := meant(name, known, elsewhere):
        return f"{method} has no setting {name}; did you mean {listed(near)}?"
    return (
        f"{method} has no setting {name}; it has {listed(known, 'and') if known else 'none'} (inlay methods {method})"
    )


def _but_for_a_slip(asked: Iterable[str], meanings: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the meaning of the word that is nearest, unless another meaning is as near."""
    slips: dict[tuple[str, ...], int] = {}
    for word, meaning in meanings.items():
        for each in asked:
            longer = max(len(each), len(word))
            most = next((most for below, most in _SLIPS if longer < below), 3)
            if abs(len(each) - len(word)) <= most and (count := _slips(each, word)) <= most:
                slips[meaning] = min(count, slips.get(meaning, count))
    best = [meaning for meaning, count in slips.items() if count == min(slips.values())]
    return best[0] if len(best) == 1 else ()


def _slips(asked: str, word: str) -> int:
    """Count the letters to add, leave out, change or exchange with the next that lie between two words."""
    before: list[int] = []
    row = list(range(len(word) + 1))
    for i, letter in enumerate(asked, 1):
        before, row, above = row, [i], before
        for j, other in enumerate(word, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == word[j - 2] and asked[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _known(stands_for: str, known: Iterable[str]) -> tuple[str, ...]:
    """Write out what a word stands for, as far as it is known here."""
    found: list[str] = []
    for each in filter(None, stands_for.split(" | ")):
        wanted, _, more = each.partition(" ")
        there = [name for name in known if wanted in (name, name.rpartition(".")[2])]
        there = there or [name for name in known if name == wanted.rpartition(".")[2]]  # in Python, without `data.`
        found += [f"{name} {more}".strip() for name in there]
    return tuple(found)


def _begins_or_ends_in(name: str, asked: str) -> bool:
    """Tell whether the first or the last words of a name are what was asked for, as `pair` of text_pair."""
    words, own = (each.rpartition(".")[2].replace("-", "_").lower().split("_") for each in (asked, name))
    return len(words) < len(own) and words in (own[: len(words)], own[-len(words) :])


def _plain(name: str) -> str:
    return name.lower().lstrip("-").replace("-", "").replace("_", "").replace(" ", "")
