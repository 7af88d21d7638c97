"""What all runs of a comparison have in common, their data as tokens, made once and lent to its workers as files."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from ...data.settings import DataSettings
from ...tasks.task import Task


@dataclass
class TaskFiles:
    """A task for each data set, in a folder that only this user may enter and that is gone with the comparison.

    Use as a context. A file rather than a pipe: a worker that is slow to start keeps nobody waiting, and the machines
    of a cluster read it as well.
    """

    folder: Path
    """The comparison's."""
    _paths: dict[DataSettings, Path] = field(default_factory=dict)
    _own: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._own = TemporaryDirectory(dir=self.folder, prefix=".tasks.", suffix=".unfinished")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._own is not None
        self._own.cleanup()

    def add(self, data: DataSettings, task: Task) -> None:
        """Write the task, whose data are these."""
        assert self._own is not None
        path = Path(self._own.name, f"{len(self._paths)}.pickle")
        with path.open("wb") as file:
            pickle.dump(task, file, protocol=5)
        self._paths[data] = path

    def path_for(self, data: DataSettings) -> Path | None:
        """Name the file of the task with these data; None if there is none."""
        return self._paths.get(data)


def load_task(path: Path | None) -> Task | None:
    """Read a task that `TaskFiles` of this comparison has written; None stands for none."""
    if path is None:
        return None
    with path.open("rb") as file:
        return pickle.load(file)
