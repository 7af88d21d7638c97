"""Texts with labels, checked and typed."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .formats import Layout, choose_layout, has_columns, rows_in_layout, unused_columns
from .holdout import FEWEST_ROWS, held_out
from .labels import label_names, read_labels
from .problems import Problems, listed, shown
from .rows import EXTENSIONS, Row, read_rows, read_text, row_extension
from .settings import DataSettings
from .source import Source, nearest_file, open_source


@dataclass(frozen=True)
class Example:
    text: str
    pair: str | None
    label: int
    place: str


@dataclass(frozen=True)
class ClassificationData:
    splits: dict[str, list[Example]]
    """Always train and valid, and test if the data has one."""
    labels: tuple[str, ...]
    """The name of each label id; integers become their digits. In numerical or alphabetical order."""
    source: str
    """The path as asked."""
    format: str
    columns: dict[str, str]
    """The column of each role: text, text_pair for pairs, label."""
    ignored_columns: tuple[str, ...]
    valid_from: str
    """The file of the valid split, or how it was held out of train."""


def load_classification(settings: DataSettings) -> ClassificationData:
    """The data's examples. Raises DataError, with a line for each kind of problem, unless every row can be used."""
    problems = Problems()
    source = open_source(settings.path, problems)
    problems.raise_errors()
    layout = choose_layout(settings, source.splits["train"], problems)
    if layout is None:
        raise problems.error()
    if layout.format != "labelled-text":
        raise DataError(
            f"{settings.path}: the rows are in the format {layout.format} (columns {listed(layout.columns.values())}); "
            "this release trains classification, which needs a text and a label: name their columns with data.text and "
            "data.label if they have other names here"
        )
    splits, labels = parse_labelled(source, layout, problems)
    problems.raise_errors()
    splits, valid_from = with_valid(splits, source, settings.valid_fraction, problems)
    if valid_from is None:
        raise problems.error()
    return ClassificationData(
        splits=splits,
        labels=labels,
        source=settings.path,
        format=layout.format,
        columns=layout.columns,
        ignored_columns=unused_columns(source.splits, layout),
        valid_from=valid_from,
    )


def parse_labelled(
    source: Source, layout: Layout, problems: Problems
) -> tuple[dict[str, list[Example]], tuple[str, ...]]:
    """The usable examples of each split, and the names of the labels; the other rows are added to `problems`."""
    rows = {split: rows_in_layout(rows, layout, problems) for split, rows in source.splits.items()}
    labels = read_labels(rows, layout.columns["label"], problems)
    names = label_names(labels["train"])
    if len(names) == 1:
        problems.add("one class", source.names["train"], f"every label is {shown(next(iter(names)))}; two are needed")
    ids = {label: i for i, label in enumerate(names)}
    examples: dict[str, list[Example]] = {split: [] for split in rows}
    for split in rows:
        for row, label in zip(rows[split], labels[split], strict=True):
            inputs = _inputs(row, layout.columns, problems)
            if label is not None and label not in ids:
                message = f"the label {shown(label)} is in no row of {source.names['train']}, so it cannot be learned"
                problems.add(("unknown label", split), row.place, message)
            elif label is not None and inputs is not None:
                examples[split].append(Example(*inputs, ids[label], row.place))
    return examples, tuple(names.values())


def with_valid(
    splits: dict[str, list[Example]], source: Source, fraction: float, problems: Problems
) -> tuple[dict[str, list[Example]], str | None]:
    """The splits with a valid split, and where that is from: held out of train, by a hash of the text, if not given.

    As they are, with None and a problem, if train has too few rows for that.
    """
    if "valid" in splits:
        return splits, source.names["valid"]
    name, train = source.names["train"], splits["train"]
    if len(train) < FEWEST_ROWS:
        message = f"{len(train)} rows are too few to hold some out for evaluation; give at least {FEWEST_ROWS}"
        problems.add("few rows", name, f"{message}, or a valid file as well")
        return splits, None
    held = held_out([f"{e.text}\0{e.pair or ''}" for e in train], [e.label for e in train], fraction)
    if not held:
        message = f"none of the {len(train)} rows can be held out for evaluation: too many share a text or have a label"
        problems.add("few rows", name, f"{message} that no other row has; give more rows, or a valid file as well")
        return splits, None
    parts = {
        "train": [example for i, example in enumerate(train) if i not in held],
        "valid": [example for i, example in enumerate(train) if i in held],
    }
    share = f"{100 * len(held) / len(train):.2g} % of train (seed-independent, by a hash of the text)"
    return parts | {split: examples for split, examples in splits.items() if split != "train"}, share


def load_texts(path: str, columns: dict[str, str]) -> list[tuple[str, str | None]]:
    """The inputs in a file, in its order: the lines of a .txt file, or the text columns of rows; no label is needed.

    Blank lines at the end of a .txt file do not count. Raises DataError if any input cannot be used.
    """
    file = Path(path).expanduser()
    plain = file.name.lower().endswith((".txt", ".txt.gz"))
    if not file.is_file():
        raise DataError(f"{path}: no such file{nearest_file(file)}")
    if not plain and row_extension(file.name) is None:
        raise DataError(f"{path}: not a kind of file that can be read; known: .txt, .txt.gz, {', '.join(EXTENSIONS)}")
    if plain and "text_pair" in columns:
        raise DataError(
            f"{path}: a line of a .txt file is one text, and pairs are needed; give a file with the columns "
            f"{columns['text']} and {columns['text_pair']}"
        )
    problems = Problems()
    rows = _lines(file, columns["text"], problems) if plain else read_rows(file, problems)
    wanted = {role: column for role, column in columns.items() if role != "label"}
    complete = [row for row in rows if has_columns(row, wanted.values(), problems)]
    found = [_inputs(row, wanted, problems) for row in complete]
    problems.raise_errors()
    return [inputs for inputs in found if inputs is not None]


def _lines(file: Path, column: str, problems: Problems) -> list[Row]:
    text = read_text(file, problems)
    if text is None:
        return []
    if not text.strip():
        problems.add("no rows", file.name, "has no text")
        return []
    lines = text.rstrip().split("\n")
    return [Row({column: line.rstrip("\r")}, f"{file.name}:{number}") for number, line in enumerate(lines, 1)]


def _inputs(row: Row, columns: dict[str, str], problems: Problems) -> tuple[str, str | None] | None:
    """The row's text and, for pairs, second text; None and a problem if one of them cannot be used."""
    text = _text(row, columns["text"], problems)
    if "text_pair" not in columns:
        return None if text is None else (text, None)
    pair = _text(row, columns["text_pair"], problems)
    return None if text is None or pair is None else (text, pair)


def _text(row: Row, column: str, problems: Problems) -> str | None:
    value = row.values[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        problems.add(("empty", column), row.place, f"{column} is empty; give the row a text or remove it")
        return None
    if not isinstance(value, str):
        problems.add(("no text", column), row.place, f"{column} is {shown(value)}, not a text")
        return None
    return value
