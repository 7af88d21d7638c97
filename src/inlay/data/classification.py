"""Texts with labels, checked and typed."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import DataError
from ..formats.paths import path_of
from .columns import find_column, flags, no_column, renamed
from .examples import Examples, examples_of
from .formats import Layout, OpenedData, has_columns, open_data, rows_in_layout
from .holdout import with_valid
from .labels import label_names, read_known_labels, read_labels
from .problems import Problems, listed, shown
from .rows import EXTENSIONS, Row, plain_text, read_rows, row_extension, text_in
from .settings import DataSettings, Reading
from .source import Source, check_separator, nearest_file
from .text_file import lines_of, read_text


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
        message = f"no row of train that is used has the label {listed(unused)}, so it cannot be learned"
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
            inputs = _inputs(row, layout.columns, problems)
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
                problems.add(("unknown label", split), row.place, message)
    ids = {split: [None if label is None else places.get(label) for label in own] for split, own in labels.items()}
    return ids, tuple(names.values())


def label_of(example: Example) -> int:
    return example.label


def load_texts(path: str, columns: dict[str, str], reading: Reading | None = None) -> list[tuple[str, str | None]]:
    """Read the inputs in a file, in its order: the lines of a .txt file, or the text columns of rows, without labels.

    Blank lines at the end of a .txt file do not count. Raises DataError if any input cannot be used.
    """
    reading = reading or Reading()
    file = path_of(path, DataError, any_bytes=True)
    plain = plain_text(file.name)
    if not file.is_file():
        raise DataError(f"{path}: no such file{nearest_file(file)}")
    if row_extension(file.name) is None:
        raise DataError(f"{path}: not a kind of file that can be read; known: {', '.join(EXTENSIONS)}")
    if plain and "text_pair" in columns:
        raise DataError(
            f"{path}: a line of a .txt file is one text, and pairs are needed; give a file with the columns "
            f"{columns['text']} and {columns['text_pair']}"
        )
    if plain and (named := reading.named_columns()):
        raise DataError(f"{path}: a .txt file has no columns; leave out data.{next(iter(named))}")
    check_separator(path, reading.separator, [file.name])
    problems = Problems()
    megabytes = reading.unpacked_megabytes
    rows = _lines(file, columns["text"], problems) if plain else read_rows(file, problems, megabytes, reading.separator)
    wanted = {role: column for role, column in columns.items() if role != "label"}
    _check_header(rows, wanted, problems)
    rows = [renamed(row, wanted.values()) for row in rows]
    complete = [row for row in rows if has_columns(row, wanted.values(), problems)]
    found = [_inputs(row, wanted, problems) for row in complete]
    problems.raise_errors()
    return [inputs for inputs in found if inputs is not None]


def _check_header(rows: list[Row], wanted: dict[str, str], problems: Problems) -> None:
    """Raise DataError if the first row has not the wanted columns, so that most rows will lack them, and say how to
    name those that it has."""
    problems.raise_errors()
    for role, column in wanted.items():
        if rows and find_column(column, rows[0].values) is None:
            others = [other for other in rows[0].values if other not in wanted.values()]
            texts = [other for other in others if isinstance(rows[0].values[other], str)]
            near = max(texts, key=lambda other: len(str(rows[0].values[other])), default="COLUMN")
            raise DataError(
                f"{rows[0].place}: {no_column(column, rows[0].values)}; another is named with {flags({role: near})}"
            )


def _lines(file: Path, column: str, problems: Problems) -> list[Row]:
    text = read_text(file, problems)
    if text is None:
        return []
    if not text.strip():
        problems.add("no rows", file.name, "has no text")
        return []
    return [Row({column: line}, f"{file.name}:{number}") for number, line in enumerate(lines_of(text.rstrip()), 1)]


def _inputs(row: Row, columns: dict[str, str], problems: Problems) -> tuple[str, str | None] | None:
    """Return the row's text and, for pairs, second text; None and a problem if one of them cannot be used."""
    text = text_in(row, columns["text"], problems)
    if "text_pair" not in columns:
        return None if text is None else (text, None)
    pair = text_in(row, columns["text_pair"], problems)
    return None if text is None or pair is None else (text, pair)
