"""What the contenders say of the same rows, side by side: texts, or labels where they disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...report.run_files import read_run
from .table import Row

_ROWS = 30


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One row of the evaluation split, and each contender's answer."""

    prompt: str
    pair: str | None
    wanted: str
    answers: dict[str, str]  # by label of the contender


def texts_side_by_side(rows: Sequence[Row]) -> list[Answers]:
    """What the base and each contender's first run write after the same prompts; empty for classifiers."""
    samples = {row.label: found for row in rows if (found := read_run(row.runs[0].folder).samples)}
    if not samples:
        return []
    first = next(iter(samples.values()))
    # full fine-tuning has no base left, but another contender's run has written its texts
    base = next((found for found in samples.values() if found[0].base_text is not None), None)
    result = []
    for i, sample in enumerate(first[:_ROWS]):
        answers = {"base": base[i].base_text or ""} if base else {}
        answers |= {label: found[i].text for label, found in samples.items() if i < len(found)}
        wanted = sample.references[0] if sample.references else ""
        result.append(Answers(prompt=sample.prompt, pair=None, wanted=wanted, answers=answers))
    return result


def disagreements(rows: Sequence[Row]) -> list[Answers]:
    """Rows of valid that the contenders' first runs give different labels to, those with most answers first; empty for
    language models."""
    predictions = {row.label: found for row in rows if (found := read_run(row.runs[0].folder).predictions)}
    if len(predictions) < 2:
        return []
    result = []
    for of_row in zip(*predictions.values(), strict=True):
        answers = {label: p.predicted for label, p in zip(predictions, of_row, strict=True)}
        if len(set(answers.values())) > 1:
            first = of_row[0]
            result.append(Answers(prompt=first.text, pair=first.pair, wanted=first.label, answers=answers))
    result.sort(key=lambda row: -len(set(row.answers.values())))
    return result[:_ROWS]
