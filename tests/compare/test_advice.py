"""What the figures allow one to advise."""

import random
from pathlib import Path

import pytest

from inlay.compare.advice import advise, compare, t_half_width

from .fakes import comparison_of, table_of, write_language_model


def test_the_half_width_is_students() -> None:
    assert t_half_width([0.01, 0.02, 0.03]) == pytest.approx(4.303 * 0.01 / 3**0.5, rel=1e-3)
    assert t_half_width([0.5]) is None
    many = [0.0, 1.0] * 25
    assert t_half_width(many) == pytest.approx(2.0096 * 0.50508 / 50**0.5, rel=1e-3)


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


def test_noise_is_the_larger_of_seeds_and_rows(tmp_path: Path) -> None:
    steady = table_of(tmp_path / "a", {"lora": (0.95, 0.95, 0.95), "full": (0.94, 0.94, 0.94)}, rows=100)
    lora, full = steady.rows
    by_rows = compare(full, lora, steady).noise
    assert by_rows.source == "rows"
    assert by_rows.size == pytest.approx(1.96 * ((96 / 102 * 6 / 102 + 95 / 102 * 7 / 102) / 100) ** 0.5, rel=1e-3)
    loose = table_of(tmp_path / "b", {"lora": (0.95, 0.99, 0.91), "full": (0.94, 0.90, 0.98)}, rows=10**6)
    lora, full = loose.rows
    by_seeds = compare(full, lora, loose).noise
    assert by_seeds.source == "seeds"
    assert by_seeds.size == pytest.approx(t_half_width([0.01, 0.09, -0.07]))


def test_no_winner_is_named_within_noise(tmp_path: Path) -> None:
    """Of methods that are equally good, whatever the draw, hardly ever is one told from another."""
    noise, told = random.Random(0), 0
    for draw in range(60):
        scores = {
            label: [sum(noise.random() < 0.9 for _ in range(200)) / 200 for _ in range(3)]
            for label in ("lora", "full", "bitfit")
        }
        table = table_of(tmp_path / str(draw), scores, rows=200)
        found = advise(table)
        assert found is not None
        if len(found.equals) < 3:
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


def test_one_seed_is_never_sure(tmp_path: Path) -> None:
    found = advise(table_of(tmp_path, {"lora": (0.97,), "full": (0.60,)}))
    assert found is not None
    assert found.sureness == "unsure"
    assert "--seeds 3" in found.conclusion
    assert found.equals == ("lora",)


def test_losses_of_one_seed_allow_no_advice(tmp_path: Path) -> None:
    found = comparison_of(tmp_path, {"lora": (0.7,), "full": (0.5,)}, write=write_language_model).advice
    assert found is not None
    assert found.best == "full"  # the lower loss
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
