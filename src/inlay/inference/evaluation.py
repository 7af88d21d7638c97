"""What an adapter is evaluated on: the data of its run, or others with the same columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypedDict

import torch

from ..batches.batch import length_step
from ..data.examples import Examples
from ..data.formats import open_data
from ..data.settings import DataSettings, Reading
from ..errors import DataError, InlayError, SettingsError
from ..formats.paths import path_of
from ..formats.summary import GainOverBase
from ..hub import offline
from ..names import followed
from ..show.units import counted
from ..tasks.metric import METRICS, Scores
from ..tasks.naive import Judgement
from ..tasks.never_given import never_given_text
from ..tasks.page import Judged
from ..tasks.task import Task
from .opened import Found, Opened

SCORED = "valid"
"""The split that the rows of a file are put into, which is in no splits."""


class NaiveScores(TypedDict):
    """What is scored on the split without reading the inputs, as JSON has it."""

    name: str
    answer: str | None
    scores: Scores


class AdapterScores(TypedDict):
    """The scores of an adapter and of its base on one split."""

    data: str
    split: str | None
    """None for a file, of which all rows count."""
    rows: int
    base: Scores | None
    """None if the adapter changed the base itself."""
    base_is_random: bool
    """Whether the base's head is new, so that its scores are no baseline."""
    tuned: Scores
    gain: GainOverBase | None
    """How much better tuned is than base by the main score; None if the base's head is new, or there is one row."""
    samples: int | None
    """How many of the first rows texts were written for; None if the adapter writes none."""
    baseline: NaiveScores | None
    warning: str | None
    """A sentence where the tuned model is no better than that."""
    unclear: str | None
    """`no clear gain`, with what it is over and its interval where the scores do not tell, where the gain is within its
    uncertainty; as the last line of a run says it."""
    notes: list[str]
    """What there is to know of the rows: how they were read, and how many of them the adapter was trained on."""


def scored_rows(task: Task, path: str | None = None, reading: Reading | None = None, *, fetch: bool = False) -> Task:
    """Give an adapter's task the rows of its own run, or those in `path`; they are not tokenized yet. What `reading`
    leaves open is as in training.

    All rows in `path` are there to be scored: nothing is held out, and a label need not occur. Rows of a file are in
    the split valid. What only the adapter's files name is not fetched without `fetch`. Raises DataError if they cannot
    be read, or for a label that was not learned.
    """
    settings, whole = _settings(task.about, path, reading or Reading()), path is not None
    try:
        with offline(not (fetch or whole)):
            opened = open_data(settings, fetch=fetch or whole, train=not whole)
    except DataError as problem:
        if path is None:
            own = "these are the data of the adapter's own run: name them, or others"
            problem = DataError(followed(str(problem), own))
        raise problem from None
    data = task.examples(opened, whole)
    if whole and not opened.source.parted:
        data = replace(data, splits={SCORED: data.splits["train"]})
    return replace(task, data=data, tokens={})


def ready_to_score(found: Found, task: Task, split: str, device: torch.device) -> Task:
    """Return `task`, which has `scored_rows`, with that split alone, tokenized, and padded as in a run."""
    found.check_reads()
    task = replace(task.only(split), length_step=length_step(device, found.dtype))
    task.tokenize(task.about["max_length"])
    task.check_tokens(found.planned.model)
    return task


def evaluate_adapter(
    found: Found,
    opened: Callable[[], Opened],
    device: torch.device,
    path: str | None,
    *,
    split: str | None,
    samples: int | None,
    reading: Reading,
    fetch: bool,
) -> AdapterScores:
    """Score the base, unless the adapter changed it, and the tuned model on the run's own data, or those in `path`.

    `opened` gives the adapter on its base. Texts are written for the first `samples` rows: by default as many as in the
    run, so that the scores are its own, or all if that is not known. Raises DataError or SettingsError before any
    weights are loaded.
    """
    if samples is not None and not found.task.writes:
        raise SettingsError(f"--samples is for language models; this adapter {found.task.does}, to every row")
    with_rows = scored_rows(found.task, path, reading, fetch=fetch)
    one_file = path is not None and path_of(path, any_bytes=True).is_file()
    chosen = _split(split, with_rows.data, one_file)
    scored = ready_to_score(found, with_rows, chosen, device)
    rows = scored.rows[chosen]
    if samples is None:
        own = found.task.about.get("samples")  # unknown of adapters of earlier versions and of other tools
        samples = own if isinstance(own, int) and own >= 0 else rows
    samples = min(samples, rows) if found.task.writes else None
    task = replace(scored, samples=samples)
    notes = task.skipped()
    notes += [problem.told for problem in task.problems() if path is not None and problem.severity == "note"]
    used = [row for row in task.data.splits[chosen] if row.place not in task.tokens[chosen].unused]
    notes += _trained_on(found.task, used, chosen, path)
    base, tuned = opened().evaluate(task, chosen)
    no_row = "none of these rows" if one_file else f"no row of {chosen}"
    if (missed := never_given_text(task.never_given(chosen, tuned), no_row)) is not None:
        notes.append(missed)
    naive = task.naive(chosen, base.scores if base else None)
    same = task.one_answer(chosen, tuned)
    where = "these rows" if one_file else chosen
    judged = Judgement(
        by=task.main_score,
        naive={where: naive} if naive else {},
        tuned={where: tuned.scores},
        same={where: same} if same else {},
        rows={where: rows},
    )
    gain = tuned.gain(None if task.base_is_random else base)
    verdict = task.verdict(
        Judged(
            status="finished",
            base=base.scores if base else {},
            base_is_random=task.base_is_random,
            tuned=tuned.scores,
            rows=rows,
            split=chosen,
            gain=gain,
            naive=naive,
        ),
        list(task.prediction_rows(chosen, tuned.predictions, base.predictions if base else None)),
    )
    return {
        "data": task.data.source,
        "split": None if one_file else chosen,
        "rows": rows,
        "samples": samples,
        "base": base.scores if base else None,
        "base_is_random": task.base_is_random,
        "tuned": tuned.scores,
        "gain": gain,
        "baseline": None if naive is None else {"name": naive.name, "answer": naive.answer, "scores": naive.scores},
        "warning": judged.finding,
        "unclear": verdict.unclear,
        "notes": notes,
    }


def _trained_on(task: Task, rows: Sequence[object], split: str, path: str | None) -> Iterator[str]:
    """Say how many of the rows the adapter was trained on, as far as its own data are on this machine, and how much
    they can do to the scores."""
    if path is None:
        known = len(rows) if split == "train" else 0
    else:
        own = {texts for row in _own_rows(task) if (texts := getattr(row, "texts", None))}
        known = sum(getattr(row, "texts", None) in own for row in rows)
    these = f"of these {counted(len(rows), 'row')}"
    if known and 2 * known >= len(rows):
        of = "these rows" if known == len(rows) else f"{known:,} {these}"
        yield f"the adapter was trained on {of}, so the scores say how well it knows them; judge it by new rows"
    elif known:
        main, percent = METRICS[task.main_score], f"{100 * known / len(rows):.2g}"
        yield f"{len(rows) - known:,} {these} are new; the adapter was trained on the other {known:,}, " + (
            f"which can raise the {main.label} by at most {percent} points"
            if main.is_share_of_rows
            else f"{percent} % of them, so the {main.label} may look better than that of the new ones alone"
        )


def _own_rows(task: Task) -> Sequence[object]:
    try:
        settings = _settings(task.about, None, Reading())
        with offline():
            return task.examples(open_data(settings, fetch=False), False).splits["train"]
    except InlayError:  # they are not here any more
        return ()


def _split(asked: str | None, data: Examples[object], one_file: bool) -> str:
    """Choose the split to score. Raises SettingsError if there is no such one, or it is not clear which."""
    there = list(data.splits)
    if one_file:
        if asked is not None:
            raise SettingsError(f"{data.source} is one file, of which all rows are scored; leave out --split {asked}")
        return there[0]
    split = asked or ("valid" if "valid" in there or len(there) > 1 else there[0])
    if split not in there:
        raise SettingsError(f"{data.source} has no {split} split; it has {', '.join(there)}: name one with --split")
    return split


def _settings(provenance: Mapping[str, Any], path: str | None, reading: Reading) -> DataSettings:
    if path is None and (asked := reading.asked()):
        raise SettingsError(f"data.{next(iter(asked))} is for other data than the run's own; name these data as well")
    if "data" not in provenance and path is None:
        raise SettingsError("the adapter does not say which data it was trained with; name the data to evaluate on")
    about = provenance.get("data", {})
    own = {field.name for field in fields(DataSettings)}
    if not isinstance(about, dict) or not set(about) <= own or not all(_plain(value) for value in about.values()):
        raise SettingsError(
            "the adapter's provenance.json has settings of its data that this version does not know; take the entry "
            '"data" out of it, and name the data to evaluate on'
        )
    if path is None:
        if not isinstance(about.get("path"), str):
            raise SettingsError("the adapter does not say which data it was trained with; name the data to evaluate on")
        found = {} if about.get("format") != "auto" else {"format": provenance.get("format", "auto")}
        return DataSettings(**about | found)  # as the run found it, and not found out anew
    others = {
        "path": path,
        "train_rows": None,
        "eval_rows": None,
        "separator": None,
        "quoting": "auto",
        "skip_faulty": 0.0,
    }
    return replace(DataSettings(**about | others), **reading.asked())


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
