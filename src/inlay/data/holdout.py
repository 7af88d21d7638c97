"""Rows of train that are held out for evaluation when the data brings no valid split."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from .problems import Problems

FEWEST_ROWS = 8
FEWEST_HELD_OUT = 16
MOST_HELD_OUT = 500


class Heldable(Protocol):
    @property
    def together(self) -> str:
        """Rows in which this is the same are never held out without one another."""
        ...


HeldableT = TypeVar("HeldableT", bound=Heldable)


def with_valid(
    splits: dict[str, list[HeldableT]],
    names: dict[str, str],
    fraction: float,
    problems: Problems,
    label_of: Callable[[HeldableT], int] = lambda _: 0,
) -> tuple[dict[str, list[HeldableT]], str | None]:
    """Return the splits with a valid split, and where that is from: held out of train, by a hash of the text, if not
    given.

    `names` are the files of the splits. As they are, with None and a problem, if train has too few rows for that.
    """
    if "valid" in splits:
        return splits, names["valid"]
    name, train = names["train"], splits["train"]
    if len(train) < FEWEST_ROWS:
        message = f"{len(train)} rows are too few to hold some out for evaluation; give at least {FEWEST_ROWS}"
        problems.add("few rows", name, f"{message}, or a valid file as well")
        return splits, None
    held = held_out([example.together for example in train], [label_of(example) for example in train], fraction)
    if not held:
        message = f"none of the {len(train)} rows can be held out for evaluation: too many share a text or have a label"
        problems.add("few rows", name, f"{message} that no other row has; give more rows, or a valid file as well")
        return splits, None
    parts = {
        "train": [example for i, example in enumerate(train) if i not in held],
        "valid": [example for i, example in enumerate(train) if i in held],
    }
    share = f"{100 * len(held) / len(train):.2g} % of train: {len(held):,} rows, the same whatever the seed"
    return parts | {split: examples for split, examples in splits.items() if split != "train"}, share


def held_out(texts: Sequence[str], labels: Sequence[int], fraction: float) -> set[int]:
    """Return the indices to hold out: `fraction` of the rows, at least 16, at most 500, never more than a third.

    Which ones depends on the texts alone, not on their order or on a seed. The labels are held out in proportion, every
    label keeps a row in train, and rows with the same text stay together, so there may be fewer, or none, where many
    rows share a text or have a label of their own.
    """
    wanted = min(max(round(len(texts) * fraction), FEWEST_HELD_OUT), MOST_HELD_OUT, len(texts) // 3)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[_digest(text)].append(index)
    remaining = Counter(labels)
    held: set[int] = set()
    for digest in _in_proportion({digest: min(labels[i] for i in group) for digest, group in groups.items()}):
        group = groups[digest]
        taken = Counter(labels[i] for i in group)
        if len(held) + len(group) <= wanted and all(remaining[label] > count for label, count in taken.items()):
            held.update(group)
            remaining -= taken
    return held


def normalised(text: str) -> str:
    """Return the text without differences in case, white space and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(text: str) -> str:
    return hashlib.sha256(normalised(text).encode()).hexdigest()


def _in_proportion(label_of: dict[str, int]) -> list[str]:
    """Return the digests so ordered that every start of the list has each label about as often as the whole has."""
    by_label: dict[int, list[str]] = defaultdict(list)
    for digest in sorted(label_of):
        by_label[label_of[digest]].append(digest)
    position = {
        digest: (rank + 0.5) / len(digests) for digests in by_label.values() for rank, digest in enumerate(digests)
    }
    return sorted(position, key=lambda digest: (position[digest], digest))
