"""Every error that Inlay raises on purpose, with the exit code the command line gives it.

InlayError
├── ProcessLost           1    a process that trained with this one is gone, or failed as it should not
│   └── OthersUnreachable      the processes have not found each other, or have lost the one that speaks for them
├── InvalidRequest        2    wrong settings or data; nothing was changed or written
│   ├── SettingsError          an unknown or impossible setting
│   ├── TargetError            targets that match no module, or modules that the method cannot adapt
│   ├── DataError              a file or row that cannot be used
│   ├── CheckpointError        an adapter file that does not fit: damaged, missing or surplus tensors, another base
│   └── AdapterStateError      an operation that the adapter's state does not allow, such as merging twice
├── DoesNotFit            3    needs more memory than there is
├── TrainingFailed        4    not finite, nothing learned, or nothing to train on
│   └── InertAdapter           the model uses a host's weight without calling the host
├── DiskFailed            4    a file could not be written or read any more: the disk is full, its folder is gone
└── VerificationFailed    5    a check of the result did not hold

A message says what was asked, what was found and what to do, in that order. It quotes files and settings, which may
hold texts of any length: of a very long one the middle is left out.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from .names import listed, meant

INTERRUPTED_EXIT_CODE = 130
_BEGIN, _END = 3000, 1000  # letters that are kept of a message


class InterruptTold(KeyboardInterrupt):
    """An interruption of which the user has been told already what it leaves."""


class InlayError(Exception):
    exit_code: ClassVar[int] = 1
    seen = False
    """Whether the user's terminal has its text already."""

    def __str__(self) -> str:
        said = super().__str__()
        return said if len(said) <= _BEGIN + _END else f"{said[:_BEGIN]} … {said[-_END:]}"


class ProcessLost(InlayError):
    pass


class OthersUnreachable(ProcessLost):
    pass


class InvalidRequest(InlayError, ValueError):
    exit_code = 2


class SettingsError(InvalidRequest):
    pass


class TargetError(InvalidRequest):
    pass


class DataError(InvalidRequest):
    pass


class CheckpointError(InvalidRequest):
    pass


class AdapterStateError(InvalidRequest, RuntimeError):
    pass


class DoesNotFit(InlayError):
    exit_code = 3


class TrainingFailed(InlayError):
    exit_code = 4


class InertAdapter(TrainingFailed):
    pass


class DiskFailed(InlayError):
    exit_code = 4


class VerificationFailed(InlayError):
    exit_code = 5


def unknown_names(
    what: str, asked: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str] | None = None
) -> str:
    """Say in a line for each name `what` it is, such as `unknown setting`, and which was meant; which are known is said
    once.
    """
    asked, known = list(asked), list(known)
    like_none = [name for name in asked if not meant(name, known, elsewhere)]
    return "\n".join(
        f"{what} {name}{'' if name in like_none[:-1] else did_you_mean(name, known, elsewhere)}" for name in asked
    )


def did_you_mean(asked: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say `; did you mean X?` for the name that was probably meant, or list all known names if none is near.
    `elsewhere` has others' words for them, as in elsewhere.py.
    """
    known = sorted(known)
    return nearest_name(asked, known, elsewhere) or f"; known: {', '.join(known)}"


def nearest_name(asked: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say `; did you mean X?` for the name that was probably meant, or nothing."""
    near = meant(asked, sorted(known), elsewhere)
    return f"; did you mean {listed(near)}?" if near else ""
