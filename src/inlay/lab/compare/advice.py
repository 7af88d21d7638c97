"""What the figures of a comparison allow one to advise, in words; what they tell is found in evidence.py.

Advised is the best mean, or a cheaper method that is no more than two points below it (two percent of a score that is
no share) as far as can be told. Neither what has not exceeded the score that needs no reading of the inputs, nor what
only its own seeds keep near the best. Where nothing can be told the advice says so, and what would tell more.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...formats.summary import kept_start
from ...names import listed
from ...show.units import counted
from ...stats import normal_z
from ...tasks.never_given import never_given_text
from ...training.score_parts import read_parts
from .curves import curve_warnings
from .evidence import AgainstBest, Choice, Contestant, Field, Noise, choose
from .table import COSTS, MethodRow, MethodTable, Quantity

_FEW_ROWS = 200  # that tell an accuracy to ±7 points at best
_MARGIN = 0.02  # what a cheaper method may be below the best, as a share of what a score can be

Sureness = Literal["fairly sure", "not very sure", "unsure"]
_CONFIDENCE: dict[Sureness, str] = {"fairly sure": "fairly high", "not very sure": "low", "unsure": "none"}


@dataclass(frozen=True, kw_only=True)
class Advice:
    best: str  # label of the best mean; not a winner unless it is alone
    equals: tuple[str, ...]  # labels of all that nothing tells from it (of one seed: not the rows), itself included
    one_seed: bool  # whether each method has one run, so that what another seed changes is not known
    recommended: str | None
    is_told: bool  # whether that is known to be as good as the best, as far as it matters
    sureness: Sureness
    findings: tuple[str, ...]
    conclusion: str
    caveats: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join([*self.findings, self.conclusion, *self.caveats])


def _never_given_sentences(table: MethodTable) -> Iterator[str]:
    """Say whose score hides that a label is never given: whoever needs that label needs to know."""
    for row in table.finished:
        found = [missed for run in row.runs if (missed := run.summary.get("never_given"))]
        if found:
            yield f"{row.label}{row.often(found)}: {never_given_text(found[0], 'no row of valid')}."


def _start_sentences(table: MethodTable) -> Iterator[str]:
    """Say whose score is that of a new head alone, in runs whose adapter is kept as it began."""
    for row in table.finished:
        found = row.by_seed(table.score)
        kept = [run for run in row.runs if kept_start(run.summary) and run.seed in found]
        if kept:
            scores = [f"{table.score.text(found[run.seed])} (seed {run.seed})" for run in kept]
            are, there = "is the score" if len(kept) == 1 else "are the scores", " there" if row.often(kept) else ""
            yield (
                f"{row.label} kept its start{row.often(kept)}, as no step was better on valid: {listed(scores, 'and')} "
                f"{are} of the new head alone, and the adapter has learned nothing{there}."
            )


def _mind(name: str, collapsed: Collection[str]) -> str:
    """Point to what is said of the advised method, if its training collapsed."""
    return f" Mind what is said of {name} below." if name in collapsed else ""


def advise(table: MethodTable, searched: bool = False) -> Advice | None:
    """Return None if no contender has a score. `searched`: the learning rates were looked for, so that no search is
    advised."""
    score = table.score
    rows = {row.label: row for row in table.finished if row.by_seed(score)}
    if not rows:
        return None
    field, floor = field_of(table), floor_of(table)
    best = rows[field.best.name]
    within = [each.name for each in field.compared if each.is_within]
    warnings = curve_warnings(table.finished, score, searched)
    caveats = (*_failed_sentence(table), *warnings.values(), *_start_sentences(table), *_never_given_sentences(table))
    if floor is not None and not floor.is_beaten_by(best):
        return Advice(
            best=best.label,
            equals=(best.label, *within),
            one_seed=not field.has_seeds,
            recommended=None,
            is_told=False,
            sureness="unsure",
            findings=(_nothing_learned_sentence(best, floor, table),),
            conclusion=_nothing_learned_advice(best, floor, searched),
            caveats=caveats,
        )
    unlearned = [row for row in rows.values() if floor is not None and not floor.is_beaten_by(row)]
    choice = choose(
        field,
        _margin(score, field.best.mean),
        {row.label for row in unlearned},
    )
    near = [row for row in unlearned if row.label in within]
    return Advice(
        best=best.label,
        equals=(best.label, *within),
        one_seed=not field.has_seeds,
        recommended=choice.name,
        is_told=choice.is_told,
        sureness=_sureness(field, choice),
        findings=(
            _equals_sentence(best, field, table),
            *_unlearned_sentence(near, floor, score),
            *_unsteady_sentence([rows[name] for name in choice.unsteady], [rows[n] for n in choice.among], score),
            *_costs_sentences([rows[name] for name in choice.among], table.quantities),
            *_worse_sentence(field, score),
        ),
        conclusion=_conclusion(choice, field, table) + _mind(choice.name, warnings),
        caveats=caveats,
    )


def field_of(table: MethodTable) -> Field:
    """Return what the methods are compared by: their scores by seed, and the rows' parts of each."""
    score = table.score
    contestants = []
    for row in table.finished:
        scored = row.by_seed(score)
        parts = tuple(read_parts(run.folder, table.split) for run in row.runs if run.seed in scored)
        if scored:
            loss = row.spreads["loss"].mean if "loss" in row.spreads else 0.0
            contestants.append(Contestant(name=row.label, scores=tuple(scored.values()), parts=parts, loss=loss))
    by_label = {row.label: row for row in table.finished}
    return Field(
        contestants=contestants,
        sign=score.sign,
        rows=table.evaluated if score.unit.is_share else None,
        cheapest=lambda names: _cheapest([by_label[name] for name in names], table.quantities).label,
    )


def _margin(score: Quantity, best: float) -> float:
    most = score.limits[1]
    return _MARGIN * (most if math.isfinite(most) else abs(best))


def _room(score: Quantity, best: float) -> float:
    """Return how far below the best a score can be at all."""
    return score.sign * (best - score.limits[0 if score.sign > 0 else 1])


def _cheapest(rows: Sequence[MethodRow], quantities: Sequence[Quantity]) -> MethodRow:
    """Return the one that is cheapest in most of the costs; among those the one that trains the fewest parameters."""
    least = _least(rows, quantities)
    return min(
        rows, key=lambda row: (-sum(found is row for found in least.values()), row.spreads["trainable_parameters"].mean)
    )


def _least(rows: Sequence[MethodRow], quantities: Sequence[Quantity]) -> dict[str, MethodRow]:
    """Return the method that has the least of each cost."""
    return {q.key: min(rows, key=lambda row: row.spreads[q.key].mean) for q in quantities if q.key in COSTS}


def _costs_sentences(rows: Sequence[MethodRow], quantities: Sequence[Quantity]) -> list[str]:
    """Name the cheapest in each of the costs, and the one that forgets the least."""
    if len(rows) < 2:
        return []
    verbs = {
        "trainable_parameters": "trains the fewest parameters",
        "peak_memory_bytes": "takes the least memory",
        "train_seconds": "trains in the least time",
    }
    named = {q.key: q for q in quantities}
    of_label: dict[str, list[str]] = {}
    for key, row in _least(rows, quantities).items():
        q, others = named[key], [r for r in rows if r is not row]
        hedge = " (others are about as low)" if _is_close(row, others, q) else ""
        of_label.setdefault(row.label, []).append(f"{verbs[key]} ({q.text(row.spreads[key].mean)}){hedge}")
    parts = "; ".join(f"{label} {listed(what, 'and')}" for label, what in of_label.items())
    sentences = [f"Of {listed([row.label for row in rows], 'and')}, {parts}."]
    measured = [row for row in rows if "forgetting" in row.spreads]
    if len(measured) > 1:
        keeps = min(measured, key=lambda row: row.spreads["forgetting"].mean)
        text = named["forgetting"].text
        least, others = text(keeps.spreads["forgetting"].mean), [row for row in measured if row is not keeps]
        hedge = " (others are about as low)" if _is_close(keeps, others, named["forgetting"]) else ""
        sentences.append(f"Of these, {keeps.label} forgets the least general text ({least}){hedge}.")
    return sentences


def _is_close(row: MethodRow, others: Sequence[MethodRow], quantity: Quantity) -> bool:
    """Tell whether another is no farther than the two spread over the seeds."""
    mean, deviation = row.spreads[quantity.key].mean, _deviation(row, quantity)
    return any(other.spreads[quantity.key].mean - mean <= deviation + _deviation(other, quantity) for other in others)


def _deviation(row: MethodRow, quantity: Quantity) -> float:
    """Return the deviation over the seeds; of what was forgotten at least half of its interval over the passages."""
    deviation = row.spreads[quantity.key].deviation or 0.0
    if quantity.key != "forgetting":
        return deviation
    intervals = [found["interval"] for run in row.runs if (found := run.summary.get("forgetting"))]
    return max([deviation, *((high - low) / 2 for low, high in intervals)])


def _sureness(field: Field, choice: Choice) -> Sureness:
    if not choice.is_told:
        return "unsure"
    # of two runs each, pooling tells the noise, but not whether one in ten runs fails
    return "fairly sure" if min(len(each.scores) for each in field.contestants) >= 3 else "not very sure"


def _where(table: MethodTable) -> str:
    return f"the {counted(table.evaluated, 'row')} of {table.split}" if table.evaluated else table.split


def _equals_sentence(best: MethodRow, field: Field, table: MethodTable) -> str:
    score, mean = table.score, best.spreads[table.score.key].mean
    of, runs = ("mean ", "") if field.has_seeds else ("", ", with one run each")
    level = [each.name for each in field.compared if each.below == 0]
    reach = f"{listed([best.label, *level], 'and')} reach{'' if level else 'es'}"
    opening = f"On {_where(table)}, {reach} the best {of}{score.name.partition(' (')[0]}, {score.text(mean)}{runs}"
    within = [each for each in field.compared if each.is_within and each.below > 0]
    if not field.compared:
        return f"{opening.removesuffix(runs)}; nothing else finished, so there is nothing to compare it with."
    below = [each for each in field.compared if each.below > 0]
    if not below:
        return f"{opening}: this score does not tell them apart."
    if not within:
        closest = min(below, key=lambda each: each.below)
        return (
            f"{opening}: better than {closest.name}, the next, by {score.unit.difference(closest.below)}, which "
            f"is more than {_noise_name(field)} ({_noise_text(closest.noise, score)})."
        )
    largest = max(within, key=lambda each: each.below)
    names = listed([each.name for each in within], "and")
    them = _them([best, *level])
    how_far = f"the {'' if len(within) == 1 else 'largest '}difference is {score.unit.difference(largest.below)}"
    if not largest.noise.is_known:
        return f"{opening}, but {names} cannot be told from {them}: {how_far}, and the noise is not known."
    noise = _noise_text(largest.noise, score)
    if largest.noise.size >= _room(score, mean):
        noise = "more than a score can differ"
    return f"{opening}, but {names} cannot be told from {them}: {how_far}, within {_noise_name(field)} ({noise})."


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The score that needs no reading of the inputs, and the noise of that many rows."""

    name: str
    key: str
    sign: int
    score: float
    noise: float

    def is_beaten_by(self, row: MethodRow) -> bool:
        return self.sign * row.spreads[self.key].mean > self.sign * self.score + self.noise

    def is_below(self, row: MethodRow) -> bool:
        """Tell whether the method's mean is better, be it by noise."""
        return self.sign * row.spreads[self.key].mean > self.sign * self.score


def floor_of(table: MethodTable) -> Floor | None:
    """Return None where the runs tell of no such score."""
    score, naive = table.score, table.naive
    if naive is None or (found := naive.scores.get(score.key)) is None:
        return None
    noise = 0.0
    if score.unit.is_share and table.evaluated:
        noise = normal_z() * math.sqrt(found * (1 - found) / table.evaluated)
    told = naive.told + ("," if naive.answer else "")
    return Floor(name=told, key=score.key, sign=score.sign, score=found, noise=noise)


def _floor_text(floor: Floor, score: Quantity) -> str:
    noise = f" (±{score.unit.difference(floor.noise)} from the rows)" if floor.noise else ""
    return f"{floor.name} alone scores {score.text(floor.score)}{noise}"


def _nothing_learned_sentence(best: MethodRow, floor: Floor, table: MethodTable) -> str:
    score = table.score
    none = "No clear gain over the baseline" if floor.is_below(best) else "No method beats the baseline"
    return (
        f"{none} yet: on {_where(table)} the best mean {score.name.partition(' (')[0]} is "
        f"{score.text(best.spreads[score.key].mean)} ({best.label}), and {_floor_text(floor, score)}."
    )


def _nothing_learned_advice(best: MethodRow, floor: Floor, searched: bool) -> str:
    ways = ["--epochs gives them more time"]
    if not searched:
        ways.append("--search looks for better learning rates")
    if floor.is_below(best):
        ways.append("more rows to evaluate on (--data.valid-fraction) tell smaller differences apart")
    return f"Advice: none; {listed(ways, 'and')}."


def _unlearned_sentence(rows: Sequence[MethodRow], floor: Floor | None, score: Quantity) -> list[str]:
    """Name the methods that nothing tells from the best, but also not from having learned nothing."""
    if not rows or floor is None:
        return []
    names = listed([f"{row.label} ({score.text(row.spreads[score.key].mean)})" for row in rows], "and")
    return [f"Left out of the choice, as there is no clear gain: {names}; {_floor_text(floor, score)}."]


def _unsteady_sentence(rows: Sequence[MethodRow], others: Sequence[MethodRow], score: Quantity) -> list[str]:
    if not rows:
        return []
    names = listed([f"{row.label} (±{score.unit.difference(_deviation(row, score))})" for row in rows], "and")
    most = score.unit.difference(max(_deviation(row, score) for row in others))
    which = f"seeds change {_them(rows)} more than the others (at most ±{most})"
    return [f"Left out of the choice, since {which}: {names}."]


def _worse_sentence(field: Field, score: Quantity) -> list[str]:
    worse = [each for each in field.compared if not each.is_within]
    if worse and len(worse) == sum(each.below > 0 for each in field.compared):
        worse.remove(min(worse, key=lambda each: each.below))  # which is said of the best already
    return (
        [f"Worse than {field.best.name} by more than {_noise_name(field)}: {_belows(worse, score)}."] if worse else []
    )


def _noise_name(field: Field) -> str:
    return "noise" if field.has_seeds else "the noise of the rows"


def _belows(compared: Sequence[AgainstBest], score: Quantity) -> str:
    ordered = sorted(compared, key=lambda each: each.below)
    return listed([f"{each.name} by {score.unit.difference(each.below)}" for each in ordered], "and")


def _conclusion(choice: Choice, field: Field, table: MethodTable) -> str:
    score, best = table.score, field.best
    begin, end = f"Advice: {choice.name}", "Valid only for this model, data set and training budget."
    if not field.compared:
        return f"{begin}, the only one that finished. {end}"
    more = _what_would_tell(field, table)
    level = any(each.below == 0 for each in field.compared) and choice.name == best.name
    if not field.has_seeds:
        first = "by loss and then cost the first of those that did best with this seed"
        did_best = first if level else "which did best with this seed"
        return f"{begin}, {did_best}; whether it would with another cannot be told: {more}. {end}"
    if not choice.is_told:
        why = "whose mean is the best" if choice.name == best.name else "the best mean that is to be trusted"
        why = "by loss and then cost the first of those whose mean is the best" if level else why
        return f"{begin}, {why}; whether another is better cannot be told: {more}. {end}"
    if choice.name != choice.first:
        than = "the best" if choice.first == best.name else choice.first
        at_most = min(choice.at_most, _room(score, best.mean))
        begin += f", which may be up to {score.unit.difference(at_most)} below {than}"
    return f"{begin}. Confidence: {_CONFIDENCE[_sureness(field, choice)]}; {more}. {end}"


def _what_would_tell(field: Field, table: MethodTable) -> str:
    """Say of which there should be more, seeds or rows."""
    seeds = min(len(each.scores) for each in field.contestants)
    if seeds < 3:
        rows = f", and score more than these {table.evaluated} rows" if 0 < (table.evaluated or 0) < _FEW_ROWS else ""
        return f"run --seeds 3, since so few runs say little about what another seed changes{rows}"
    if any(each.noise.is_mostly_of_seeds for each in field.compared):
        return f"most of the uncertainty comes from using only {seeds} seeds, and --seeds {2 * seeds} would narrow it"
    if table.evaluated:
        return f"most of the uncertainty comes from the {table.evaluated:,} rows, and only more rows would narrow it"
    return f"--seeds {2 * seeds} would narrow the uncertainty"


def _failed_sentence(table: MethodTable) -> list[str]:
    failed = [row.label for row in table.rows if not row.by_seed(table.score)]
    some = [
        row.label
        for row in table.rows
        if row.by_seed(table.score) and (row.failures or len(row.by_seed(table.score)) < len(row.runs))
    ]
    none = f"Not judged, since no run of {_them(failed)} finished with a score"
    found = [f"{none}: {listed(failed, 'and')}."] if failed else []
    return found + ([f"Judged by fewer runs, since some failed: {listed(some, 'and')}."] if some else [])


def _noise_text(noise: Noise, score: Quantity) -> str:
    sources = {"rows": noise.of_rows, "seeds": noise.of_seeds}
    known = [(source, size) for source, size in sources.items() if size is not None]
    if len(known) == 1:
        ((source, size),) = known
        text = f"±{score.unit.difference(size)}"
        return f"{text} from the seeds; that of the rows is not known" if source == "seeds" else text
    parts = [f"{score.unit.difference(size).removesuffix(' points')} from the {source}" for source, size in known]
    return f"±{score.unit.difference(noise.size)}: {' and '.join(parts)}"


def _them(names: Sequence[object]) -> str:
    return "it" if len(names) == 1 else "them"
