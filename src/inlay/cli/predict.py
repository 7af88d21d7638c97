"""inlay predict RUN_OR_ADAPTER [INPUT]: what a trained model says to a text, to a file of them, or to what is typed."""

import dataclasses
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..data.problems import places_text
from ..errors import DataError, SettingsError
from ..formats.paths import STANDARD_INPUT, nearest_path, path_of
from ..names import followed
from ..outside import NO_TEXT
from ..ranges import COUNT, Range, check_settings
from ..show.units import counted
from .arguments import InputColumns
from .console import progress_shown
from .parse import parse
from .screen import note, print_json, show

if TYPE_CHECKING:
    from ..tasks.evaluation import Answer

_TYPED = "standard input"
_OF_SOME_TASKS = ("pair", "max_tokens", "temperature")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The label of a text and how probable it is, or the answer to a prompt; of each in a file; or of what you type."""

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """The folder of a run or of an adapter."""
    input: Annotated[Positional[str | None], arg(metavar="[INPUT]")] = None
    """A text, or a file: .txt with a text a line, or rows (.csv .tsv .jsonl .json .parquet) with the columns of the
    training, in any case; where these are not there, columns are found as `inlay eval` finds them, and --data.text or
    --data.prompt names another. Default, or -: standard input, a text a line; in a terminal a conversation, if the
    model was trained on some. A row or line without a text gets an empty answer; a blank line of .csv or .jsonl is no
    row."""
    data: InputColumns = InputColumns()
    out: Annotated[str | None, arg(metavar="FILE")] = None
    """A new .csv, .tsv or .jsonl: each row of the file (or line of standard input) with its number, all its columns and
    its answer; from one .csv to the other with the same separator."""
    pair: str | None = None
    """The second text, for a classifier of text pairs."""
    max_tokens: Annotated[int | None, COUNT] = None
    """Tokens of an answer at most, for a language model. Default: one and a half times the longest in training."""
    temperature: Annotated[float, Range(0, 1_000)] = 0.0
    """How freely a language model chooses its words; 0: always the most probable."""
    model: str | None = None
    """The base model, if it has moved."""
    allow_download: bool = False
    """Download what only the adapter's files name and this machine lacks."""
    device: str = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object per text."""

    def __post_init__(self) -> None:
        check_settings(self)


def main(arguments: list[str]) -> int:
    command = parse(Predict, arguments, "predict")
    from ..api.run import open
    from ..data.inputs import lacks_text, lines_as_rows, read_inputs
    from .answers_file import answers_path, write_answers
    from .assumptions import say

    typed_in = command.input in (None, STANDARD_INPUT)
    file = None if typed_in else file_of(str(command.input))
    if command.out is not None and file is None and not typed_in:
        raise SettingsError("--out is for the answers to a file or to standard input; leave it out for one text")
    out = None if command.out is None else answers_path(command.out)
    if command.pair is not None:
        as_text(command.pair, "--pair")
    run = open(command.adapter, command.model, device=command.device, allow_download=command.allow_download)
    options = {name: getattr(command, name) for name in _OF_SOME_TASKS}
    defaults = {field.name: field.default for field in dataclasses.fields(Predict)}
    run.check_options({name: value for name, value in options.items() if value != defaults[name]})
    task = run.found.task
    options = {name: options[name] for name in task.options}
    say(run)
    if file is None:
        _check_no_columns(command)
    if file is not None or out is not None:
        found = read_inputs(str(command.input), command.data) if file else lines_as_rows(_TYPED, [*typed()])
        inputs = task.inputs_in(found)
        with progress_shown():
            answers = run.answer(inputs, **options)
        if out is not None:
            columns = write_answers(out, found.rows, [each.columns or each.values for each in answers], found.style)
            _tell(command, len(answers), columns)
        else:
            for answer in answers:
                _print(command, answer, alone=len(inputs) == 1)
        for text in found.skipped:
            note(text)
        without = [row.place for row, each in zip(found.rows, inputs, strict=True) if lacks_text(each)]
        of = counted(len(inputs), "row" if file else "line")
        _tell_unanswered(without, of)
        _tell_cut(sum(answer.cut for answer in answers), of)
        return 0
    if not typed_in:
        (answer,) = run.answer([command.input], **options)
        _print(command, answer, alone=True)
        _tell_cut(answer.cut, "")
        return 0
    run.found.check_reads()
    _ = run.opened  # what is wrong with it is said before anything is typed
    said: list[dict[str, str]] = []
    together = task.converses and sys.stdin.isatty()
    without, number, cut = list[str](), 0, 0
    for number, text in enumerate(typed(), 1):
        if lacks_text(text):
            without.append(f"{_TYPED}:{number}")
        said = [*said, {"role": "user", "content": text}] if together else []
        (answer,) = run.answer([said or text], **options)
        said.append({"role": "assistant", "content": answer.values["text"]})
        _print(command, answer, alone=sys.stdin.isatty())
        cut += answer.cut
    of = counted(number, "line")
    _tell_unanswered(without, of)
    _tell_cut(cut, of)
    return 0


def _check_no_columns(command: Predict) -> None:
    if asked := command.data.asked():
        raise SettingsError(f"data.{next(iter(asked))} is for a file of rows; leave it out, or name the file")


def _tell(command: Predict, count: int, columns: list[str]) -> None:
    """Say what was written."""
    if command.json:
        print_json({"out": command.out, "rows": count, "columns": columns})
    else:
        show(f"answers {command.out}: {counted(count, 'row')} with {', '.join(columns)}")


def _tell_unanswered(places: Sequence[str], of: str) -> None:
    """Say where there was no text."""
    if places:
        has, gets = ("has", "gets") if len(places) == 1 else ("have", "get")
        where = places_text(places, len(places))
        note(f"{len(places):,} of {of} {has} no text and {gets} an empty answer: {where}")


def _tell_cut(count: int, of: str) -> None:
    """Say how many answers have no end."""
    if count:
        many, has = ("answer", "has") if count == 1 else ("answers", "have")
        those = f"the {many} to {count:,} of {of} {has}" if of else "the answer has"
        note(f"{those} no end: no more tokens were allowed; --max-tokens sets how many")


def _print(command: Predict, answer: "Answer", alone: bool) -> None:
    if command.json:
        print_json(answer.values)
    else:
        print(answer.alone if alone else answer.line, flush=True)


def file_of(text: str) -> Path | None:
    """Return the file that the input names; None if it is a text. Raises DataError if it is neither."""
    from ..data.rows import EXTENSIONS

    path = Path(os.path.expanduser(text))
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise DataError(f"{text}: in a folder that may not be entered; a text can come by standard input") from None
    except (OSError, ValueError):  # such as a name that is too long, which a text may well be
        if " " not in text and path.suffix in (*EXTENSIONS, ".txt", ".gz"):
            path_of(text, DataError, any_bytes=True)
            said = f"{text}: no such file{nearest_path(path)}"
            raise DataError(followed(said, "to use this as a text, add a space to it")) from None
        mode = 0
    if not text.strip():
        raise DataError("the text is empty; give one, or a file")
    if stat.S_ISREG(mode):
        return path
    if mode:
        if (path / "adapter").is_dir() or (path / "adapter_config.json").is_file():
            raise DataError(f"{text}: this is a run or an adapter, which comes first; the text or the file follows it")
        found = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
        raise DataError(f"{text}: this is {found}; name a file, or to use it as a text, add a space to it")
    as_text(text, "the text")
    return None


def as_text(given: str, what: str) -> str:
    """Return `given` itself. Raises DataError if it has bytes that are no text, which no tokenizer takes."""
    if wrong := NO_TEXT.search(given):
        byte = wrong[0].encode("utf-8", "surrogateescape").hex()
        raise DataError(f"{what} is not UTF-8: byte 0x{byte} after {given[: wrong.start()][-20:]!r}; save it as UTF-8")
    return given


def typed() -> Iterator[str]:
    """Yield what stands on each line of standard input, also of blank ones; in a terminal up to an empty one."""
    if sys.stdin.isatty():
        print("one text a line; an empty line ends")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that a line that is no text can be told from the others
    for number, line in enumerate(sys.stdin, 1):
        text = line.strip().removeprefix("\ufeff")
        if not text and sys.stdin.isatty():
            return
        yield as_text(text, f"line {number} of {_TYPED}")
