"""How good the advice of `inlay compare` is, on comparisons whose truth is known.

    python scripts/simulate_advice.py --comparisons 2000

Methods have a true accuracy: all the same, one better than the rest, spread, or in two groups. A run's accuracy is
that with the noise of its seed: the same for all methods, uneven, or such that one seed in ten collapses to the most
frequent label. Its rows are right or wrong as that accuracy says, with a difficulty that all methods share. The
cheapest method is the worst in half of the comparisons, and any in the others. The true best is the one with the best
expected accuracy, collapses included.

Of each way to advise, and each number of seeds: how often the advice is more than two points worse than the true best;
how often so though it was said to be told; how often, of equal methods, a winner is named, or one is called worse; how
often the advised mean is below the best by more than the rows' noise; how dear the advised method is, from 0 (the
cheapest) to 1; and how often something was told at all.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from inlay.lab.compare.evidence import Contestant, Field, choose
from inlay.stats import Shares, student_t

TRUTHS = ("equal", "one better", "spread", "groups")
SEED_NOISES = ("even", "uneven", "collapse")
METHODS = (2, 3, 5, 10, 22)
ROWS = (150, 300, 500, 1000, 2000)
MARGIN = 0.02
DEVIATIONS = (0.002, 0.004, 0.008)  # over seeds: 22 methods on trec have 0.1 to 2.0 points, most 0.4 (docs/results.md)
UNEVEN = 0.8  # of the logarithm of a method's own deviation; there it is 0.78, of which few seeds make 0.6


@dataclass(frozen=True)
class Drawn:
    """A comparison whose truth is known."""

    truth: str
    seed_noise: str
    rows: int
    expected: NDArray[np.float64]  # of each method, over seeds and rows
    costs: NDArray[np.int64]  # ranks, 0 is the cheapest
    field: Field


@dataclass(frozen=True)
class Told:
    """What a way to advise says of a comparison."""

    name: int  # of the advised method
    worse: set[int]
    is_told: bool


@dataclass(frozen=True)
class Outcome:
    """How good what was said is; shares over comparisons."""

    regret: float
    told_regret: float
    winner: float
    worse: float
    below_rows: float
    cost: float
    told: float


def draw(random: np.random.Generator, seeds: int, methods: int, rows: int, truth: str, seed_noise: str) -> Drawn:
    """Draw the accuracies, the runs and their rows."""
    top = random.uniform(0.6, 0.97)
    level = np.full(methods, top)
    if truth == "one better":
        level[1:] -= random.choice([0.01, 0.03, 0.05, 0.1])
    elif truth == "spread":
        level[1:] -= np.abs(random.normal(0, random.choice([0.01, 0.03, 0.1]), methods - 1))
    elif truth == "groups":
        level[1:] -= np.where(random.random(methods - 1) < 0.5, 0, random.choice([0.03, 0.05, 0.15]))
    level = np.clip(level, 0.3, 0.99)
    majority = min(random.choice([0.25, 0.5], p=[0.7, 0.3]), float(level.min()) - 0.02)
    deviation = np.full(methods, random.choice(DEVIATIONS))
    if seed_noise == "uneven":
        deviation = deviation * np.exp(random.normal(0, UNEVEN, methods))
    collapses = 0.1 if seed_noise == "collapse" else 0.0
    of_runs = np.clip(level[:, None] + random.normal(0, 1, (methods, seeds)) * deviation[:, None], 0.02, 0.995)
    # how hard a row is for all, for a method, for a run
    hard = random.normal(0, 0.6**0.5, rows) + random.normal(0, 0.2**0.5, (methods, 1, rows))
    margins = norm.ppf(of_runs)[:, :, None] + hard + random.normal(0, 0.2**0.5, (methods, seeds, rows))
    guessed = majority - random.random(rows)
    margins[random.random((methods, seeds)) < collapses] = guessed
    right, losses = margins > 0, np.logaddexp(0, -2 * margins).mean((1, 2))
    expected = (1 - collapses) * level + collapses * majority
    order = expected + random.normal(0, 1e-6, methods)
    costs = np.argsort(np.argsort(order)) if random.random() < 0.5 else random.permutation(methods)
    contestants = [
        Contestant(
            name=str(i),
            scores=tuple(right[i].mean(1).tolist()),
            parts=(Shares(torch.from_numpy(right[i].mean(0))),),  # a method's models are taken together anyway
            loss=float(losses[i]),
        )
        for i in range(methods)
    ]
    field = Field(contestants=contestants, cheapest=lambda names: min(names, key=lambda name: costs[int(name)]))
    return Drawn(truth, seed_noise, rows, expected, costs, field)


def draws(random: np.random.Generator, seeds: int, count: int, rows: Sequence[int] = ROWS) -> Iterator[Drawn]:
    """Draw comparisons of all kinds alike."""
    for _ in range(count):
        kinds = (random.choice(each) for each in (METHODS, rows, TRUTHS, SEED_NOISES))
        yield draw(random, seeds, *((int if i < 2 else str)(kind) for i, kind in enumerate(kinds)))  # pyright: ignore


def ours(drawn: Drawn, margin: float = MARGIN) -> Told:
    """Advise as `inlay compare` does."""
    choice = choose(drawn.field, margin)
    return Told(int(choice.name), _worse(drawn), choice.is_told)


def best_mean(drawn: Drawn) -> Told:
    """Advise the best mean, whatever the noise."""
    return Told(int(drawn.field.best.name), set(), False)


def pairs(drawn: Drawn) -> Told:
    """Advise the cheapest of all that a t of each pair does not tell from the best, as was done once."""
    best, worse = drawn.field.best, set[int]()
    count = len(best.scores)
    for each in drawn.field.compared:
        own = drawn.field.contestants[int(each.name)]
        of_seeds = 0.0
        if count > 1:
            variance = (np.var(own.scores, ddof=1) + np.var(best.scores, ddof=1)) / count
            level = 1 - 0.05 / max(1, len(drawn.field.contestants) - 1)
            of_seeds = student_t(2 * count - 2, level) * variance**0.5
        if each.below > np.hypot(of_seeds, each.noise.of_rows or 0.0):
            worse.add(int(each.name))
    left = [i for i in range(len(drawn.costs)) if i not in worse]
    return Told(min(left, key=lambda i: drawn.costs[i]), worse, count > 1)


def within_rows(drawn: Drawn, share: float = 1.0) -> Told:
    """Advise the cheapest of those that nothing tells from the best and whose means are within the rows' noise."""
    near = [int(e.name) for e in drawn.field.compared if e.is_within and e.below <= share * e.rows]
    among = [int(drawn.field.best.name), *(near if drawn.field.has_seeds else [])]
    return Told(min(among, key=lambda i: drawn.costs[i]), _worse(drawn), drawn.field.has_seeds)


def one_error(drawn: Drawn) -> Told:
    """Advise the cheapest within one standard error of the rows (Breiman et al. 1984)."""
    return within_rows(drawn, 1 / 1.96)


def _worse(drawn: Drawn) -> set[int]:
    """Return the methods that are said to be worse; of one seed, that is said of that seed alone."""
    if not drawn.field.has_seeds:
        return set()
    return {int(each.name) for each in drawn.field.compared if not each.is_within}


WAYS: dict[str, Callable[[Drawn], Told]] = {
    "t of each pair, cheapest of the equal": pairs,
    "pooled, cheapest within the rows' noise": within_rows,
    "pooled, cheapest within one error": one_error,
    "the best mean": best_mean,
    "pooled, cheapest within two points (ours)": ours,
}


def outcome(drawn: Drawn, told: Told) -> Outcome:
    """Judge what was said of one comparison."""
    below = {int(each.name): each for each in drawn.field.compared}.get(told.name)
    regret = float(drawn.expected.max() - drawn.expected[told.name]) > MARGIN + 1e-9
    equal = drawn.truth == "equal"
    count = len(drawn.costs)
    return Outcome(
        regret=regret,
        told_regret=regret and told.is_told,
        winner=float(len(told.worse) == count - 1) if equal else np.nan,
        worse=float(bool(told.worse)) if equal else np.nan,
        below_rows=below is not None and below.below > below.rows,
        cost=drawn.costs[told.name] / (count - 1),
        told=told.is_told,
    )


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Average over comparisons, equal methods apart."""
    names = [field.name for field in fields(Outcome)]
    return Outcome(*(float(np.nanmean([getattr(each, name) for each in outcomes])) for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2000, help="for each number of seeds")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random = np.random.default_rng(asked.seed)
    found: dict[str, dict[int, list[tuple[Drawn, Outcome]]]] = {name: {} for name in WAYS}
    for seeds in range(1, 6):
        for drawn in draws(random, seeds, asked.comparisons):
            for name, way in WAYS.items():
                found[name].setdefault(seeds, []).append((drawn, outcome(drawn, way(drawn))))
    print("| way | seeds | > 2 points worse | and told | equal: winner | equal: one worse | below rows | cost | told |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, by_seeds in found.items():
        for seeds, each in by_seeds.items():
            row = mean([one for _, one in each])
            shares = (row.regret, row.told_regret, row.winner, row.worse, row.below_rows)
            cells = [f"{100 * share:.1f} %" for share in shares]
            print(f"| {name} | {seeds} | {' | '.join(cells)} | {row.cost:.2f} | {100 * row.told:.0f} % |")
    print(
        "\nmore than two points worse, of the last way and of the best mean\n\n| | seeds | "
        + " | ".join("12345")
        + " |"
    )
    kinds: dict[str, Callable[[Drawn], object]] = {
        "rows": lambda drawn: drawn.rows,
        "methods": lambda drawn: len(drawn.costs),
        "truth": lambda drawn: drawn.truth,
        "noise of seeds": lambda drawn: drawn.seed_noise,
    }
    for title, kind in kinds.items():
        for value in sorted({kind(drawn) for drawn, _ in found["the best mean"][1]}, key=str):
            cells = []
            for seeds in range(1, 6):
                own, best = (
                    mean([one for drawn, one in found[way][seeds] if kind(drawn) == value])
                    for way in ("pooled, cheapest within two points (ours)", "the best mean")
                )
                cells.append(f"{100 * own.regret:.1f} ({100 * best.regret:.1f})")
            print(f"| {title} | {value} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
