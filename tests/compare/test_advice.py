"""What the figures allow one to advise."""

import functools
import json
import math
import re
import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inlay.lab.compare.advice import advise, field_of
from inlay.lab.compare.evidence import AgainstBest, Contestant, Field, choose
from inlay.lab.compare.report import render
from inlay.lab.compare.table import MethodTable
from inlay.stats import Shares, moderated_variances, student_t
from inlay.training.score_parts import SCORE_PARTS, write_parts

from .fakes import comparison_of, table_of, write_classifier, write_language_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_advice.py"


def compare(table: MethodTable, name: str) -> AgainstBest:
    (found,) = (each for each in field_of(table).compared if each.name == name)
    return found


def test_a_method_beyond_noise_is_called_worse_and_the_cheapest_of_the_equals_is_advised(tmp_path: Path) -> None:
    scores = {"lora": (0.970, 0.972, 0.968), "pfeiffer": (0.960, 0.966, 0.966), "bitfit": (0.90, 0.902, 0.898)}
    table = table_of(tmp_path, scores)
    found = advise(table)
    assert found is not None
    assert found.best == "lora"
    assert found.equals == ("lora", "pfeiffer")
    assert found.recommended == "pfeiffer"
    assert found.is_told
    assert "Worse than lora by more than noise: bitfit by 7.0 points" in found.text
    assert "500 rows" in found.text
    at_worst = f"{100 * compare(table, 'pfeiffer').at_most:.1f} points below the best"
    assert f"Advice: pfeiffer, which may be up to {at_worst}. Confidence: fairly high" in found.conclusion


def test_a_cheaper_method_that_may_be_more_than_two_points_below_is_not_advised(tmp_path: Path) -> None:
    scores = {"lora": (0.970, 0.972, 0.968), "pfeiffer": (0.950, 0.956, 0.956)}
    found = advise(table_of(tmp_path, scores, rows=300))
    assert found is not None
    assert found.equals == ("lora", "pfeiffer")
    assert found.recommended == "lora"
    assert not found.is_told
    assert "Advice: lora, whose mean is the best; whether another is better cannot be told" in found.conclusion


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_the_worst_is_not_advised_though_seeds_differ_much(seeds: int, tmp_path: Path) -> None:
    """A t of two degrees of freedom once told nothing apart here, to ±96.5 points, and the worst was the cheapest."""
    scores = {
        "ia3": (0.73, 0.75, 0.74),
        "prompt": (0.30, 0.59, 0.50),
        "lora:rank=2": (0.44, 0.62, 0.53),
        "pfeiffer": (0.18, 0.43, 0.30),
    }
    found = advise(table_of(tmp_path, {name: each[:seeds] for name, each in scores.items()}, rows=150))
    assert found is not None
    assert found.recommended == found.best == "ia3"
    sizes = [float(word.strip("(±;:,)")) for word in found.text.split() if "±" in word]
    assert all(size <= 74 for size in sizes)
    if seeds < 3:
        assert "cannot be told: run --seeds 3" in found.conclusion
        assert found.sureness == "unsure"


@pytest.mark.parametrize(
    ("scores", "recommended"),
    [
        ({"lora": (0.975,), "full": (0.990,), "bitfit": (0.987,)}, "full"),  # of one seed nothing is told
        ({"lora": (0.87, 0.989), "full": (0.990, 0.986), "bitfit": (0.987, 0.985)}, "bitfit"),  # a run collapsed
        ({"lora": (0.87, 0.868), "full": (0.866, 0.872), "bitfit": (0.872, 0.87)}, None),  # all say ham
        ({"lora": (0.87,), "full": (0.87,), "bitfit": (0.87,)}, None),
    ],
)
def test_at_87_per_cent_ham(scores: dict[str, Sequence[float]], recommended: str | None, tmp_path: Path) -> None:
    write = functools.partial(write_classifier, majority=0.87)
    found = comparison_of(tmp_path, scores, rows=1000, write=write).advice
    assert found is not None
    assert found.recommended == recommended
    if recommended is None:
        assert "the baseline yet: on the 1,000 rows" in found.text
        assert "the most frequent label alone scores 87.0 %" in found.text


def test_a_curve_that_collapsed_is_warned_of(tmp_path: Path) -> None:
    def write(trial: Any, accuracy: float, rows: int, forgetting: bool) -> None:
        falls = trial.label == "lora" and trial.seed == 1
        write_classifier(trial, accuracy, rows, forgetting, majority=0.5, ends_at=0.5 if falls else None)

    found = comparison_of(tmp_path, {"lora": (0.97, 0.97), "full": (0.96, 0.97)}, write=write).advice
    assert found is not None
    (warning,) = found.caveats
    assert warning.startswith("lora collapsed in 1 of 2 runs: on valid, seed 1 fell from 9")
    assert "to 50.0 %. Its learning rate is at the edge" in warning


def test_a_run_that_went_back_is_warned_of(tmp_path: Path) -> None:
    def write(trial: Any, accuracy: float, rows: int, forgetting: bool) -> None:
        write_classifier(trial, accuracy, rows, forgetting, majority=0.5)
        if trial.label == "lora" and trial.seed == 1:
            path = trial.folder / "summary.json"
            back = [{"step": 30, "to": 15, "share": 0.5, "why": "every row of valid gets the same answer"}]
            path.write_text(json.dumps(json.loads(path.read_text()) | {"went_back": back}))

    found = comparison_of(tmp_path, {"lora": (0.97, 0.97), "full": (0.96, 0.97)}, write=write).advice
    assert found is not None
    (warning,) = found.caveats
    assert warning.startswith(
        "lora had to go back in 1 of 2 runs, as the training collapsed: with seed 1 after step 30"
    )
    assert warning.endswith("it may be chance; its learning rate is near the edge.")


@pytest.mark.parametrize(("searched", "todo"), [(False, "try --search, for a lower one."), (True, "--learning-rate.")])
def test_no_search_is_advised_within_one(tmp_path: Path, searched: bool, todo: str) -> None:
    def write(trial: Any, accuracy: float, rows: int, forgetting: bool) -> None:
        write_classifier(trial, accuracy, rows, forgetting, majority=0.5)
        path = trial.folder / "summary.json"
        back = [{"step": 30, "to": 15, "share": 0.5, "why": "every row of valid gets the same answer"}]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"went_back": back}))

    table = comparison_of(tmp_path, {"lora": (0.97,), "full": (0.96,)}, write=write).table
    found = advise(table, searched)
    assert found is not None
    assert [each.endswith(todo) for each in found.caveats] == [True, True]


def test_the_noise_of_rows_is_that_of_the_same_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.95, 0.95), "full": (0.93, 0.93)}, rows=1000)
    lora, full = table.rows
    for run in lora.runs:
        write_parts(run.folder, {"test": Shares(torch.arange(1000) < 950)})
    for run in full.runs:
        write_parts(run.folder, {"test": Shares(torch.arange(1000) < 930)})  # right where lora is
    alike = compare(table, "full")
    assert alike.below == pytest.approx(0.02)
    half = 1.959964 * ((22 / 1002 - (20 / 1002) ** 2) / 1002) ** 0.5
    assert alike.noise.size == alike.rows == pytest.approx(0.02 - 20 / 1002 + half)
    assert not alike.is_within
    for run in full.runs:
        write_parts(run.folder, {"test": Shares(torch.arange(1000) >= 70)})  # wrong where lora is right
    assert compare(table, "full").is_within
    (full.runs[0].folder / SCORE_PARTS).unlink()  # of a run that has kept none: as of rows that are not the same
    error = sum((1000 * share + 1) / 1002 * (1 - (1000 * share + 1) / 1002) for share in (0.95, 0.93)) ** 0.5
    assert compare(table, "full").rows == pytest.approx(1.959964 * error / 1000**0.5)


def test_both_sources_of_noise_count(tmp_path: Path) -> None:
    scores = {"lora": (0.95, 0.99, 0.91), "full": (0.94, 0.90, 0.98)}
    noise = compare(table_of(tmp_path, scores, rows=1000), "full").noise
    assert noise.of_seeds is not None
    assert noise.of_rows is not None
    variances = moderated_variances(scores)
    error = sum(each.value / 3 for each in variances.values()) ** 0.5
    assert noise.of_seeds == pytest.approx(student_t(4) * error)
    assert noise.size == pytest.approx((noise.of_seeds**2 + noise.of_rows**2) ** 0.5)
    assert noise.is_mostly_of_seeds


def test_of_many_methods_each_is_held_to_more() -> None:
    rows = (Shares(torch.arange(500) < 480),)
    made = [Contestant(name=str(i), scores=(0.96 - i / 500, 0.97 - i / 500), parts=rows) for i in range(22)]
    few, many = (Field(contestants=made[:count]).compared[0].noise for count in (2, 22))
    assert many.of_rows == pytest.approx(few.of_rows * 3.0381 / 1.959964, rel=1e-3)  # at 1 - 0.05 / 21
    assert few.of_seeds is not None
    assert many.of_seeds == pytest.approx(few.of_seeds * student_t(5, 1 - 0.05 / 21) / student_t(2))


def test_advice_is_right_on_comparisons_whose_truth_is_known() -> None:
    """The reduced form of scripts/simulate_advice.py: what is said to be told is hardly ever two points worse than the
    true best, no advised mean is below the best by more than its rows' noise, and equal methods have no winner."""
    script = runpy.run_path(str(SCRIPT))
    random, every, past = np.random.default_rng(0), [], []
    for seeds in range(1, 6):
        drawn = list(script["draws"](random, seeds, 40, rows=(500, 1000)))
        every += [script["outcome"](each, script["ours"](each)) for each in drawn]
        past += [script["outcome"](each, script["pairs"](each)) for each in drawn]
    together = script["mean"](every)
    assert together.below_rows == 0
    assert together.regret <= 0.05
    assert together.told_regret <= 0.01
    assert together.winner <= 0.05
    assert together.worse <= 0.1  # of 47 equal ones; 0.02 of thousands
    assert script["mean"](past).regret > 0.1  # of what was done before


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_may_be_negative_and_a_lower_one_better(sign: int) -> None:
    """Matthews' coefficient is from -1 to 1; of losses the lower is better."""
    scores = {"a": (0.30, 0.31, 0.29), "b": (-0.20, -0.21, -0.19), "c": (0.295, 0.30, 0.29)}
    made = [Contestant(name=name, scores=tuple(sign * each for each in found)) for name, found in scores.items()]
    field = Field(contestants=made, sign=sign)
    assert field.best.name == "a"
    assert [each.name for each in field.compared if not each.is_within] == ["b"]
    assert choose(replace(field, cheapest=max), 0.02).name == "a"  # nothing is known of the rows


def test_scores_without_any_spread_are_compared_by_their_rows() -> None:
    made = [Contestant(name=name, scores=(score,) * 3) for name, score in (("a", 0.9), ("b", 0.9), ("c", 0.5))]
    choice = choose(Field(contestants=made, rows=500, cheapest=max), 0.02)
    assert (choice.name, choice.among, choice.is_told) == ("b", ("b", "a"), False)  # level as they are
    steady = choose(Field(contestants=made, rows=5000, cheapest=max), 0.02)
    assert (steady.name, steady.is_told) == ("b", True)


def test_a_run_without_a_score_counts_as_failed(tmp_path: Path) -> None:
    scores = {"lora": (0.97, math.nan, 0.971), "full": (0.97, 0.972, 0.968), "bitfit": (math.nan,) * 3}
    write = functools.partial(write_classifier)
    found = comparison_of(
        tmp_path,
        scores,
        write=lambda trial, score, *more: write(trial, 0.9 if math.isnan(score) else score, *more),
    )
    for row in found.table.rows:
        for run in row.runs:
            run.summary["metrics"]["test"]["accuracy"] = scores[row.label][run.seed]
    advice = advise(found.table)
    assert advice is not None
    assert advice.best == "lora"
    assert "Not judged, since no run of it finished with a score: bitfit." in advice.caveats
    assert "Judged by fewer runs, since some failed: lora." in advice.caveats
    assert "nan" not in advice.text


def test_one_method_alone_is_advised_without_a_comparison(tmp_path: Path) -> None:
    failures = {"full-0": "killed", "full-1": "killed"}
    found = comparison_of(tmp_path, {"lora": (0.9, 0.91), "full": (0.9, 0.9)}, failures=failures).advice
    assert found is not None
    assert "Advice: lora, the only one that finished." in found.conclusion


def test_at_chance_nothing_is_advised(tmp_path: Path) -> None:
    """The most frequent label is 27.6 % of the rows."""
    found = advise(table_of(tmp_path / "none", {"lora": (0.276, 0.29, 0.28), "full": (0.24, 0.23, 0.276)}))
    assert found is not None
    assert found.recommended is None
    assert "No clear gain over the baseline yet" in found.text  # 28.2 % beside it
    assert "--data.valid-fraction" in found.conclusion
    assert "27.6 %" in found.text
    assert "the best mean accuracy, " not in found.text
    one = advise(table_of(tmp_path / "one", {"lora": (0.276, 0.29, 0.28), "full": (0.34, 0.33, 0.35)}))
    assert one is not None
    assert one.recommended == "full"


def test_what_may_have_learned_nothing_is_not_advised_though_it_cannot_be_told_from_the_best(tmp_path: Path) -> None:
    scores = {"full": (0.36, 0.37, 0.36), "houlsby": (0.35, 0.36, 0.36), "bitfit": (0.32, 0.31, 0.33)}
    found = advise(table_of(tmp_path, scores, rows=193))
    assert found is not None
    assert found.equals == ("full", "houlsby", "bitfit")
    assert found.recommended != "bitfit"  # the cheapest of the three
    assert "Left out of the choice, as there is no clear gain: bitfit (32.0 %); " in found.text


def test_what_only_seeds_keep_near_the_best_is_not_advised(tmp_path: Path) -> None:
    scores = {"full": (0.970, 0.972, 0.968), "lora": (0.965, 0.967, 0.966), "bitfit": (0.97, 0.62, 0.95)}
    found = advise(table_of(tmp_path / "a", scores, rows=5000))
    assert found is not None
    assert found.equals == ("full", "lora", "bitfit")
    assert found.recommended == "lora"  # bitfit is the cheapest of the three
    assert "since seeds change it more than the others (at most ±0.2 points): bitfit (±19.7 points)" in found.text
    scores["bitfit"] = (0.97, 0.968, 0.966)
    steady = advise(table_of(tmp_path / "b", scores, rows=5000))
    assert steady is not None
    assert steady.recommended == "bitfit"
    assert "Left out" not in steady.text


def test_a_best_that_seeds_change_is_not_advised_either(tmp_path: Path) -> None:
    scores = {"bitfit": (0.99, 0.93, 0.98), "lora": (0.965, 0.965, 0.966), "full": (0.966, 0.965, 0.966)}
    found = advise(table_of(tmp_path, scores, rows=5000))
    assert found is not None
    assert found.best == "bitfit"
    assert found.recommended == "lora"


def test_of_few_rows_seeds_may_change_as_much_as_they_do(tmp_path: Path) -> None:
    """Two scores of 50 rows may be the same by chance, and 2 points are one row."""
    scores = {"full": (0.96, 0.96, 0.96), "bitfit": (0.96, 0.94, 0.94)}
    found = advise(table_of(tmp_path, scores, rows=50))
    assert found is not None
    assert "Left out" not in found.text


def test_one_seed_is_never_sure(tmp_path: Path) -> None:
    found = advise(table_of(tmp_path, {"lora": (0.97,), "full": (0.60,)}))
    assert found is not None
    assert found.sureness == "unsure"
    assert "--seeds 3" in found.conclusion
    assert not found.is_told  # another seed may collapse
    assert found.equals == ("lora",)
    assert (
        "with one run each: better than full, the next, by 37.0 points, which is more than the noise of" in found.text
    )
    assert "which did best with this seed; whether it would with another cannot be told" in found.conclusion


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_methods_with_the_same_score_the_cheapest_is_advised_and_none_is_called_the_best(
    seeds: int, tmp_path: Path
) -> None:
    """Bitfit is cheaper than lora, and lora comes first in the table."""
    scores = {"lora": (0.9375,) * seeds, "bitfit": (0.9375,) * seeds, "pfeiffer": (0.9,) * seeds}
    table = table_of(tmp_path, scores, rows=80)
    found = advise(table)
    assert found is not None
    assert found.best == found.recommended == "bitfit"
    assert "bitfit and lora reach the best" in found.text
    assert "pfeiffer cannot be told from them: the difference is 3.7 points" in found.text
    assert "Of bitfit and lora, bitfit trains the fewest parameters" in found.text
    if seeds == 1:
        assert (
            "Advice: bitfit, by loss and then cost the first of those that did best with this seed" in found.conclusion
        )
    alone = advise(table_of(tmp_path / "two", {name: scores[name] for name in ("lora", "bitfit")}, rows=80))
    assert alone is not None
    assert "this score does not tell them apart" in alone.text


def test_losses_of_one_seed_are_compared_on_their_rows(tmp_path: Path) -> None:
    found = comparison_of(tmp_path, {"lora": (0.7,), "full": (0.5,)}, write=write_language_model).advice
    assert found is not None
    assert found.best == "full"  # the lower loss
    assert found.recommended == "full"
    assert "better than lora, the next, by 0.200, which is more than the noise of the rows (±" in found.text
    assert "cannot be told: run --seeds 3" in found.text


def test_where_no_noise_is_known_the_best_is_advised_and_nothing_told(tmp_path: Path) -> None:
    write = functools.partial(write_language_model, batches=0)
    found = comparison_of(tmp_path, {"lora": (0.7,), "full": (0.5,)}, write=write).advice
    assert found is not None
    assert found.best == "full"
    assert found.recommended == "full"
    assert not found.is_told
    assert "lora cannot be told from it: the difference is 0.200, and the noise is not known." in found.text


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_marks_and_sentences_say_the_same(seeds: int, tmp_path: Path) -> None:
    """A method has the mark of those like the best where a sentence says so, and none where one calls it worse."""
    random = np.random.default_rng(seeds)
    told = {True: 0, False: 0}
    for case in range(20):
        near = (0.0, 0.01, 0.05, 0.2)
        scores = {
            label: np.clip(0.9 - random.choice(near) + random.normal(0, 0.01, seeds), 0.3, 0.99).tolist()
            for label in ("lora", "full", "bitfit", "pfeiffer")
        }
        result = comparison_of(tmp_path / str(case), scores, rows=int(random.choice([40, 500])))
        assert result.advice is not None
        best, text, page = result.advice.best, result.advice.text, render(result)
        marked = set(re.findall(r'<bdi>([\w-]+)</bdi> <span class="equal"', page))
        like = re.search(r"but ([\w, -]+) cannot be told from it", text)
        better = re.search(r"better than ([\w-]+), the next", text)
        worse = re.search(r"Worse than [\w-]+ by more than [\w ]*noise[\w ]*: (.*? points)\.", text)
        named_like = set(re.split(", | and ", like[1])) if like else set()
        named_worse = set(re.findall(r"([a-z]+) by \d", worse[1])) if worse else set()
        named_worse |= {better[1]} if better else set()
        assert marked == named_like == {*result.advice.equals} - {best}
        assert named_worse == {*scores} - {best} - marked
        assert ("marks methods that" in page) == bool(marked)
        assert ("whether another is better cannot be told" in text) <= bool(marked)
        assert ("with one run each" in text) == (seeds == 1)
        told[bool(marked)] += 1
    assert min(told.values()) > 0


def test_a_loss_that_is_lower_in_every_seed_is_better(tmp_path: Path) -> None:
    scores = {"lora": (0.70, 0.71, 0.72), "full": (0.50, 0.51, 0.52)}
    found = comparison_of(tmp_path, scores, write=write_language_model).advice
    assert found is not None
    assert found.equals == ("full",)
    assert "full reaches the best mean loss, 0.510: better than lora, the next, by 0.200" in found.text
    assert found.text.count("lora") == 1


def test_failed_runs_are_said(tmp_path: Path) -> None:
    scores = {"lora": (0.9, 0.9), "full": (0.9, 0.9), "bitfit": (0.9, 0.9)}
    failures = {"full-0": "not finite", "full-1": "not finite", "bitfit-1": "killed"}
    found = comparison_of(tmp_path, scores, failures=failures).advice
    assert found is not None
    assert found.caveats == (
        "Not judged, since no run of it finished with a score: full.",
        "Judged by fewer runs, since some failed: bitfit.",
    )
