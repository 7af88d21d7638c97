"""What provenance.json may say of an adapter, key by key; each task names those that it cannot be used without."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A key's requirement, as a check of its value and in words."""

    fits: Callable[[object], bool]
    kind: str


def one_of(*known: str) -> Fact:
    return Fact(lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(id, int) and 0 <= id < 2**31 for id in value)


def _are_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


def _are_texts_by_name(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


COUNT = Fact(_is_count, "a whole number above 0")
TOKENS = Fact(_are_ids, "numbers of tokens")
LABELS = Fact(_are_names, "different texts")
COLUMNS = Fact(_are_texts_by_name, "names of columns by what they hold")
PATHS = Fact(_are_texts_by_name, "paths by name")
