"""How settings are named on the command line, where a flag alone does not tell: MODEL and DATA stand by themselves.

The settings' own classes know nothing of a command line. Here a field is declared again with what tyro needs of it; its
default and its help are those of the class.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from tyro.conf import Positional, Suppress, arg

from ..data.settings import DataSettings, Format, Reading
from ..ranges import SHARE

Model: TypeAlias = Annotated[Positional[str], arg(metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class DataArguments(DataSettings):  # a docstring would stand in the help
    path: Annotated[Positional[str], arg(metavar="DATA")]

    def __new__(cls, **values: Any) -> Any:
        """Make plain settings: nobody but the command line is to see this class."""
        return DataSettings(**values)


@dataclass(frozen=True, kw_only=True)
class OtherData(Reading):  # a docstring would stand in the help
    path: Annotated[Positional[str | None], arg(metavar="[DATA]")] = None
    """Other data: all rows of a file, or a split of a folder. Default: the run's data."""


@dataclass(frozen=True, kw_only=True)
class InputColumns(Reading):  # a docstring would stand in the help
    format: Suppress[Format] = "auto"
    text: str | None = None
    """The column with the text, in a file of rows. Default: as in training, or found by name."""
    text_pair: str | None = None
    """The column with the second text of a pair. Default: as in training, or found by name."""
    label: Suppress[str | None] = None
    skip_faulty: Annotated[float, SHARE] = 0.0
    """Give rows that cannot be read, such as a line of broken JSON, an empty answer, and say so, if they are at most
    this share of the rows: 0.01 for one in a hundred. 0: each is an error."""
    prompt: str | None = None
    """The column with the prompt. Default: as in training, or found by name."""
    completion: Suppress[str | None] = None
