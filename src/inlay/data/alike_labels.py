"""Labels that differ only in how they are written: most often one label, which a model would learn as two."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from unicodedata import normalize

from .holdout import normalised
from .problems import shown


def alike_labels(labels: Iterable[str]) -> Iterator[str]:
    """Yield a sentence on each group of labels that are written alike."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[normalised(label)].append(label)
    for alike in spellings.values():
        if len(alike) > 1:
            yield f"the labels {' and '.join(map(shown, alike))} differ only in {_difference(alike)}"


def meant_label(label: str, known: Iterable[str]) -> str | None:
    """Return the known label from which this differs only in how it is written: in case, white space and Unicode form,
    or else in signs that part words too. None if there is none, or several."""
    known = list(known)
    for plain in (normalised, _letters):
        if plain(label) and (alike := [each for each in known if plain(each) == plain(label)]):
            return alike[0] if len(alike) == 1 else None
    return None


def _letters(label: str) -> str:
    return "".join(filter(str.isalnum, normalised(label)))


def _difference(alike: Sequence[str]) -> str:
    """Say in what labels differ that are the same without all of it: what is left when only the others are taken."""
    plain: dict[str, Callable[[str], str]] = {
        "case": str.casefold,
        "white space": lambda label: " ".join(label.split()),
        "Unicode form (NFC writes each letter in one way)": lambda label: normalize("NFKC", label),
    }
    found = []
    for kind in plain:
        left = alike
        for other, take in plain.items():
            left = left if other == kind else list(map(take, left))
        found += [kind] * (len(set(left)) > 1)
    return " and ".join(found)
