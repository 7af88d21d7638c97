"""The command `inlay`: a table of verbs, each a module that is imported when it is used."""

import importlib
import sys
import traceback
from collections.abc import Sequence

from .. import __version__, elsewhere
from ..errors import (
    INTERRUPTED_EXIT_CODE,
    DiskFailed,
    InlayError,
    InterruptTold,
    OthersUnreachable,
    SettingsError,
    did_you_mean,
)
from ..launch import check_alone, command, own_number
from ..machine import refusal
from ..output import ReaderGone, outliving_readers, silent
from ..show.lines import fitted
from .screen import print_json, say_starting, screens, show, width

VERBS = {
    "demo": "train a real adapter on a real model, offline, and see what came of it",
    "methods": "the methods by family; with a NAME: what it trains, its settings, its paper",
    "data": "what is in a data set, and every problem with its line",
    "plan": "what each method would take of memory and time, before anything is loaded",
    "train": "train one adapter: MODEL DATA --method NAME",
    "resume": "continue an interrupted run: RUN",
    "compare": "several methods on the same data: a table, plots and advice",
    "eval": "score a trained adapter beside its base",
    "predict": "labels for a text, a file, or what you type",
    "rank": "the rank of what was learned, and the score at smaller ones; or a rank before training",
    "merge": "a plain checkpoint with the adapter folded in, checked",
    "doctor": "what this machine has and what is missing; with a MODEL, what each target reaches",
}

# Verbs that several processes would each do as a whole.
ALONE = ("demo", "compare", "eval", "predict", "rank", "merge")

# Verbs that only show something, and have nothing to do without a reader.
ONLY_SHOW = (["methods"], ["data"], ["plan"], ["eval"], ["predict"], ["doctor"])


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        goes_on = arguments[:1] not in ONLY_SHOW
        with command(), silent(own_number() > 0), outliving_readers(goes_on=goes_on), screens():
            return _guarded(arguments)
    except ReaderGone:
        return 0
    except OSError as problem:  # of what was printed last
        with screens():
            return _report(refusal(problem) or DiskFailed(str(problem)), [])


def _guarded(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt as stopped:
        if not isinstance(stopped, InterruptTold):
            print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except Exception as problem:
        known = problem if isinstance(problem, InlayError) else refusal(problem)
        if known is not None:
            return _report(known, arguments)
        print("this is a bug in Inlay; please report it with what follows", file=sys.stderr)
        traceback.print_exc()
        return InlayError.exit_code


def _run(arguments: list[str]) -> int:
    match arguments:
        case [] | ["-h" | "--help", *_] | ["help"]:
            show(_overview(), indent=12)
            return 0
        case ["help", verb, *_] if verb in VERBS:
            return _run([verb, "--help"])
        case ["--version", *_]:
            print(f"inlay {__version__}")
            return 0
        case [verb, *rest] if verb in VERBS:
            if verb in ALONE:
                check_alone()
            if own_number() == 0:
                say_starting()
            return importlib.import_module(f".{verb}", __name__).main(rest)
        case [verb, *_]:
            raise SettingsError(f"unknown verb {verb!r}{did_you_mean(verb, VERBS, elsewhere.VERBS)}")
    raise AssertionError


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<9} {what}" for verb, what in VERBS.items())
    return (
        "usage: inlay VERB ... [--help] [--json]\n\n"
        "Fine-tune a pretrained model by training a small part set into it.\n\n"
        f"{verbs}\n\n"
        "Start with `inlay demo`. `inlay VERB --help` has the settings of a verb.\n"
        "Exit codes: 0 done, 1 a bug in Inlay, 2 wrong settings or data, 3 does not fit in memory, "
        "4 training failed, 5 a verification failed, 130 interrupted."
    )


def _report(problem: InlayError, arguments: list[str]) -> int:
    if "--json" in arguments:
        event = {"event": "error", "kind": type(problem).__name__, "exit_code": problem.exit_code, "text": str(problem)}
        print_json(event)
    if not problem.seen:
        print(fitted(f"inlay: {problem}", width(sys.stderr)), file=sys.stderr)
    if isinstance(problem, OthersUnreachable) and own_number() > 0 and sys.__stderr__ is not None:
        print(f"inlay: process {own_number()}: {problem}", file=sys.__stderr__)  # nobody else says so
    return problem.exit_code
