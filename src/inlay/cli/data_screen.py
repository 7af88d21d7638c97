"""How `inlay data` looks in a terminal, and without colours elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import rich.table
from rich.console import Console
from rich.text import Text

from ..data.describe import DataReport, Lengths
from ..data.problems import Problem
from ..data.token_report import Sample, SplitTokens, Token, TokenReport
from ..outside import shown
from ..show.lines import fitted
from ..show.table import Column, Table
from ..show.units import counted
from .safe_console import console as safe_console

_PROBLEMS_SHOWN = 20
_LABELS_SHOWN = 40
_BAR = 32
_EDGE = 30  # tokens shown at each end of what is learned together, or read together
_RUNS_SHOWN = 12

_SEVERITIES = {"error": "bold red", "warning": "yellow", "skipped": "yellow", "note": "cyan"}
_READ, _LEARNED = ("default", "dim"), ("black on color(114)", "black on color(157)")  # neighbours are told apart
_READ_SPECIAL, _LEARNED_SPECIAL = "bold magenta", "bold black on color(221)"
_VISIBLE = {"\n": "↵\n", "\t": "⇥\t", "\r": "␍"}


def show(report: DataReport, tokens: TokenReport | None, console: Console | None = None) -> None:
    """Print all of it; lines are not broken where no terminal shows them."""
    console = console or safe_console()
    read = any(file.rows for file in report.files)
    title = report.format if read and report.columns else "format unknown" if read else "not read"
    console.print(Text(f"{shown(report.path)}: {title}", style="bold"), soft_wrap=True)
    broken = [problem for problem in report.problems if problem.severity == "error"]
    if broken:  # figures are of what could be read
        _show_problems(broken, console)
        console.print()
    for name, fact in _facts(report, tokens) if read else ():
        value = shown(fact)
        console.print(_fact(name, value) if console.is_terminal else Text(f"  {name:<10}{value}"), soft_wrap=True)
    if report.splits:
        console.print()
        console.print(_splits(report))
    if report.labels:
        console.print()
        console.print(_labels(report))
    if tokens is not None:
        _show_tokens(tokens, console)
    others = report.problems[len(broken) :]
    if others or not broken:
        console.print()
        _show_problems(others, console)
    if all(problem.severity == "note" for problem in report.problems):
        console.print(Text("no problems found", style="green"))


def _facts(report: DataReport, tokens: TokenReport | None) -> Iterator[tuple[str, str]]:
    if report.columns:
        yield "columns", ", ".join(f"{role} = {column}" for role, column in report.columns.items())
    if report.ignored_columns and report.columns:  # else no format fits, and all would be "ignored"
        yield "ignored", ", ".join(report.ignored_columns)
    if report.ignored_files:
        yield "not read", ", ".join(report.ignored_files)
    if report.valid_from:
        yield "valid", report.valid_from
    if tokens is not None:
        yield "written", tokens.written
        if tokens.stop:
            yield "ends with", " ".join(tokens.stop)


def _fact(name: str, value: str) -> rich.table.Table:
    """Return a line whose continuations stand beneath its value."""
    fact = rich.table.Table.grid()
    fact.add_column(width=12)
    fact.add_column(overflow="fold")
    fact.add_row(f"  {name}", Text(value))
    return fact


def _splits(report: DataReport) -> Table:
    rows = ([name, split.rows, *_lengths(split.words)] for name, split in report.splits.items())
    return _table(["split", "rows", "words: min", "median", "p95", "max"], rows)


def _labels(report: DataReport) -> Table:
    rows: list[list[object]] = [
        [_label(label), *(split.labels.get(label, 0) for split in report.splits.values())]
        for label in report.labels[:_LABELS_SHOWN]
    ]
    if len(report.labels) > _LABELS_SHOWN:
        rows.append([f"… {len(report.labels) - _LABELS_SHOWN} more; --json has all", *[""] * len(report.splits)])
    return _table(["label", *report.splits], rows)


def _label(label: str) -> str:
    """Return the label as it can be seen: in quotes if there are blanks at its ends."""
    return shown(label if label == label.strip() else f'"{label}"')


def _show_tokens(tokens: TokenReport, console: Console) -> None:
    learns = any(split.learned for split in tokens.splits.values())
    names = ["tokens", "rows", "min", "median", "p95", "max", f"over {tokens.limit}", *["learned"] * learns]
    rows = []
    for name, split in tokens.splits.items():
        share = [f"{100 * split.learned / split.tokens:.0f} %" if split.tokens else ""] * learns
        rows.append([name, split.rows, *_lengths(split.lengths), split.over_limit, *share])
    console.print()
    console.print(_table(names, rows))
    for name, split in tokens.splits.items():
        for what, said in (("over the limit in", _fate(split)), ("left out of", _left_out(split))):
            if said:
                console.print(Text(f"  {what} {name}: {said}"), soft_wrap=not console.is_terminal)
    console.print()
    console.print(Text("tokens in a row of train", style="bold"))
    for line in _bars(tokens.splits["train"], tokens.limit):
        console.print(line, soft_wrap=True)
    if tokens.samples:
        _show_samples(tokens.samples, console, learns)


def _fate(split: SplitTokens) -> str:
    """Return what becomes of rows over the limit."""
    becomes = {
        "lose their end": split.cut,
        "go on in further rows": split.over_limit - split.cut,
    }
    return ", ".join(f"{count:,} {what}" for what, count in becomes.items() if count)


def _left_out(split: SplitTokens) -> str:
    """Say why rows are not used, and how many."""
    why = {"no room for the answer": split.left_out, "faulty": split.faulty}
    return ", ".join(f"{counted(count, 'row')} ({reason})" for reason, count in why.items() if count)


def _bars(split: SplitTokens, limit: int) -> Iterator[Text]:
    most = max((count for _, _, count in split.histogram), default=0)
    for low, high, count in split.histogram:
        label = f"over {limit}" if low > limit else f"{low}–{high}"
        eighths = round(8 * _BAR * count / most)
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        style = "yellow" if low > limit else "cyan"
        yield Text.assemble(f"{label:>14}  ", (bar or "▏" * bool(count), style), f" {count:,}")


def _show_samples(samples: Sequence[Sample], console: Console, learns: bool) -> None:
    colours = console.is_terminal and console.color_system is not None and not console.no_color
    legend = (
        Text.assemble(
            ("which tokens carry the loss", "bold"), "  ", ("read", _READ[0]), " ", ("<special>", _READ_SPECIAL), "  ",
            ("learned", _LEARNED[0]), (" token", _LEARNED[1]), ("<special>", _LEARNED_SPECIAL),
        )
        if colours
        else Text("which tokens carry the loss: ⟦learned⟧, the others are read; · parts tokens")
    )  # fmt: skip
    if not learns:
        parted = "" if colours else "; · parts tokens"
        legend = Text(f"the tokens that are read for the label{parted}", style="bold" if colours else "")
    console.print()
    console.print(legend)
    for sample in samples:
        learned = sum(token.learned for token in sample.tokens)
        console.print()
        title = f"{sample.place}: {len(sample.tokens)} tokens{f', {learned} learned' if learns else ''}"
        console.print(Text(title, style="underline" if colours else ""), soft_wrap=True)
        console.print(_coloured(sample) if colours else _marked(sample), soft_wrap=not console.is_terminal)


def _coloured(sample: Sample) -> Text:
    text = Text(overflow="fold")
    for learned, runs in _runs(sample):
        for i, token in enumerate(runs):
            if isinstance(token, str):
                text.append(token, "italic cyan")
                continue
            plain, special = (_LEARNED, _LEARNED_SPECIAL) if learned else (_READ, _READ_SPECIAL)
            text.append(_visible(token), special if token.special else plain[i % 2])
    return text


def _marked(sample: Sample) -> Text:
    text = ""
    for learned, tokens in _runs(sample):
        words = "·".join(token if isinstance(token, str) else _visible(token) for token in tokens)
        text += f"⟦{words}⟧" if learned else words
    return Text(text, overflow="fold")


def _runs(sample: Sample) -> Iterator[tuple[bool, list[Token | str]]]:
    """Yield tokens that are read or learned together, without the middle of many."""
    runs = [(learned, list(tokens)) for learned, tokens in groupby(sample.tokens, key=lambda token: token.learned)]
    for learned, tokens in runs[:_RUNS_SHOWN]:
        if len(tokens) <= 2 * _EDGE + 5:
            yield learned, [*tokens]
        else:
            yield learned, [*tokens[:_EDGE], f" … {len(tokens) - 2 * _EDGE} tokens … ", *tokens[-_EDGE:]]
    if rest := sum(len(tokens) for _, tokens in runs[_RUNS_SHOWN:]):
        yield False, [f" … {rest} tokens more"]


def _visible(token: Token) -> str:
    return "".join(_VISIBLE.get(letter) or shown(letter) for letter in token.text)


def _show_problems(problems: Sequence[Problem], console: Console) -> None:
    for problem in problems[:_PROBLEMS_SHOWN]:
        text = fitted(f"{problem.severity}: {problem}", console.width if console.is_terminal else None)
        line = Text(text)
        line.stylize(_SEVERITIES[problem.severity], 0, len(problem.severity) + 1)
        console.print(line, soft_wrap=True)
    if len(problems) > _PROBLEMS_SHOWN:
        console.print(f"... and {len(problems) - _PROBLEMS_SHOWN} more; --json lists them all")


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table whose figures are at the right."""
    columns = [Column(name=name, text="{:,}".format, right=i > 0) for i, name in enumerate(names)]
    return Table(columns=columns, rows=list(rows))


def _lengths(lengths: Lengths | None) -> list[object]:
    return [lengths.min, lengths.median, lengths.p95, lengths.max] if lengths else [""] * 4
