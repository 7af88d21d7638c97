"""Tasks: what a run trains for; one file says everything about one."""

from ..data.formats import Opened
from ..errors import DataError
from ..registry import Registry
from .causal import Causal
from .classify import Classify
from .task import Task

TASKS = Registry[type[Task]]("task", group="inlay.tasks", of=Task, own=(Classify, Causal))


def task_for(opened: Opened) -> type[Task]:
    """Choose the task that the rows are for: of several the one that was registered last."""
    for name in reversed([*TASKS]):
        if TASKS[name].reads(opened):
            return TASKS[name]
    raise DataError(f"{opened.settings.path}: no task reads rows of the format {opened.layout.format}")
