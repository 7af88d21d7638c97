"""What can be asked for by name: our own things, those of installed packages, and those that a program registers.

A package offers its things by an entry point, whose name is the thing's:

    [project.entry-points."inlay.methods"]
    hra = "their_package.hra:HRA"
"""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from .errors import SettingsError, did_you_mean

T = TypeVar("T")  # has a `name`: the class of a method or task, a metric


class Registry(Mapping[str, T]):
    """Things of one kind by name, in the order of registration, our own first.

    `registry["package.module:Class"]` imports the thing and registers it. An unknown name is a SettingsError.
    """

    def __init__(
        self, kind: str, *, group: str, of: type, own: Iterable[T] = (), elsewhere: Mapping[str, str] | None = None
    ):
        """Make a registry: `kind` is the word for a thing in messages, `group` that of the entry points; a thing is a
        subclass or an instance of the class `of`. `elsewhere` has others' words for names.
        """
        self.kind, self.group, self._of, self._elsewhere = kind, group, of, elsewhere
        self._own: dict[str, T] = {_name(thing): thing for thing in own}
        self._registered: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        return self.find(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._offered, **self._registered})

    def __len__(self) -> int:
        return len({**self._own, **self._offered, **self._registered})

    def __contains__(self, name: object) -> bool:
        return any(name in names for names in (self._own, self._offered, self._registered))

    def get(self, name: str, default: Any = None) -> Any:
        return self.find(name) if name in self else default

    def find(self, name: str, also: Iterable[str] = (), outside: Path | None = None) -> T:
        """Look a thing up by its name or as `package.module:Class`. Raises SettingsError if there is none; it suggests
        the nearest of the known names and those in `also`. Nothing in the folder `outside` is imported."""
        if name in self._offered and name in self._own:
            raise SettingsError(
                f"{_origin(self._offered[name])} has a {self.kind} {name!r}, as Inlay has; uninstall it"
            )
        if name in self._own:
            return self._own[name]
        if name in self._registered:
            return self._registered[name]
        if name in self._offered:
            return self._loaded(name, self._offered[name])
        if ":" in name:
            return self.register(self._imported(name, outside))
        raise SettingsError(f"unknown {self.kind} {name!r}{did_you_mean(name, [*self, *also], self._elsewhere)}")

    def register(self, thing: T) -> T:
        """Make `thing` known by its name; returns it, so that it serves as a decorator.

        The same class defined once more, as in a notebook, takes the place of the former. Raises SettingsError if the
        name is taken by another thing.
        """
        if not self.takes(thing):
            raise SettingsError(f"{thing!r} is no {self.kind}: it must be of {self._of.__name__}")
        name = _name(thing)
        if not name or ":" in name:
            raise SettingsError(f"{_place(thing)} is a {self.kind} called {name!r}; give it a name without a colon")
        there = self[name] if name in self else thing
        if there != thing and not (isinstance(thing, type) and _place(there) == _place(thing)):
            raise SettingsError(
                f"{_place(thing)} is called {name!r}, which is the name of the {self.kind} {_place(there)}; give it "
                "another name"
            )
        if name not in self._own and name not in self._offered:
            self._registered[name] = thing
        return thing

    @property
    def registered(self) -> tuple[T, ...]:
        """The things that only this process knows, for another that is to know them, too."""
        return tuple(self._registered.values())

    def takes(self, thing: object) -> TypeGuard[T]:
        """Tell whether `thing` is of the registry's kind."""
        return isinstance(thing, self._of) or (isinstance(thing, type) and issubclass(thing, self._of))

    def reference(self, thing: T) -> str:
        """Return what a file calls the thing so that another process finds it: its name, or `package.module:Class` for
        one that only this process knows."""
        known = {**self._own, **self._offered}
        return _name(thing) if _name(thing) in known else _place(thing)

    @property
    def offered(self) -> dict[str, str]:
        """List what installed packages offer: the package by the name of the thing."""
        return {name: _origin(each) for name, each in self._offered.items()}

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        return {each.name: each for each in entry_points(group=self.group)}

    def _loaded(self, name: str, offered: EntryPoint) -> T:
        try:
            thing = offered.load()
        except Exception as problem:
            raise SettingsError(f"{self.kind} {name} of {_origin(offered)}: {_failed(problem)}") from problem
        if not self.takes(thing) or _name(thing) != name:
            raise SettingsError(
                f"{_origin(offered)} offers {offered.value} as {name!r}, which is no {self.kind} {name!r}"
            )
        return thing

    def _imported(self, reference: str, outside: Path | None) -> T:
        module, _, path = reference.partition(":")
        if not {"", os.getcwd()} & {*sys.path}:
            sys.path.append(os.getcwd())  # a file beside which `inlay` is called; last, so that it hides no other
        if outside is not None and _lies_in(module, outside):
            raise SettingsError(f"{self.kind} {reference}: its module lies in {outside}, from where no code is run")
        try:
            thing: Any = importlib.import_module(module)
        except Exception as problem:
            raise SettingsError(f"{self.kind} {reference}: {_failed(problem)}") from problem
        for part in path.split("."):
            if not hasattr(thing, part):
                raise SettingsError(f"{self.kind} {reference}: {module} has no {path or 'name after the colon'}")
            thing = getattr(thing, part)
        return thing


def _lies_in(module: str, folder: Path) -> bool:
    """Tell whether importing the module would run a file in `folder`; runs none."""
    places, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return False
        if spec.origin is not None and Path(spec.origin).resolve().is_relative_to(folder.resolve()):
            return True
        places = spec.submodule_search_locations
    return False


def _origin(offered: EntryPoint) -> str:
    return f"the installed package {offered.dist.name}" if offered.dist else "an installed package"


def _place(thing: object) -> str:
    """Return where a thing is defined; for one that is no class or function, its name."""
    path = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}:{path}" if path else _name(thing)


def _name(thing: object) -> str:
    return str(getattr(thing, "name", ""))


def _failed(problem: Exception) -> str:
    return f"its module cannot be imported: {type(problem).__name__}: {problem}"
