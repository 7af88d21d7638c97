"""What the figures of a comparison allow one to advise, and how sure that is.

A method is as good as the best, as far as can be seen, if the two differ by no more than noise. There are two sources
of it, and both count, as the root of their squares' sum. Seeds: the half width of the t-interval of the difference of
two means, with the two methods' common deviation. Rows: that of the difference on rows like these, from how far the two
differ on each of them, a method's models taken together; more seeds do not make it much smaller, since all are
evaluated on the same rows. The best has been chosen from all, so the intervals are at 95 % for all differences from it
together (Bonferroni). With what is advised goes how far below the best it may be: the difference that was seen and its
noise. What cannot be told from the best only because its own seeds differ so much is not advised.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...show.units import percent_text
from ...stats import Parts, half_width, normal_z, paired_gain, unsteady
from ...training.score_parts import read_parts
from .table import COSTS, Quantity, Row, Table

_LEVEL = 0.95  # of all intervals of a comparison together


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Differences up to `size` mean nothing; None where the runs do not tell."""

    of_seeds: float | None
    of_rows: float | None

    @property
    def size(self) -> float:
        return math.hypot(self.of_seeds or 0.0, self.of_rows or 0.0)

    @property
    def is_known(self) -> bool:
        return self.of_seeds is not None or self.of_rows is not None

    @property
    def is_mostly_of_seeds(self) -> bool:
        return (self.of_seeds or 0.0) > (self.of_rows or 0.0)


@dataclass(frozen=True, kw_only=True)
class Compared:
    row: Row
    below: float  # how far below the best, in the score's unit
    noise: Noise

    @property
    def is_within(self) -> bool:
        """Of what cannot be measured nothing can be told apart."""
        return not self.noise.is_known or self.below <= self.noise.size


@dataclass(frozen=True, kw_only=True)
class Advice:
    best: str  # label of the best mean; not a winner unless it is alone
    equals: tuple[str, ...]  # labels of all that are within noise of it, itself included
    recommended: str | None
    sureness: Literal["fairly sure", "not very sure", "unsure"]
    findings: tuple[str, ...]
    conclusion: str
    caveats: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join([*self.findings, self.conclusion, *self.caveats])


def advise(table: Table) -> Advice | None:
    """Return None if no contender has a score."""
    score = table.score
    rows = [row for row in table.finished if score.key in row.spreads]
    if not rows:
        return None
    best = max(rows, key=lambda row: score.sign * row.spreads[score.key].mean)
    compared = [compare(row, best, table) for row in rows if row is not best]
    equals = (best, *(c.row for c in compared if c.is_within))
    worse = [c for c in compared if not c.is_within]
    if len(equals) == 1 and worse:
        worse.remove(min(worse, key=lambda c: c.below))  # which is said of the best already
    seeds = min(len(row.by_seed(score)) for row in rows)
    chance = _chance(table)
    if chance is not None and not chance.is_beaten_by(best):
        return Advice(
            best=best.label,
            equals=tuple(row.label for row in equals),
            recommended=None,
            sureness="unsure",
            findings=(_nothing_learned_sentence(best, chance, table),),
            conclusion="Advice: none; --epochs gives them more time, and --search looks for better learning rates.",
            caveats=tuple(_failed_sentence(table.rows)),
        )
    sureness = _sureness(seeds, compared)
    is_known = all(c.noise.is_known for c in compared)
    at_chance = [row for row in equals if chance is not None and not chance.is_beaten_by(row)]
    changing = _changing([row for row in equals if row not in at_chance], compared, score)
    left_out = [*at_chance, *changing]
    to_choose = [row for row in equals if row not in left_out]
    recommended, reasons = _cheapest(to_choose, left_out, table.quantities) if is_known else (None, [])
    return Advice(
        best=best.label,
        equals=tuple(row.label for row in equals),
        recommended=recommended.label if recommended else None,
        sureness=sureness,
        findings=(
            _equals_sentence(best, compared, table),
            *_at_chance_sentence(at_chance, chance, table),
            *_changing_sentence(changing, to_choose, score),
            *reasons,
            *_worse_sentence(worse, best, score),
        ),
        conclusion=_conclusion(recommended, sureness, seeds, compared, table),
        caveats=tuple(_failed_sentence(table.rows)),
    )


def compare(row: Row, best: Row, table: Table) -> Compared:
    """Return how far `row` is below `best`, over the seeds that both have, or over all if they have none in common."""
    score, split = table.score, table.split
    both = row.by_seed(score).keys() & best.by_seed(score).keys()
    mine, its = ([run for run in r.runs if run.seed in both or not both] for r in (row, best))
    my_scores, its_scores = ([v for r in runs if (v := score.read(r.summary)) is not None] for runs in (mine, its))
    my_parts, its_parts = ([read_parts(run.folder, split) for run in runs] for runs in (mine, its))
    level = 1 - (1 - _LEVEL) / max(1, sum(score.key in r.spreads for r in table.finished) - 1)
    return Compared(
        row=row,
        below=score.sign * (statistics.fmean(its_scores) - statistics.fmean(my_scores)),
        noise=Noise(of_seeds=half_width(my_scores, its_scores, level), of_rows=_rows_noise(my_parts, its_parts, level)),
    )


def _changing(rows: Sequence[Row], compared: Sequence[Compared], score: Quantity) -> list[Row]:
    """Find the methods that seeds change more than the others, and so much that it is most of the noise."""
    found = unsteady({row.label: row.spreads[score.key].values for row in rows})
    much = {c.row.label: c.noise.is_mostly_of_seeds for c in compared if c.is_within}
    return [row for row in rows if row.label in found and much.get(row.label, any(much.values()))]


def _rows_noise(mine: Sequence[Parts | None], its: Sequence[Parts | None], level: float) -> float | None:
    """Return by how much the best may be above the other on these rows though it is not on others like them."""
    gain = paired_gain(its, mine, level)
    return gain.value - gain.low if gain is not None and math.isfinite(gain.low) else None


def _cheapest(equals: Sequence[Row], left_out: Sequence[Row], quantities: Sequence[Quantity]) -> tuple[Row, list[str]]:
    """Return the one that is cheapest in most of the costs; among those the one that trains the fewest parameters."""
    costs = [q for q in quantities if q.key in COSTS]
    least = {q.key: min(equals, key=lambda row: row.spreads[q.key].mean) for q in costs}
    wins = {row.label: sum(found is row for found in least.values()) for row in equals}
    chosen = min(equals, key=lambda row: (-wins[row.label], row.spreads["trainable_parameters"].mean))
    if len(equals) == 1:
        return chosen, []
    verbs = {
        "trainable_parameters": "trains the fewest parameters",
        "peak_memory_bytes": "takes the least memory",
        "train_seconds": "trains in the least time",
    }
    of_label: dict[str, list[str]] = {}
    for q in costs:
        row = least[q.key]
        others = [r for r in equals if r is not row]
        hedge = " (but others are within its spread)" if _is_close(row, others, q) else ""
        of_label.setdefault(row.label, []).append(f"{verbs[q.key]} ({q.text(row.spreads[q.key].mean)}){hedge}")
    parts = [f"{label} {_list(what)}" for label, what in of_label.items()]
    sentences = [f"Of {'the rest' if left_out else 'these'}, {'; '.join(parts)}."]
    measured = [row for row in equals if "forgetting" in row.spreads]
    if len(measured) > 1:
        keeps = min(measured, key=lambda row: row.spreads["forgetting"].mean)
        text = next(q for q in quantities if q.key == "forgetting").text
        sentences.append(f"{keeps.label} forgets the least ({text(keeps.spreads['forgetting'].mean)}).")
    return chosen, sentences


def _is_close(row: Row, others: Sequence[Row], quantity: Quantity) -> bool:
    """Tell whether another is no farther than the two spread over the seeds."""
    mean, deviation = row.spreads[quantity.key].mean, _deviation(row, quantity)
    return any(other.spreads[quantity.key].mean - mean <= deviation + _deviation(other, quantity) for other in others)


def _deviation(row: Row, quantity: Quantity) -> float:
    return row.spreads[quantity.key].deviation or 0.0


def _sureness(seeds: int, compared: Sequence[Compared]) -> Literal["fairly sure", "not very sure", "unsure"]:
    if seeds < 2 or not all(c.noise.is_known for c in compared):
        return "unsure"
    # with two or three seeds the t-interval is wide, and what it cannot tell apart may still differ
    return "fairly sure" if seeds >= 3 else "not very sure"


def _equals_sentence(best: Row, compared: Sequence[Compared], table: Table) -> str:
    score, mean = table.score, best.spreads[table.score.key].mean
    where = f"the {table.evaluated} rows of {table.split}" if table.evaluated else table.split
    opening = f"On {where}, {best.label} has the best mean {score.name.partition(' (')[0]}, {score.text(mean)}"
    within = [c for c in compared if c.is_within]
    if not compared:
        return f"{opening}; nothing else finished, so there is nothing to compare it with."
    if not within:
        closest = min(compared, key=lambda c: c.below)
        return (
            f"{opening}: better than {closest.row.label}, the next, by {score.unit.difference(closest.below)}, which "
            f"is more than noise ({_noise_text(closest.noise, score)})."
        )
    names = _list([c.row.label for c in within])
    if not all(c.noise.is_known for c in within):
        return f"{opening}; with one seed the noise is not known, so it cannot be told from {names}."
    largest = max(within, key=lambda c: c.below)
    return (
        f"{opening}, but {names} cannot be told from it: "
        f"{'the difference is' if len(within) == 1 else 'the largest difference is'} "
        f"{score.unit.difference(largest.below)}, within noise ({_noise_text(largest.noise, score)})."
    )


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What always saying the most frequent label gets right, and the noise of that many rows."""

    accuracy: float
    noise: float

    def is_beaten_by(self, row: Row) -> bool:
        return row.spreads["accuracy"].mean > self.accuracy + self.noise


def _chance(table: Table) -> Chance | None:
    """Return None for scores that are no share of rows with labels."""
    if table.score.key != "accuracy" or table.majority is None or not table.evaluated:
        return None
    always = table.majority
    return Chance(accuracy=always, noise=normal_z() * math.sqrt(always * (1 - always) / table.evaluated))


def _chance_text(chance: Chance, table: Table) -> str:
    return (
        f"who always says the most frequent label has {percent_text(chance.accuracy)} "
        f"(±{table.score.unit.difference(chance.noise)} from the rows)"
    )


def _nothing_learned_sentence(best: Row, chance: Chance, table: Table) -> str:
    mean = best.spreads["accuracy"].mean
    return (
        f"None of them has learned the task as far as can be seen: on the {table.evaluated} rows of {table.split} the "
        f"best mean accuracy is {percent_text(mean)} ({best.label}), and {_chance_text(chance, table)}."
    )


def _at_chance_sentence(at_chance: Sequence[Row], chance: Chance | None, table: Table) -> list[str]:
    """Name the methods as good as the best, as far as can be seen, that have learned nothing that can be seen."""
    if not at_chance or chance is None:
        return []
    names = _list([f"{row.label} ({percent_text(row.spreads['accuracy'].mean)})" for row in at_chance])
    return [f"Left out of the choice, since it may have learned nothing: {names}; {_chance_text(chance, table)}."]


def _changing_sentence(changing: Sequence[Row], others: Sequence[Row], score: Quantity) -> list[str]:
    if not changing:
        return []
    names = _list([f"{row.label} (±{score.unit.difference(_deviation(row, score))})" for row in changing])
    most = score.unit.difference(max(_deviation(row, score) for row in others))
    return [f"Left out of the choice, since seeds change it more than the others (at most ±{most}): {names}."]


def _worse_sentence(worse: Sequence[Compared], best: Row, score: Quantity) -> list[str]:
    if not worse:
        return []
    parts = [f"{c.row.label} by {score.unit.difference(c.below)}" for c in sorted(worse, key=lambda c: c.below)]
    return [f"Worse than {best.label} by more than noise: {_list(parts)}."]


def _conclusion(recommended: Row | None, sureness: str, seeds: int, compared: Sequence[Compared], table: Table) -> str:
    if recommended is None:
        return "Advice: none from runs of one seed; --seeds 3 shows how far runs of one method differ."
    begin = f"Advice: {recommended.label}"
    behind = next((c for c in compared if c.row is recommended), None)  # unless it is the best itself
    if behind is not None:
        at_worst = behind.below + behind.noise.size
        begin += f", which may be up to {table.score.unit.difference(at_worst)} below the best"
    begin += f". How sure: {sureness}"
    if seeds < 2:
        return f"{begin}, since a method has one run only; --seeds 3 shows how far runs differ."
    if any(c.noise.is_mostly_of_seeds for c in compared):
        more = f"; noise is mostly that of {seeds} seeds, and more of them would narrow it"
    elif table.evaluated:
        more = f"; noise is mostly that of the {table.evaluated} rows, and only more rows would narrow it"
    else:
        more = ""
    return f"{begin}{more}. It holds for this model, these data and this budget."


def _failed_sentence(rows: Sequence[Row]) -> list[str]:
    failed = [row.label for row in rows if not row.runs]
    some = [row.label for row in rows if row.runs and row.failures]
    found = [f"Not judged, since no run of it finished: {_list(failed)}."] if failed else []
    return found + ([f"Judged by fewer runs, since some failed: {_list(some)}."] if some else [])


def _noise_text(noise: Noise, score: Quantity) -> str:
    sources = {"rows": noise.of_rows, "seeds": noise.of_seeds}
    known = [(source, size) for source, size in sources.items() if size is not None]
    if len(known) == 1:
        ((source, size),) = known
        missing = "; that of seeds is not known" if source == "rows" else ""
        return f"±{score.unit.difference(size)} from the {source}{missing}"
    parts = [f"{score.unit.difference(size).removesuffix(' points')} from the {source}" for source, size in known]
    return f"±{score.unit.difference(noise.size)}: {' and '.join(parts)}"


def _list(names: Sequence[str]) -> str:
    """Write `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
