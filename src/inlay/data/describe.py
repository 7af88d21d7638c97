"""What `inlay data` says of DATA: format, counts, lengths, labels, duplicates and, without raising, problems."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ..show.units import counted
from .alike_labels import alike_labels
from .classification import Example, label_of, parse_labelled
from .formats import Layout, choose_layout, unused_columns
from .generation import GenerationExample, parse_generation, with_valid_texts
from .holdout import with_valid
from .portion import portion
from .problems import Problem, Problems, listed, shown
from .settings import DataSettings
from .small_splits import small_splits
from .source import Source, open_source

PLACES_SHOWN = 5
_FEW_ROWS = 5  # of a label
_NAMED = 8  # labels in a message
_PARTS = re.compile(r"\s*[,;|]\s*")
_REPEATS = {
    "exact": "the same text as",
    "white space": "the same text but for white space as",
    "prompt": "another answer to the same prompt as",
}


@dataclass(frozen=True, kw_only=True)
class FileReport:
    name: str
    split: str
    rows: int
    """Rows that could be read, whether or not they can be used."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, values: Sequence[int]) -> "Lengths | None":
        """Sum up the values; None if there are none."""
        if not values:
            return None
        values = sorted(values)
        median, p95 = (values[math.ceil(len(values) * share) - 1] for share in (0.5, 0.95))
        return cls(min=values[0], median=median, p95=p95, max=values[-1])


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    rows: int
    """Rows that are used."""
    labels: dict[str, int]
    """Rows of each label, in the order of the ids; none for a format without labels."""
    missing_labels: tuple[str, ...]
    """Labels of the data that no row of this split has."""
    characters: Lengths | None
    """The length of a row's texts together; None for a split without usable rows."""
    words: Lengths | None


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    kind: Literal["exact", "white space", "prompt"]
    """Whether the texts are the same, differ in white space alone, or (in two splits) share the prompt alone."""
    splits: tuple[str, ...]
    """One split, or two of which the second repeats texts of the first."""
    count: int
    """Rows whose text (or prompt) an earlier row of the split, or a row of the first split, has already."""
    places: tuple[tuple[str, str], ...]
    """The first few of them: the place of the text and the place of its repetition."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    path: str
    format: str
    """`unknown` if no format fits the columns."""
    files: tuple[FileReport, ...]
    ignored_files: tuple[str, ...]
    columns: dict[str, str]
    ignored_columns: tuple[str, ...]
    labels: tuple[str, ...]
    splits: dict[str, SplitReport]
    valid_from: str | None
    """The file of the valid split, or how it is held out of train; None if there is no such split."""
    duplicates: tuple[Duplicates, ...]
    problems: tuple[Problem, ...]


def describe(settings: DataSettings, unused: Collection[str] = ()) -> DataReport:
    """Return all that can be said of the data; of rows at `unused` places a model can use nothing, and they count for
    nothing. Raises DataError only if there is no such data at all."""
    problems = Problems(settings.skip_faulty)
    source = open_source(settings.path, problems, settings)
    train = source.splits["train"]
    layout = choose_layout(settings, source.all_rows(), problems) if train else None
    items: dict[str, list[_Item]] = {}
    labels: tuple[str, ...] = ()
    valid_from, held = source.names.get("valid"), 0
    if layout is None:
        layout = Layout("unknown", {})
        source.weigh(source.splits, problems)
    elif layout.format == "labelled-text":
        examples, labels = parse_labelled(source, layout, problems)
        source.weigh(examples, problems)
        if examples["train"]:
            examples, valid_from = with_valid(examples, source.names, settings.valid_fraction, problems, label_of)
            held = len(examples.get("valid", ()))
            examples = portion(examples, source.names, settings, problems)
        items = {split: [_Item.of(example, labels) for example in examples[split]] for split in examples}
    else:
        texts = parse_generation(source, layout, problems)
        source.weigh(texts, problems)
        if texts["train"]:
            texts, valid_from = with_valid_texts(texts, source.names, settings.valid_fraction, problems)
            texts = portion(texts, source.names, settings, problems)
        items = {split: [_Item.generated(example) for example in texts[split]] for split in texts}
    items = {split: [item for item in of_split if item.place not in unused] for split, of_split in items.items()}
    duplicates = tuple(_duplicates(items))
    splits = {split: _split_report(items[split], labels) for split in items}
    _warn_of_contradictions(items, problems)  # the worst first
    _warn_of_duplicates(duplicates, problems)
    _warn_of_labels(labels, splits, source, problems)
    holds_out = "valid" not in source.names and len(items.get("valid", ())) == held
    for split, sentence in small_splits({split: found.labels for split, found in splits.items()}, holds_out):
        place = source.names.get(split, source.names["train"])
        problems.add(("small split", split), place, sentence, severity="note")
    return DataReport(
        path=settings.path,
        format=layout.format,
        files=tuple(FileReport(name=n, split=s, rows=len(source.splits[s])) for s, n in source.names.items()),
        ignored_files=source.ignored,
        columns=layout.columns,
        ignored_columns=unused_columns(source.splits, layout),
        labels=labels,
        splits=splits,
        valid_from=valid_from,
        duplicates=duplicates,
        problems=tuple(problems.found()),
    )


@dataclass(frozen=True)
class _Item:
    texts: tuple[str, ...]
    label: str | None
    place: str
    prompt: tuple[str, ...] = ()

    @classmethod
    def of(cls, example: Example, labels: tuple[str, ...]) -> "_Item":
        return cls(example.texts, labels[example.label], example.place)

    @classmethod
    def generated(cls, example: GenerationExample) -> "_Item":
        return cls(example.texts, None, example.place, example.texts[:-1])


def _split_report(items: list[_Item], labels: tuple[str, ...]) -> SplitReport:
    counts = Counter(item.label for item in items)
    return SplitReport(
        rows=len(items),
        labels={label: counts[label] for label in labels if label in counts},
        missing_labels=tuple(label for label in labels if label not in counts),
        characters=Lengths.of([sum(map(len, item.texts)) for item in items]),
        words=Lengths.of([sum(len(text.split()) for text in item.texts) for item in items]),
    )


def _duplicates(items: dict[str, list[_Item]]) -> Iterator[Duplicates]:
    for one, other in [*((split, split) for split in items), *combinations(items, 2)]:
        exact: dict[tuple[str, ...], _Item] = {}
        loose: dict[tuple[str, ...], _Item] = {}
        prompts: dict[tuple[str, ...], _Item] = {}
        for item in items[one]:
            exact.setdefault(item.texts, item)
            loose.setdefault(_squeezed(item.texts), item)
            if item.prompt and one != other:
                prompts.setdefault(_squeezed(item.prompt), item)
        found: dict[Literal["exact", "white space", "prompt"], list[tuple[str, str]]]
        found = {"exact": [], "white space": [], "prompt": []}
        for item in items[other]:
            same, alike = exact.get(item.texts), loose.get(_squeezed(item.texts))
            asked = prompts.get(_squeezed(item.prompt))
            if same is not None and same is not item:
                found["exact"].append((same.place, item.place))
            elif alike is not None and alike is not item:
                found["white space"].append((alike.place, item.place))
            elif asked is not None:
                found["prompt"].append((asked.place, item.place))
        for kind, places in found.items():
            if places:
                yield Duplicates(
                    kind=kind,
                    splits=(one,) if one == other else (one, other),
                    count=len(places),
                    places=tuple(places[:PLACES_SHOWN]),
                )


def _squeezed(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)


def _warn_of_contradictions(items: dict[str, list[_Item]], problems: Problems) -> None:
    firsts: dict[tuple[str, ...], _Item] = {}
    for item in (item for split in items.values() for item in split):
        first = firsts.setdefault(item.texts, item)
        if item.label != first.label:
            message = f"the label is {shown(item.label)}, but {shown(first.label)} for the same text at {first.place}"
            problems.add("contradiction", item.place, message, severity="warning")


def _warn_of_duplicates(duplicates: tuple[Duplicates, ...], problems: Problems) -> None:
    """Warn once of all repeated texts, and once of prompts; the place is of a row that is in two splits, if any is, as
    scores on such rows say less."""
    for is_prompt in (False, True):
        kind = [found for found in duplicates if (found.kind == "prompt") is is_prompt]
        if not kind:
            continue
        worst = max(kind, key=lambda found: len(found.splits))
        first, again = worst.places[0]
        counts = Counter[tuple[str, ...]]()
        for found in sorted(kind, key=lambda found: -len(found.splits)):
            counts[found.splits] += found.count
        where = [f"{count:,} {_where(splits)}" for splits, count in counts.items()]
        more = f"; rows repeated in all: {', '.join(where)}" if sum(counts.values()) > 1 else ""
        problems.add(("duplicates", is_prompt), again, f"{_REPEATS[worst.kind]} {first}{more}", severity="warning")


def _where(splits: tuple[str, ...]) -> str:
    first, *others = splits
    return f"of {others[0]} in {first}" if others else f"within {first}"


def _warn_of_labels(
    labels: tuple[str, ...], splits: dict[str, SplitReport], source: Source, problems: Problems
) -> None:
    for message in alike_labels(labels):
        problems.add(("spelling", message), source.names["train"], message, severity="warning")
    counts = Counter[str]()
    for report in splits.values():
        counts.update(report.labels)
    if rare := [label for label in labels if counts[label] < _FEW_ROWS]:
        message = (
            f"{len(rare):,} of {counted(len(labels), 'label')} have fewer than {_FEW_ROWS} rows, too few to learn: "
            f"{_quoted(rare)}{_several_in_one(rare, labels)}"
        )
        problems.add("rare labels", source.names["train"], message, severity="warning")
    for split, report in splits.items():
        if report.missing_labels:
            place = source.names.get(split, split)
            message = f"no row of the {split} split has the label {_quoted(report.missing_labels)}"
            problems.add(("missing labels", split), place, message, severity="warning")


def _quoted(labels: Sequence[str]) -> str:
    return listed(map(shown, labels), _NAMED)


def _several_in_one(rare: Sequence[str], labels: Sequence[str]) -> str:
    """Say so if labels look like lists of other labels."""
    known = {*labels}
    lists = [label for label in rare if len(parts := _PARTS.split(label)) > 1 and known.issuperset(parts)]
    if not lists:
        return ""
    return f"; a row has one label, so that {shown(lists[0])} is a label of its own and not several"
