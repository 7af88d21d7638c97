"""What the contenders say of the same rows, side by side: texts, or labels where they disagree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...errors import DataError
from ...formats.read import guarded
from ...formats.run_files import read_run
from ...tasks import TASKS
from ...tasks.page import Said
from .table import MethodRow

ROWS_SHOWN = 30


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One row of the evaluation split, and each contender's answer."""

    prompt: str
    pair: str | None
    wanted: str
    answers: dict[str, str]  # by label of the contender


def texts_side_by_side(rows: Sequence[MethodRow]) -> list[Answers]:
    """Return what the base and each contender's first run write after the same prompts; nothing of tasks that write
    none."""
    samples = dict(_said(rows, writes=True))
    if not samples:
        return []
    first = next(iter(samples.values()))
    # full fine-tuning has no base left, but another contender's run has written its texts
    base = next((found for found in samples.values() if found[0].base_answer is not None), None)
    result = []
    for i, sample in enumerate(first[:ROWS_SHOWN]):
        answers = {"base": base[i].base_answer or ""} if base else {}
        answers |= {label: found[i].answer for label, found in samples.items() if i < len(found)}
        result.append(Answers(prompt=sample.prompt, pair=None, wanted=sample.wanted or "", answers=answers))
    return result


def disagreements(rows: Sequence[MethodRow]) -> list[Answers]:
    """Return the rows of valid that the contenders' first runs answer differently, those with most answers first;
    nothing of tasks that write texts."""
    predictions = dict(_said(rows, writes=False))
    if len(predictions) < 2:
        return []
    result = []
    for of_row in zip(*predictions.values(), strict=True):
        answers = {label: said.answer for label, said in zip(predictions, of_row, strict=True)}
        if len(set(answers.values())) > 1:
            first = of_row[0]
            result.append(Answers(prompt=first.prompt, pair=first.pair, wanted=first.wanted or "", answers=answers))
    return sorted(result, key=lambda row: -len(set(row.answers.values())))


def _said(rows: Sequence[MethodRow], writes: bool) -> Iterator[tuple[str, list[Said]]]:
    for row in rows:
        files = read_run(row.runs[0].folder)
        with guarded(files.folder, "files of a run", error=DataError):
            task = TASKS[files.summary["task"]]
            said = [task.said(each) for each in files.predictions] if task.writes == writes else []
        if said:
            yield row.label, said
