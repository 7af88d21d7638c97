"""Which data, and how to read it."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from ..errors import SettingsError
from ..ranges import ROWS, SHARE, Range, Settings, check_settings
from .delimited import Quoting, separator_in

Format = Literal["auto", "messages", "conversations", "prompt-completion", "instruction", "labelled-text", "text"]

LARGEST_VALID_FRACTION = 1 / 3
_NAMED_ROLES = {
    "labelled-text": ("text", "text_pair", "label"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}


@dataclass(frozen=True, kw_only=True)
class Reading(Settings):
    """How the rows of files are read: their format, their columns, and what stands between these."""

    format: Format = "auto"
    """The format of the rows; auto finds it from the columns of the first row."""
    text: str | None = None
    """The column with the text (labelled-text and text); found by name if not given."""
    text_pair: str | None = None
    """The column with the second text of a pair (labelled-text); found by name if `text` is not given either."""
    label: str | None = None
    """The column with the label (labelled-text); found by name if not given."""
    prompt: str | None = None
    """The column with the prompt (prompt-completion); found by name if not given."""
    completion: str | None = None
    """The column with the completion (prompt-completion); found by name if not given."""
    separator: str | None = None
    """What stands between the fields of .csv and .tsv files: one character, or `tab`. Default: the comma or the tab, or
    what the file's header shows: a semicolon, a tab, a bar."""
    quoting: Quoting = "auto"
    """Double quotes in .csv and .tsv files: double for those that enclose fields, none for letters like others. auto is
    double, or between tabs, where rows cannot be split so, none."""
    skip_faulty: Annotated[float, SHARE] = 0.0
    """Leave out rows that cannot be used, such as one without a label or a line of broken JSON, and say so, if they are
    at most this share of a split's rows: 0.01 for one in a hundred. 0: each is an error."""
    unpacked_megabytes: Annotated[int | None, ROWS] = None
    """What a packed file (.gz, .parquet) may unpack to. Default: 100 times its own size, and at least 64 MB."""

    def __post_init__(self) -> None:
        check_settings(self, "data.")
        named = self.named_columns()
        for role, column in named.items():
            if not _takes(self.format, role):
                raise SettingsError(f"data.{role} is {column!r}, but data.format {self.format} has no such column")
        if len(set(named.values())) < len(named):
            given = ", ".join(f"data.{role} is {column!r}" for role, column in named.items())
            raise SettingsError(f"{given}; each must be another column")
        if self.separator is not None and separator_in(self.separator) is None:
            raise SettingsError(
                f"data.separator is {self.separator!r}; it must be one character that is no letter, number or quote, "
                "such as ';', or tab"
            )

    def named_columns(self) -> dict[str, str]:
        """Return the columns that the user named, by role."""
        given = {
            "text": self.text,
            "text_pair": self.text_pair,
            "label": self.label,
            "prompt": self.prompt,
            "completion": self.completion,
        }
        return {role: column for role, column in given.items() if column is not None}

    def asked(self) -> dict[str, object]:
        """Return the settings that are not left as they are by default."""
        values = {field.name: getattr(self, field.name) for field in fields(Reading)}
        return {name: value for name, value in values.items() if value != getattr(Reading, name)}


@dataclass(frozen=True, kw_only=True)
class DataSettings(Reading):
    path: str
    """A file, a folder with train, valid and test files, a Hugging Face data set id, or builtin:NAME."""
    valid_fraction: Annotated[float, Range(above=0, most=LARGEST_VALID_FRACTION)] = 0.05
    """The share of train held out for evaluation if the data has no valid split: at least 16 rows, at most 500, never
    more than a third."""
    train_rows: Annotated[int | None, ROWS] = None
    """Train on at most so many rows, evenly spread over the data. Default: all."""
    eval_rows: Annotated[int | None, ROWS] = None
    """Evaluate on at most so many rows of valid, and of test, evenly spread. Default: all."""


def _takes(format: Format, role: str) -> bool:
    return format == "auto" or role in _NAMED_ROLES.get(format, ())
