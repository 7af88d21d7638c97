import random
from collections import Counter

import pytest

from inlay.data.holdout import held_out


def texts(count: int) -> list[str]:
    return [f"text number {i}" for i in range(count)]


def held_texts(rows: list[tuple[str, int]], fraction: float = 0.05) -> set[str]:
    return {rows[i][0] for i in held_out([text for text, _ in rows], [label for _, label in rows], fraction)}


@pytest.mark.parametrize(
    ("rows", "fraction", "held"),
    [
        (8, 0.05, 2),
        (30, 0.05, 10),
        (48, 0.05, 16),
        (60, 0.05, 16),
        (400, 0.05, 20),
        (400, 0.25, 100),
        (12_000, 0.05, 500),
    ],
)
def test_the_share_is_kept_within_sixteen_and_five_hundred_and_a_third(rows, fraction, held):
    assert len(held_out(texts(rows), [i % 2 for i in range(rows)], fraction)) == held


def test_the_rows_depend_neither_on_their_order_nor_on_a_seed():
    rows = [(text, i % 3) for i, text in enumerate(texts(300))]
    first = held_texts(rows)
    for seed in range(3):
        random.seed(seed)
        shuffled = random.sample(rows, len(rows))
        assert held_texts(shuffled) == first


def test_the_rows_are_the_same_on_every_machine_and_in_every_release():
    rows = [(text, i % 2) for i, text in enumerate(texts(9))]
    assert held_texts(rows) == {"text number 0", "text number 4", "text number 7"}


def test_texts_that_are_the_same_but_for_case_and_space_and_unicode_form_stay_together():
    rows = [(text.format(i), 0) for i in range(60) for text in ("café {}", "Cafe\u0301  {}", "CAFÉ {} ", "café\n{}")]
    held = held_texts(rows, 0.3)
    assert Counter(text.split()[-1] for text in held) == dict.fromkeys({text.split()[-1] for text in held}, 4)
    assert len(held) == 72


def test_labels_are_held_out_in_proportion():
    labels = [0] * 600 + [1] * 300 + [2] * 100
    held = Counter(labels[i] for i in held_out(texts(1000), labels, 0.1))
    assert held == {0: 60, 1: 30, 2: 10}


@pytest.mark.parametrize("count", [8, 20, 50, 200])
def test_every_label_keeps_a_row_in_train(count):
    rng = random.Random(count)
    for _ in range(20):
        labels = [min(int(rng.expovariate(0.5)), 12) for _ in range(count)]
        names = [f"text {rng.randrange(count)}" for _ in range(count)]
        held = held_out(names, labels, 1 / 3)
        assert len(held) <= count // 3
        assert {labels[i] for i in range(count) if i not in held} == set(labels)
        assert not {names[i] for i in held} & {names[i] for i in range(count) if i not in held}


def test_nothing_is_held_out_where_all_rows_share_a_text():
    assert held_out(["same"] * 30, [0, 1] * 15, 0.05) == set()
