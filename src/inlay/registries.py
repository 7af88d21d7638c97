"""What can be extended from outside: the registries, and the one function that adds to them."""

from typing import Any, TypeVar

from .errors import SettingsError
from .methods import METHODS
from .tasks import TASKS
from .tasks.metric import METRICS

T = TypeVar("T")

REGISTRIES = (METHODS, TASKS, METRICS)


def register(thing: T) -> T:
    """Make your method, task or metric known by its name, like our own; returns it, so that it serves as a decorator.

    Raises SettingsError if the name is taken.
    """
    registry: Any = next((each for each in REGISTRIES if each.takes(thing)), None)
    if registry is None:
        kinds = " or ".join(each.kind for each in REGISTRIES)
        raise SettingsError(f"{thing!r} is no {kinds}, so it cannot be registered")
    return registry.register(thing)


def registered() -> tuple[object, ...]:
    """Return what this process has registered, for a process that it starts to register as well."""
    return tuple(thing for each in REGISTRIES for thing in each.registered)
