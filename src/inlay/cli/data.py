"""inlay data DATA [MODEL]: what is in a data set, and every problem with its line."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ..data.describe import DataReport, describe
from ..data.settings import DataSettings
from .parse import parse

_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is in a data set: format, rows, labels, lengths, duplicates, and every problem with its line."""

    data: DataSettings
    tokens: "_Tokens"
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True, kw_only=True)
class _Tokens:  # nested like the data, since a verb's own positionals come before nested ones
    model: Annotated[Positional[str | None], arg(metavar="MODEL")] = None
    """A model, to count tokens as it does."""


def main(arguments: list[str]) -> int:
    command = parse(Data, arguments, "data")
    report = describe(command.data)
    broken = any(problem.severity == "error" for problem in report.problems)
    tokens = None if command.tokens.model is None or broken else _token_lengths(command)
    if command.json:
        print(json.dumps(dataclasses.asdict(report) | {"tokens": tokens}, ensure_ascii=False))
    else:
        print("\n".join(_lines(report, tokens)))
    return 2 if broken else 0


def _token_lengths(command: Data) -> dict[str, dict[str, int]]:
    from ..data.classification import load_classification
    from ..training.base import find_base
    from ..training.batches import tokenize_split

    assert command.tokens.model is not None
    tokenizer = find_base(command.tokens.model).tokenizer()
    lengths = {}
    for split, rows in load_classification(command.data).splits.items():
        counts = sorted(tokenize_split(tokenizer, rows, max_length=10**6).lengths)
        lengths[split] = {
            "min": counts[0],
            "median": counts[len(counts) // 2],
            "p95": counts[int(0.95 * (len(counts) - 1))],
            "max": counts[-1],
            "over_512": sum(count > 512 for count in counts),
        }
    return lengths


def _lines(report: DataReport, tokens: dict[str, dict[str, int]] | None) -> Iterator[str]:
    yield f"{report.path}: {report.format}"
    yield f"  columns   {', '.join(f'{role} = {column}' for role, column in report.columns.items()) or 'none used'}"
    if report.ignored_columns:
        yield f"  ignored   {', '.join(report.ignored_columns)}"
    if report.ignored_files:
        yield f"  not read  {', '.join(report.ignored_files)}"
    if report.valid_from:
        yield f"  valid     {report.valid_from}"
    yield ""
    yield f"{'split':<8}{'rows':>8}{'words: min':>12}{'median':>8}{'p95':>8}{'max':>8}"
    for name, split in report.splits.items():
        words = split.words
        lengths = f"{words.min:>12}{words.median:>8}{words.p95:>8}{words.max:>8}" if words else ""
        yield f"{name:<8}{split.rows:>8}{lengths}"
    if report.labels:
        yield ""
        yield f"{'label':<24}" + "".join(f"{name:>8}" for name in report.splits)
        for label in report.labels:
            yield f"{label:<24}" + "".join(f"{split.labels.get(label, 0):>8}" for split in report.splits.values())
    if tokens:
        yield ""
        yield f"{'tokens':<8}{'min':>8}{'median':>8}{'p95':>8}{'max':>8}{'over 512':>10}"
        for name, t in tokens.items():
            yield f"{name:<8}{t['min']:>8}{t['median']:>8}{t['p95']:>8}{t['max']:>8}{t['over_512']:>10}"
    for same in report.duplicates:
        where = " and ".join(same.splits)
        first = ", ".join(f"{a} = {b}" for a, b in same.places[:2])
        yield f"\n{same.count} texts repeated ({same.kind}) in {where}, such as {first}"
    if report.problems:
        yield ""
    for problem in report.problems[:_PROBLEMS_SHOWN]:
        yield f"{problem.severity}: {problem}"
    if len(report.problems) > _PROBLEMS_SHOWN:
        yield f"... and {len(report.problems) - _PROBLEMS_SHOWN} more; --json lists them all"
