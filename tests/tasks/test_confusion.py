import pytest

from inlay.tasks.confusion import (
    ConfusedPair,
    Confusion,
    LabelScores,
    Prediction,
    confused_pairs,
    confusion,
    paired_gain_interval,
    scores_by_label,
    worst_mistakes,
)

# label, predicted, base_predicted, probability of the predicted label
CASES = [
    ("a", "a", "a", 0.9),
    ("a", "a", "b", 0.8),
    ("a", "b", "a", 0.7),
    ("a", "c", "b", 0.95),
    ("b", "b", "a", 0.6),
    ("b", "a", "a", 0.55),
    ("c", "b", "a", 0.99),
]


def predictions(cases=CASES) -> list[Prediction]:
    return [
        Prediction(
            text=str(row),
            pair=None,
            label=label,
            predicted=predicted,
            probability=probability,
            label_probability=0.5,
            base_predicted=base,
        )
        for row, (label, predicted, base, probability) in enumerate(cases)
    ]


def test_a_row_of_the_confusion_matrix_is_a_true_label():
    expected = Confusion(labels=["a", "b", "c"], counts=[[2, 1, 1], [1, 1, 0], [0, 1, 0]], others=[0, 0, 0])
    assert confusion(["a", "b", "c"], predictions(), at_most=20) == expected


def test_only_the_most_confused_labels_are_kept_and_their_rows_still_add_up():
    # mistakes that involve a: 3, b: 3, c: 2, d: 0
    matrix = confusion(["d", "c", "b", "a"], predictions(), at_most=2)
    assert matrix == Confusion(labels=["b", "a"], counts=[[1, 1], [1, 2]], others=[0, 1])


def test_scores_by_label_are_those_computed_by_hand():
    a, b, c, d = scores_by_label(["a", "b", "c", "d"], predictions())
    assert a == LabelScores(label="a", support=4, precision=2 / 3, recall=2 / 4, f1=4 / 7, base_recall=2 / 4)
    assert b == LabelScores(label="b", support=2, precision=1 / 3, recall=1 / 2, f1=2 / 5, base_recall=0)
    assert c == LabelScores(label="c", support=1, precision=0, recall=0, f1=0, base_recall=0)
    assert d == LabelScores(label="d", support=0, precision=None, recall=None, f1=None, base_recall=None)


def test_base_recall_is_unknown_when_the_base_model_was_not_run():
    [a] = scores_by_label(["a"], predictions([("a", "a", None, 0.9)]))
    assert a.recall == 1
    assert a.base_recall is None


def test_confused_pairs_add_up_both_directions_the_more_frequent_one_first():
    cases = [("x", "y", None, 0.9)] + [("y", "x", None, 0.9)] * 2 + [("z", "x", None, 0.9)] + CASES
    assert confused_pairs(predictions(cases), at_most=3) == [
        ConfusedPair(first="y", second="x", first_as_second=2, second_as_first=1),
        ConfusedPair(first="a", second="b", first_as_second=1, second_as_first=1),
        ConfusedPair(first="a", second="c", first_as_second=1, second_as_first=0),
    ]


def test_the_worst_mistakes_are_the_most_confident_ones():
    assert [p.text for p in worst_mistakes(predictions(), at_most=3)] == ["6", "3", "2"]


def test_the_paired_interval_is_the_one_computed_by_hand():
    # 98 rows: 24 won, 9 lost, 65 the same, so (24+1)/100 and (9+1)/100
    cases = [("a", "a", "b", 0.9)] * 24 + [("a", "b", "a", 0.9)] * 9 + [("a", "a", "a", 0.9)] * 65
    half = 1.959964 * ((0.25 + 0.10 - 0.15**2) / 100) ** 0.5
    found = paired_gain_interval(predictions(cases), [base for _, _, base, _ in cases])
    assert found == pytest.approx((0.15 - half, 0.15 + half))
