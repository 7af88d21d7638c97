"""What a comparison has come to."""

from dataclasses import dataclass
from pathlib import Path

from .advice import Advice
from .search import Tried
from .settings import CompareSettings, Contender
from .table import SequenceRow, Table


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The result of a comparison; the report shows all of it."""

    comparison: CompareSettings
    contenders: tuple[Contender, ...]
    folder: Path
    table: Table
    advice: Advice | None
    sequences: tuple[SequenceRow, ...]
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    command: str

    @property
    def failed(self) -> int:
        """Count the runs that did not finish."""
        return sum(len(row.failures) for row in self.table.rows) + sum(row.matrix is None for row in self.sequences)
