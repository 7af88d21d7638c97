"""The formats that rows come in: one table, found by the columns of the first row."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .columns import find_column, flags, likely_labels, likely_roles, no_column, others_named, real_numbers, renamed
from .labels import NO_REGRESSION
from .problems import Problems, listed
from .rows import Row
from .settings import DataSettings
from .source import Source, open_source

_TEXTS = (
    {"text": "text_a", "text_pair": "text_b"},
    {"text": "sentence1", "text_pair": "sentence2"},
    {"text": "premise", "text_pair": "hypothesis"},
    {"text": "question1", "text_pair": "question2"},
    {"text": "question", "text_pair": "passage"},
    {"text": "question", "text_pair": "sentence"},
    {"text": "text", "text_pair": "text_pair"},
    {"text": "text"},
    {"text": "sentence"},
)
_LABELS = ({"label": "label"}, {"label": "labels"})

# The columns, by role, of every shape that rows have, with its format, in the order in which they are tried: what names
# its format beyond doubt comes first.
SHAPES: tuple[tuple[str, dict[str, str]], ...] = (
    ("messages", {"messages": "messages", "tools": "tools"}),
    ("conversations", {"conversations": "conversations", "system": "system", "tools": "tools"}),
    ("prompt-completion", {"prompt": "prompt", "completion": "completion", "references": "references"}),
    ("instruction", {"instruction": "instruction", "input": "input", "output": "output", "references": "references"}),
    *(("labelled-text", text | label) for text in _TEXTS for label in _LABELS),
    ("prompt-completion", {"prompt": "input", "completion": "target", "references": "references"}),
    ("prompt-completion", {"prompt": "question", "completion": "answer", "references": "references"}),
    ("prompt-completion", {"prompt": "input", "completion": "output", "references": "references"}),
    ("text", {"text": "text"}),
)
USUAL = {role: [own[role] for _, own in SHAPES if role in own] for _, shape in SHAPES for role in shape}
FORMATS = tuple(dict.fromkeys(format for format, _ in SHAPES))
# Roles that a row may leave out: an instruction has an input only where it needs one.
OPTIONAL_ROLES = ("input", "system", "tools", "references")
# Roles that a row may leave out if it has references, several right answers, in their place.
ANSWER_ROLES = ("completion", "output")


@dataclass(frozen=True)
class Layout:
    """How rows are read: their format, and the column of each role in it."""

    format: str
    columns: dict[str, str]


@dataclass(frozen=True)
class OpenedData:
    """Data that can be read, and how; its problems so far are no errors."""

    settings: DataSettings
    source: Source
    layout: Layout
    problems: Problems


def open_data(settings: DataSettings, *, fetch: bool = True, train: bool = True) -> OpenedData:
    """Read the data's rows and find their layout. Raises DataError if there are none, or if any cannot be read.

    `fetch` and `train` are those of `open_source`.
    """
    problems = Problems(settings.skip_faulty)
    source = open_source(settings.path, problems, settings, fetch=fetch, train=train)
    if not settings.skip_faulty or not source.all_rows():  # else they are weighed when all that is faulty is known
        source.weigh(source.splits, problems)
    problems.raise_errors()
    layout = choose_layout(settings, source.all_rows(), problems)
    if layout is None:
        raise problems.error()
    return OpenedData(settings, source, layout, problems)


def choose_layout(settings: DataSettings, rows: list[Row], problems: Problems) -> Layout | None:
    """Choose the layout that fits the columns of the first row, as far as the settings leave it open.

    It has only roles that some row has. None and a problem if a named column is not there or no format fits.
    """
    first = rows[0]
    stands_in = [role for role in ANSWER_ROLES if "references" in first.values]
    asked = settings.named_columns()
    named = {role: find_column(column, first.values) or column for role, column in asked.items()}
    absent = {role: col for role, col in named.items() if col not in first.values and role not in stands_in}
    if absent:
        wanted = {role: column for role, column in asked.items() if role not in stands_in}
        *before, last = [f"data.{role}: {no_column(column, first.values)}" for role, column in absent.items()]
        others = others_named(rows, wanted, USUAL)
        for role, message in zip(absent, (*before, f"{last}; {others}" if others else last), strict=True):
            problems.add(("named", role), first.columns_place, message)
        return None
    formats = FORMATS if settings.format == "auto" else (settings.format,)
    columns = _columns(formats, named, first.values)
    if columns is None:
        problems.add("no format", first.columns_place, _no_format(settings, rows, named))
        return None
    format, columns = columns
    seen = {column: None for row in rows for column in row.values}
    layout = Layout(format, {role: at for role, column in columns.items() if (at := find_column(column, seen))})
    if format == "text" and settings.format == "auto" and not _is_whole_choice(layout, rows, named, problems):
        return None
    return layout


def find_inputs(formats: Collection[str], named: dict[str, str], there: Collection[str]) -> dict[str, str]:
    """Find the columns of rows to answer, by role, as `open_data` does; they may lack answers and labels. Empty if no
    format fits."""
    answers = (*ANSWER_ROLES, "label")
    _, columns = _columns(formats, named, there) or _columns(formats, named, there, answers) or ("", {})
    return {role: column for role, column in columns.items() if column in there and role not in answers}


def _columns(
    formats: Collection[str], named: dict[str, str], there: Collection[str], without: Collection[str] = ()
) -> tuple[str, dict[str, str]] | None:
    """Find the format and its columns by role: by their very names, or else in any case. That of texts alone is the
    last: they may have a label whose name is in capitals. Roles in `without` may have no column there.
    """
    for exact in (True, False):
        for format, shape in SHAPES:
            columns = _name_columns(shape, named) if format in formats else None
            if columns is None or (exact and format == "text"):
                continue
            if not exact:
                columns = {role: find_column(column, there) or column for role, column in columns.items()}
            needed = {role: column for role, column in columns.items() if role not in without}
            if all(column in there for column in _required(needed, there)) and _all_differ(columns):
                return format, columns
    return None


def _is_whole_choice(layout: Layout, rows: list[Row], named: dict[str, str], problems: Problems) -> bool:
    """Tell whether rows with a text may be read without a label: not if the text alone was named and there are
    columns that look like labels, which is a problem. If nothing was named these are told of.
    """
    used = layout.columns.values()
    labels, numbers = likely_labels(rows, used), real_numbers(rows, used)
    if not labels and not numbers:
        return True
    whole = flags({**named, "label": (labels or numbers)[0]})
    if labels and named:
        message = (
            f"with data.text alone it is open what is to be learned: labels ({whole}), or to write the texts "
            f"({flags(named)} --data.format text)"
        )
        problems.add("half a choice", rows[0].columns_place, message)
        return False
    message = (
        f"no column is called a label, so a model is to write the texts, and {listed([*labels, *numbers])} "
        f"{'is' if len(labels + numbers) == 1 else 'are'} ignored; "
    )
    if labels:
        message += f"for labels name their column, such as {whole}; if the texts are meant, --data.format text says so"
    else:
        message += (
            f"{'it holds' if len(numbers) == 1 else 'they hold'} {NO_REGRESSION}, in a column that --data.label names"
        )
    problems.add("texts alone", rows[0].columns_place, message, severity="warning")
    return True


def _no_format(settings: DataSettings, rows: list[Row], named: dict[str, str]) -> str:
    fit = "fit none of the formats" if settings.format == "auto" else f"do not fit the format {settings.format}"
    found = f"the columns {listed(rows[0].values)} {fit}"
    if settings.format in ("auto", "labelled-text", "prompt-completion") and (likely := likely_roles(rows, named)):
        return f"{found}; name those that are meant, such as {flags(likely)}"
    if numbers := real_numbers(rows, named.values()):
        holds = "holds" if len(numbers) == 1 else "hold"
        return f"{found}; {listed(numbers)} {holds} {NO_REGRESSION}, in a column that --data.label names"
    formats = FORMATS if settings.format == "auto" else (settings.format,)
    return (
        f"{found}; expected: {'; '.join(map(_expectation, formats))}. Columns with other names can be given as "
        "data.text, data.text_pair, data.label, data.prompt and data.completion"
    )


def rows_in_layout(rows: list[Row], layout: Layout, problems: Problems) -> list[Row]:
    """Return the rows that have the layout's columns, called so; the others are added to `problems`."""
    kept = []
    for row in rows:
        row = renamed(row, layout.columns.values())
        required = _required(layout.columns, row.values)
        other = None if all(column in row.values for column in required) else _other_format(row.values, layout)
        if other is not None:
            message = f"the row is in the format {other}, the first row in {layout.format}; use one format for all"
            problems.fault("mixed formats", row.place, message)
        elif has_columns(row, required, problems):
            kept.append(row)
    return kept


def has_columns(row: Row, columns: Iterable[str], problems: Problems) -> bool:
    """Tell whether the row has all `columns`; the first one that it lacks is added to `problems`."""
    missing = next((column for column in columns if column not in row.values), None)
    if missing is not None:
        problems.fault(("no column", missing), row.place, no_column(missing, row.values))
    return missing is None


def unused_columns(splits: dict[str, list[Row]], layout: Layout) -> tuple[str, ...]:
    """Return the columns that the layout does not read, in the order in which rows bring them up."""
    unused: dict[str, None] = {}
    for columns in dict.fromkeys(tuple(row.values) for rows in splits.values() for row in rows):
        used = {find_column(column, columns) for column in layout.columns.values()}
        unused |= dict.fromkeys(column for column in columns if column not in used)
    return tuple(unused)


def in_place_of_labels(opened: OpenedData) -> str:
    """Say what rows without labels have, and how to name the column of the labels if they have some after all."""
    if opened.layout.format != "text":
        return "texts to write, not labels"
    unused = unused_columns(opened.source.splits, opened.layout)
    others = f"; its other columns are {listed(unused)}" if unused else ""
    return f"no column that is called a label, which --data.label names{others}"


def _required(columns: dict[str, str], there: Collection[str]) -> list[str]:
    """Return the columns that a row with the columns `there` must have."""
    may_lack = (*OPTIONAL_ROLES, *ANSWER_ROLES) if columns.get("references") in there else OPTIONAL_ROLES
    return [column for role, column in columns.items() if role not in may_lack]


def _name_columns(shape: dict[str, str], named: dict[str, str]) -> dict[str, str] | None:
    """Put the columns that the user named into the shape; None if it is another shape than the user's."""
    if "text_pair" in shape and ("text" in named or "text_pair" in named) and not {"text", "text_pair"} <= set(named):
        return None
    columns = shape | named
    known = {*shape, "text_pair"} if "label" in shape else set(shape)
    return columns if set(columns) <= known and _all_differ(columns) else None


def _all_differ(columns: dict[str, str]) -> bool:
    return len(set(columns.values())) == len(columns)


def _other_format(columns: Collection[str], layout: Layout) -> str | None:
    for format, shape in SHAPES:
        if all(column in columns for column in _required(shape, columns)):
            # A text without its label is a row that lacks a column, not one that is meant for language modelling.
            return None if format == layout.format or (format, layout.format) == ("text", "labelled-text") else format
    return None


def _expectation(format: str) -> str:
    if format == "labelled-text":
        texts = " or ".join(dict.fromkeys("+".join(shape.values()) for shape in _TEXTS))
        return f"{format}: label with {texts}"
    shapes = ("+".join(_required(shape, ())) for other, shape in SHAPES if other == format)
    return f"{format}: {' or '.join(shapes)}"
