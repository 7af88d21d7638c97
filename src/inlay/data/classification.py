"""Texts with labels, checked and typed."""

from dataclasses import dataclass, replace
from functools import partial

from ..errors import DataError
from .examples import Examples, examples_of
from .formats import Layout, OpenedData, open_data, rows_in_layout
from .holdout import with_valid
from .inputs import texts_in
from .labels import label_names, read_known_labels, read_labels
from .problems import Problems, listed, shown
from .rows import Row
from .settings import DataSettings
from .source import Source


@dataclass(frozen=True)
class Example:
    text: str
    pair: str | None
    label: int
    place: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def together(self) -> str:
        return f"{self.text}\0{self.pair or ''}"


@dataclass(frozen=True)
class Learned:
    """An adapter's labels, for rows that are only to be scored."""

    labels: tuple[str, ...]
    unnamed: bool = False
    """Whether the labels are LABEL_0 and so on, which are no names."""
    whole: bool = False
    """Whether all rows are scored as they are, and none of train is held out."""


def load_classification(settings: DataSettings) -> Examples[Example]:
    """Read the data's examples. Raises DataError, with a line for each kind of problem, unless all can be used."""
    return classification_in(open_data(settings))


def classification_in(opened: OpenedData, learned: Learned | None = None) -> Examples[Example]:
    """Do what `load_classification` does with data that is open; the labels are those `learned`, if they are given.

    Raises DataError for any other label then, and no label need occur.
    """
    settings, source, layout, problems = opened.settings, opened.source, opened.layout, opened.problems
    if layout.format != "labelled-text":
        raise DataError(
            f"{settings.path}: the rows are in the format {layout.format} (columns {listed(layout.columns.values())}); "
            "classification needs a text and a label: name their columns with data.text and data.label if they have "
            "other names here"
        )
    splits, labels = parse_labelled(source, layout, problems, learned)
    found = examples_of(opened, splits, learned is not None and learned.whole, partial(with_valid, label_of=label_of))
    used = {example.label for example in found.splits["train"]} if learned is None else set(range(len(labels)))
    if unused := [name for label, name in enumerate(labels) if label not in used]:
        message = f"no row of train that is used has the label {listed(map(shown, unused))}, so it cannot be learned"
        problems.add("unused labels", source.names["train"], message, severity="warning")
    return replace(found, labels=labels, warnings=tuple(problems.found()))


def parse_labelled(
    source: Source, layout: Layout, problems: Problems, learned: Learned | None = None
) -> tuple[dict[str, list[Example]], tuple[str, ...]]:
    """Return the usable examples of each split, and the names of the labels; the other rows are added to `problems`."""
    rows = {split: rows_in_layout(rows, layout, problems) for split, rows in source.splits.items()}
    column = layout.columns["label"]
    if learned is not None:
        names = learned.labels
        ids = {split: read_known_labels(own, column, names, learned.unnamed, problems) for split, own in rows.items()}
    else:
        ids, names = _learnable(rows, column, source, problems)
    examples: dict[str, list[Example]] = {split: [] for split in rows}
    for split in rows:
        for row, id in zip(rows[split], ids[split], strict=True):
            inputs = texts_in(row, layout.columns, problems)
            if id is not None and inputs is not None:
                examples[split].append(Example(*inputs, id, row.place))
    return examples, names


def _learnable(
    rows: dict[str, list[Row]], column: str, source: Source, problems: Problems
) -> tuple[dict[str, list[int | None]], tuple[str, ...]]:
    """Return the id of each row's label, and the names in the order of the ids: those that train has."""
    labels = read_labels(rows, column, problems)
    names = label_names(labels["train"])
    if len(names) == 1:
        problems.add("one class", source.names["train"], f"every label is {shown(next(iter(names)))}; two are needed")
    places = {label: i for i, label in enumerate(names)}
    for split, own in labels.items():
        for row, label in zip(rows[split], own, strict=True):
            if label is not None and label not in places:
                message = f"the label {shown(label)} is in no row of {source.names['train']}, so it cannot be learned"
                problems.fault(("unknown label", split), row.place, message)
    ids = {split: [None if label is None else places.get(label) for label in own] for split, own in labels.items()}
    return ids, tuple(names.values())


def label_of(example: Example) -> int:
    return example.label
