"""What the figures allow one to advise."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from inlay.lab.compare.advice import advise, compare
from inlay.stats import Shares, half_width
from inlay.training.score_parts import SCORE_PARTS, write_parts

from .fakes import comparison_of, table_of, write_language_model


def test_a_method_beyond_noise_is_called_worse_and_the_cheapest_of_the_equals_is_advised(tmp_path: Path) -> None:
    scores = {"lora": (0.970, 0.972, 0.968), "pfeiffer": (0.960, 0.966, 0.966), "bitfit": (0.90, 0.902, 0.898)}
    table = table_of(tmp_path, scores)
    found = advise(table)
    assert found is not None
    assert found.best == "lora"
    assert found.equals == ("lora", "pfeiffer")
    assert found.recommended == "pfeiffer"
    assert "Worse than lora by more than noise: bitfit by 7.0 points" in found.text
    assert "500 rows" in found.text
    lora, pfeiffer, _ = table.rows
    of_pfeiffer = compare(pfeiffer, lora, table)
    at_worst = f"{100 * (of_pfeiffer.below + of_pfeiffer.noise.size):.1f} points below the best"
    assert f"Advice: pfeiffer, which may be up to {at_worst}. How sure: fairly sure" in found.conclusion


def test_the_noise_of_rows_is_that_of_the_same_rows(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.95,), "full": (0.93,)}, rows=1000)
    lora, full = table.rows
    write_parts(lora.runs[0].folder, {"test": Shares(torch.arange(1000) < 950)})
    write_parts(full.runs[0].folder, {"test": Shares(torch.arange(1000) < 930)})  # right where lora is
    alike = compare(full, lora, table)
    assert alike.below == pytest.approx(0.02)
    assert alike.noise.size == pytest.approx(
        0.02 - 20 / 1002 + 1.959964 * ((22 / 1002 - (20 / 1002) ** 2) / 1002) ** 0.5
    )
    assert not alike.is_within
    write_parts(full.runs[0].folder, {"test": Shares(torch.arange(1000) >= 70)})  # wrong where lora is right
    assert compare(full, lora, table).is_within
    (full.runs[0].folder / SCORE_PARTS).unlink()
    assert not compare(full, lora, table).noise.is_known


def test_both_sources_of_noise_count(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.95, 0.99, 0.91), "full": (0.94, 0.90, 0.98)}, rows=1000)
    lora, full = table.rows
    noise = compare(full, lora, table).noise
    assert noise.of_seeds is not None
    assert noise.of_rows is not None
    assert noise.of_seeds == pytest.approx(half_width((0.95, 0.99, 0.91), (0.94, 0.90, 0.98), 0.95))
    assert noise.size == pytest.approx((noise.of_seeds**2 + noise.of_rows**2) ** 0.5)
    assert noise.is_mostly_of_seeds


def test_of_many_methods_each_is_held_to_more(tmp_path: Path) -> None:
    few = table_of(tmp_path / "few", {"lora": (0.95, 0.96, 0.95), "full": (0.94, 0.93, 0.94)})
    scores = {"lora": (0.95, 0.96, 0.95), "full": (0.94, 0.93, 0.94), "bitfit": (0.94, 0.93, 0.94)}
    many = table_of(tmp_path / "many", scores)
    one, other = (compare(table.rows[1], table.rows[0], table).noise for table in (few, many))
    assert other.of_seeds / one.of_seeds == pytest.approx(3.495406 / 2.776445, rel=1e-6)  # t with 4 degrees of freedom
    assert other.of_rows > one.of_rows


@pytest.mark.parametrize(("methods", "of_seeds"), [(2, 0.0), (5, 0.5)])
def test_no_winner_is_named_within_noise(methods: int, of_seeds: float, tmp_path: Path) -> None:
    """Of methods that are equally good hardly ever is one told from another: rows are of many difficulties, each method
    finds others difficult, and a seed may be lucky throughout."""
    noise, told, labels = np.random.default_rng(0), 0, ("lora", "full", "bitfit", "pfeiffer", "prefix")[:methods]
    for draw in range(60):
        difficulty_N = noise.normal(2.5, 3, 200)
        right = {}
        for label in labels:
            own_N = difficulty_N + noise.normal(0, 0.5, 200)
            right[label] = [own_N + noise.normal(0, of_seeds) + noise.logistic(0, 1, 200) > 0 for _ in range(3)]
        scores = {label: [float(right_N.mean()) for right_N in found] for label, found in right.items()}
        table = table_of(tmp_path / str(draw), scores, rows=200)
        for row in table.rows:
            for run in row.runs:
                write_parts(run.folder, {"test": Shares(torch.tensor(right[row.label][run.seed]))})
        found = advise(table)
        assert found is not None
        if len(found.equals) < methods:
            told += 1
        else:
            assert "cannot be told from it" in found.text
            assert "more than noise" not in found.text
    assert told <= 3  # one in twenty


def test_at_chance_nothing_is_advised(tmp_path: Path) -> None:
    """The most frequent label is 27.6 % of the rows."""
    found = advise(table_of(tmp_path / "none", {"lora": (0.276, 0.29, 0.28), "full": (0.24, 0.23, 0.276)}))
    assert found is not None
    assert found.recommended is None
    assert "None of them has learned the task" in found.text
    assert "27.6 %" in found.text
    assert "has the best mean" not in found.text
    one = advise(table_of(tmp_path / "one", {"lora": (0.276, 0.29, 0.28), "full": (0.34, 0.33, 0.35)}))
    assert one is not None
    assert one.recommended == "full"


def test_what_may_have_learned_nothing_is_not_advised_though_it_cannot_be_told_from_the_best(tmp_path: Path) -> None:
    scores = {"full": (0.36, 0.37, 0.36), "houlsby": (0.35, 0.36, 0.36), "bitfit": (0.32, 0.31, 0.33)}
    found = advise(table_of(tmp_path, scores, rows=193))
    assert found is not None
    assert found.equals == ("full", "houlsby", "bitfit")
    assert found.recommended != "bitfit"  # the cheapest of the three
    assert "may have learned nothing: bitfit (32.0 %)" in found.text
    assert "Of the rest, " in found.text


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
    assert found.recommended == "bitfit"


def test_one_seed_is_never_sure(tmp_path: Path) -> None:
    found = advise(table_of(tmp_path, {"lora": (0.97,), "full": (0.60,)}))
    assert found is not None
    assert found.sureness == "unsure"
    assert "--seeds 3" in found.conclusion
    assert found.equals == ("lora",)


def test_losses_of_one_seed_are_compared_on_their_rows(tmp_path: Path) -> None:
    found = comparison_of(tmp_path, {"lora": (0.7,), "full": (0.5,)}, write=write_language_model).advice
    assert found is not None
    assert found.best == "full"  # the lower loss
    assert found.equals == ("full",)
    assert "from the rows; that of seeds is not known" in found.text
    assert "How sure: unsure, since a method has one run only" in found.text


def test_where_no_noise_is_known_nothing_is_advised(tmp_path: Path) -> None:
    write = functools.partial(write_language_model, batches=0)
    found = comparison_of(tmp_path, {"lora": (0.7,), "full": (0.5,)}, write=write).advice
    assert found is not None
    assert found.best == "full"
    assert found.recommended is None
    assert "Advice: none" in found.conclusion


def test_a_loss_that_is_lower_in_every_seed_is_better(tmp_path: Path) -> None:
    scores = {"lora": (0.70, 0.71, 0.72), "full": (0.50, 0.51, 0.52)}
    found = comparison_of(tmp_path, scores, write=write_language_model).advice
    assert found is not None
    assert found.equals == ("full",)
    assert "full has the best mean loss, 0.510: better than lora, the next, by 0.200" in found.text
    assert found.text.count("lora") == 1


def test_failed_runs_are_said(tmp_path: Path) -> None:
    scores = {"lora": (0.9, 0.9), "full": (0.9, 0.9), "bitfit": (0.9, 0.9)}
    failures = {"full-0": "not finite", "full-1": "not finite", "bitfit-1": "killed"}
    found = comparison_of(tmp_path, scores, failures=failures).advice
    assert found is not None
    assert found.caveats == (
        "Not judged, since no run of it finished: full.",
        "Judged by fewer runs, since some failed: bitfit.",
    )
