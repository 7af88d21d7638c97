"""How settings are named on the command line, where a flag alone does not tell: MODEL and DATA stand by themselves.

The settings' own classes know nothing of a command line. Here a field is declared again with what tyro needs of it; its
default and its help are those of the class.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from tyro.conf import Positional, arg

from ..data.settings import DataSettings

Model: TypeAlias = Annotated[Positional[str], arg(metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class DataArguments(DataSettings):  # a docstring would stand in the help
    path: Annotated[Positional[str], arg(metavar="DATA")]

    def __new__(cls, **values: Any) -> Any:
        """Make plain settings: nobody but the command line is to see this class."""
        return DataSettings(**values)
