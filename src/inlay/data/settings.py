"""Which data, and how to read it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import SettingsError
from ..ranges import ROWS, Range, check_settings

Format = Literal["auto", "messages", "conversations", "prompt-completion", "instruction", "labelled-text", "text"]

LARGEST_VALID_FRACTION = 1 / 3
_NAMED_ROLES = {
    "labelled-text": ("text", "text_pair", "label"),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
}


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    path: str
    """A file, a folder with train, valid and test files, a Hugging Face data set id, or builtin:NAME."""
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
    valid_fraction: Annotated[float, Range(above=0, most=LARGEST_VALID_FRACTION)] = 0.05
    """The share of train held out for evaluation if the data has no valid split: at least 16 rows, at most 500, never
    more than a third."""
    train_rows: Annotated[int | None, ROWS] = None
    """Train on at most so many rows, evenly spread over the data. Default: all."""
    eval_rows: Annotated[int | None, ROWS] = None
    """Evaluate on at most so many rows of valid, and of test, evenly spread. Default: all."""
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


def _takes(format: Format, role: str) -> bool:
    return format == "auto" or role in _NAMED_ROLES.get(format, ())
