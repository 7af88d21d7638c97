"""inlay data DATA [MODEL]: what is in a data set, every problem with its line, and what a model learns of it."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..data.describe import DataReport, describe
from ..errors import SettingsError
from ..ranges import Range, check_settings
from .arguments import DataArguments
from .parse import parse
from .screen import print_json

if TYPE_CHECKING:
    from ..data.token_report import TokenReport


_SAMPLES = 3  # rows whose tokens are shown


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is in a data set: format, rows, labels, lengths, duplicates, and every problem with its line.

    With a model: the tokens of its rows, and which of them carry the loss.
    """

    data: DataArguments
    tokens: "_Tokens"
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, kw_only=True)
class _Tokens:  # nested like the data, since a verb's own positionals come before nested ones
    model: Annotated[Positional[str | None], arg(metavar="[MODEL]")] = None
    """A model, to make tokens as it does."""
    max_length: Annotated[int | None, Range(8, 10_000_000), arg(name="max-length", prefix_name=False)] = None
    """Tokens after which a row is cut. Default: as in training, what the model can take, at most 512."""
    samples: Annotated[int | None, Range(0, 1_000_000), arg(prefix_name=False)] = None
    """Rows whose tokens are shown, with those that carry the loss marked. Default: 3."""

    def __post_init__(self) -> None:
        if self.model is None and self.max_length is not None:
            raise SettingsError(f"max-length is {self.max_length}, but there is no MODEL whose tokens it counts")
        if self.model is None and self.samples is not None:
            raise SettingsError(f"samples is {self.samples}, but there is no MODEL whose tokens are shown")
        check_settings(self)


def main(arguments: list[str]) -> int:
    command = parse(Data, arguments, "data")
    report = describe(command.data)
    tokens = None
    if command.tokens.model is not None and not _broken(report):
        tokens = _tokens(command, report.format)
        if tokens.unused:
            report = describe(command.data, tokens.unused)
        report = dataclasses.replace(report, problems=(*report.problems, *tokens.problems))
    if command.json:
        print_json(dataclasses.asdict(report) | _json(tokens))
    else:
        from .data_screen import show

        show(report, tokens)
    return 2 if _broken(report) else 0


def _json(tokens: "TokenReport | None") -> dict[str, object]:
    if tokens is None:
        return {"tokens": None}
    facts = dataclasses.asdict(tokens)
    splits = {name: (split.pop("lengths") or {}) | split for name, split in facts.pop("splits").items()}
    return {"tokens": splits, **{name: facts[name] for name in ("limit", "written", "stop", "samples")}}


def _broken(report: DataReport) -> bool:
    return any(problem.severity == "error" for problem in report.problems)


def _tokens(command: Data, format: str) -> "TokenReport":
    from ..bases.base import find_base
    from ..bases.vocabulary import check_vocabulary, empty_body
    from ..batches.batch import LENGTH_STEP
    from ..data.classification import load_classification
    from ..data.generation import load_generation
    from ..data.token_report import report_classification, report_generation

    assert command.tokens.model is not None
    base = find_base(command.tokens.model)
    tokenizer, asked = base.tokenizer(), command.tokens.max_length
    room = min(base.positions, tokenizer.model_max_length)
    if asked is not None and asked > room:
        raise SettingsError(f"max-length is {asked}; the model has room for {room} tokens of text")
    if (empty := empty_body(base.config)) is not None:
        check_vocabulary(tokenizer, empty)
    limit = asked or min(room - room % LENGTH_STEP, 512)
    samples = _SAMPLES if command.tokens.samples is None else command.tokens.samples
    if format == "labelled-text":
        return report_classification(tokenizer, load_classification(command.data), limit, samples)
    return report_generation(tokenizer, load_generation(command.data), limit, samples)
