import re

import pytest

from inlay.data.small_splits import small_splits
from inlay.stats import paired_interval, wilson_interval
from inlay.tasks.causal import Causal
from inlay.tasks.confusion import gain_interval, naive_of
from inlay.tasks.gain import tiles, verdict
from inlay.tasks.naive import NaiveBaseline
from inlay.tasks.page import Judged

from ..report.fake_runs import summary
from .test_confusion import predictions


def judged(base: float, tuned: float, rows: int = 100, most: float | None = 0.13, test=None, status="finished"):
    """Judge a run on ten labels, of which "status" has the share `most`; None: its summary is an old one."""
    scores = {"base": {"accuracy": base}, "tuned": {"accuracy": tuned}, "test": test}
    found = summary(status=status, metrics={"split": "valid", "rows": rows} | scores)
    if most is not None:
        known = {"name": "the most frequent label", "answer": "status", "valid": {"accuracy": most}, "test": None}
        finding = None if tuned > most else "accuracy is no better"
        found["baseline"] = known | {"beaten": tuned > most, "finding": finding, "advice": finding and "Try another."}
    return verdict(Judged.from_summary(found), [])


def test_a_gain_beyond_its_uncertainty_is_called_one():
    result = judged(0.1, 0.9)
    assert result.kind == "better"
    assert 'is 77.0 points above the most frequent label, "status" (13.0 %) on the 100 rows' in result.sentence
    assert "which exceeds its uncertainty" in result.sentence


def test_what_is_no_better_than_the_most_frequent_label_is_no_gain_though_it_is_far_above_a_random_head():
    result = judged(0.6, 0.87, most=0.87, rows=3000)
    assert result.kind == "unclear"
    assert 'No clear gain: accuracy is 0.0 points above the most frequent label, "status" (87.0 %)' in result.sentence
    assert result.notes[0] == "Accuracy is no better. Try another."


def test_a_gain_within_its_uncertainty_is_not_called_one():
    result = judged(0.3, 0.55, most=0.5)
    assert result.kind == "unclear"
    assert "No clear gain: accuracy is 5.0 points above" in result.sentence
    assert "(95 % interval −8.7 to +18.4)" in result.sentence


def test_the_most_frequent_label_is_enough_where_full_fine_tuning_has_changed_the_base():
    naive = NaiveBaseline(name="the most frequent label", answer="status", scores={"accuracy": 0.5})
    result = verdict(Judged(status="finished", tuned={"accuracy": 0.55}, rows=100, naive=naive), [])
    assert result.unclear == "no clear gain (95 % −8.7 to +18.4 points)"
    assert verdict(Judged(status="failed", naive=naive), []).kind == "unknown"


def test_a_base_that_labels_already_has_no_new_head():
    known = {"status": "finished", "base": {"accuracy": 0.1}, "tuned": {"accuracy": 0.9}, "rows": 100}
    for is_random in (True, False):
        result = verdict(Judged(**known, base_is_random=is_random), [])
        assert any("new classification head" in note for note in result.notes) == is_random


def test_what_the_new_head_alone_scores_is_told_beside_the_gain():
    """A gain of 68.6 points, of which the adapter's part was 11."""
    known = {"status": "finished", "base": {"accuracy": 0.1}, "tuned": {"accuracy": 0.9}, "rows": 100}
    told = "any gain is that of the head and the adapter together (with the head alone, fitted before the first step, "
    for start, kept in (({"accuracy": 0.829}, False), ({}, False), ({"accuracy": 0.9}, True)):
        notes = " ".join(verdict(Judged(**known, start=start, kept_start=kept), []).notes)
        assert (f"{told}accuracy was 82.9 %)" in notes) == (start == {"accuracy": 0.829})


def test_a_loss_beyond_its_uncertainty_is_called_one():
    result = judged(0.3, 0.5, most=0.9)
    assert result.kind == "worse"
    assert "Accuracy is 40.0 points below" in result.sentence


def test_a_base_that_is_better_than_the_most_frequent_label_is_the_baseline():
    result = judged(0.9, 0.5, most=0.5)
    assert result.kind == "worse"
    assert "40.0 points below the base model (90.0 %)" in result.sentence
    assert judged(0.1, 0.9, most=None).sentence.startswith("Accuracy is 80.0 points above the base model")


def test_a_random_head_that_is_a_little_better_by_chance_is_no_baseline():
    result = judged(0.529, 0.861, most=0.509, rows=872)
    assert '35.2 points above the most frequent label, "status" (50.9 %)' in result.sentence
    assert "its accuracy of 52.9 % is no baseline" in result.notes[0]


def test_a_random_head_is_said_to_be_no_baseline():
    assert "answers at random: its accuracy of 12.0 % is no baseline" in judged(0.12, 0.9).notes[0]


def test_a_gain_of_a_fitted_head_alone_is_said_to_be_that():
    found = summary(metrics={"split": "valid", "rows": 100, "base": {"accuracy": 0.1}, "tuned": {"accuracy": 0.9}})
    assert "any gain is that of the head and the adapter together" in verdict(Judged.from_summary(found), []).notes[0]
    note = verdict(Judged.from_summary(found | {"best_step": 0}), []).notes[0]
    assert "no step was better than the new head as it was fitted before the first" in note
    assert "together" not in note


def test_an_old_run_has_the_most_frequent_label_of_its_predictions():
    rows = predictions([("a", "a", "a", 0.9)] * 6 + [("b", "a", "a", 0.9)] * 3)
    naive = naive_of(rows)
    assert naive is not None
    assert (naive.answer, naive.scores) == ("a", {"accuracy": 6 / 9})
    assert naive_of([]) is None


def test_the_choice_of_the_checkpoint_and_the_test_figure_are_told():
    assert "no test split to check them on" in judged(0.1, 0.9).notes[1]
    with_test = judged(0.1, 0.9, test={"accuracy": 0.861}).notes[1]
    assert "chosen on the valid split" in with_test
    assert "on the test split, which no choice was made on, accuracy is 86.1 %" in with_test


def test_an_unfinished_run_with_scores_is_judged_as_unfinished():
    assert "The run is interrupted" in judged(0.1, 0.9, status="interrupted").notes[0]


@pytest.mark.parametrize(("status", "words"), [("failed", "The run failed"), ("interrupted", "was interrupted")])
def test_a_run_without_scores_is_not_judged(status, words):
    result = verdict(Judged.from_summary(summary(status=status, metrics=None)), [])
    assert (result.kind, result.notes) == ("unknown", [])
    assert words in result.sentence


def test_the_interval_uses_the_pairing_only_when_every_row_is_there():
    rows = predictions([("a", "a", "a", 0.9)] * 60 + [("a", "a", "b", 0.9)] * 10 + [("a", "b", "b", 0.9)] * 30)
    paired = gain_interval(0.6, 0.7, 100, rows)
    unpaired = gain_interval(0.6, 0.7, 100, rows[:-1])
    assert paired[0] > 0 > unpaired[0]
    assert gain_interval(1.0, 0.7, 100, rows, "a") == paired_interval(-30, 30, 100)  # every label is a
    assert gain_interval(0.0, 0.7, 100, rows, "b") == paired_interval(70, 70, 100)
    without_base = predictions([("a", "a", None, 0.9)] * 100)
    assert gain_interval(0.6, 0.7, 100, without_base) == unpaired


@pytest.mark.parametrize(
    ("base", "most", "name"), [(0.2, 0.3, "the most frequent label"), (0.9, 0.3, "the base model")]
)
def test_tile_verdict_and_note_tell_one_interval_that_stays_within_what_can_be(base, most, name):
    known = {"name": "the most frequent label", "answer": "a", "valid": {"accuracy": most}, "test": None}
    found = summary(metrics={"split": "valid", "rows": 16, "base": {"accuracy": base}, "tuned": {"accuracy": 1.0}})
    found["baseline"] = known | {"beaten": True, "finding": None, "advice": None}
    judged = Judged.from_summary(found)
    interval = re.search(r"95 % interval (.+?)\)", verdict(judged, []).sentence)
    assert interval is not None
    first = tiles(judged, ("accuracy",), [])[0]
    gain, sure = first.details
    assert gain == f"+{100 * (1 - (most if 'label' in name else base)):.1f} points over {name} (95 % {interval[1]})"
    assert first.before == ("30.0 %" if "label" in name else "90.0 %")
    assert sure == "95 % 80.6 to 100 % on 16 rows"
    assert wilson_interval(1, 16) == pytest.approx((0.806, 1), abs=5e-4)
    (note,) = [text for _, text in small_splits({"valid": {"a": 8, "b": 8}})]
    assert "one of 100 % 80.6 to 100 %" in note


@pytest.mark.parametrize(
    ("chrf", "exact", "told"),
    [
        (21.3, 0.0, "exact match 0 % beside 0 %, chrF 21.3 beside 25.0."),
        (21.3, 0.1, None),
        (25.4, 0.0, None),
        (25.0, 0.0, None),
    ],
)
def test_texts_that_no_score_puts_above_their_copied_prompts_are_told_beside_a_lower_loss(chrf, exact, told):
    scores = {"base": {"loss": 3.0, "perplexity": 20.1}, "test": None}
    scores["tuned"] = {"loss": 2.0, "perplexity": 7.4, "chrf": chrf, "exact_match": exact}
    found = summary(status="finished", metrics={"split": "valid", "rows": 100} | scores)
    copied = {"loss": 3.0, "chrf": 25.0, "exact_match": 0.0}
    found["baseline"] = {
        "name": "the base model",
        "answer": None,
        "valid": copied,
        "test": None,
        "beaten": True,
        "finding": None,
        "advice": None,
    }
    page = Causal.page(found, [])
    assert page.verdict.kind == "better"
    notes = [note for note in page.verdict.notes if "copied" in note]
    wanted = [] if told is None else [f"The texts are worse than their prompts, copied, would be: {told}"]
    assert notes == wanted


@pytest.mark.parametrize(("written", "told"), [(20, True), (100, False), (0, False)])
def test_scores_of_texts_say_of_how_many_rows_they_are(written, told):
    scores = {"loss": 2.0, "perplexity": 7.4, "bleu": 10.0}
    found = summary(
        status="finished", metrics={"split": "valid", "rows": 100, "base": scores, "tuned": scores, "test": None}
    )
    row = {"prompt": "a", "references": ["b"], "text": "b", "base_text": "c"}
    page = Causal.page(found, [row] * written)
    (bleu,) = (tile for tile in page.tiles if tile.name == "BLEU")
    assert ("of the first 20 rows" in bleu.details) == told
    assert any("for the first 20 rows alone" in note for note in page.verdict.notes) == told


@pytest.mark.parametrize(
    ("tuned", "gain", "kind", "told"),
    [
        (2.0, (0.9, 1.1), "better", "The loss fell from 3.000 to 2.000 nats per learned token"),
        (2.99, (-0.01, 0.03), "unclear", "No clear gain: the loss fell from 3.000 to 2.990 nats"),
        (3.01, (-0.03, 0.01), "unclear", "No clear gain: the loss rose from 3.000 to 3.010 nats"),
        (3.5, (-0.6, -0.4), "worse", "The loss rose from 3.000 to 3.500 nats"),
        (2.99, None, "better", "The loss fell from 3.000 to 2.990 nats"),
        (3.01, None, "worse", "The loss rose from 3.000 to 3.010 nats"),
    ],
)
def test_a_loss_is_judged_by_how_far_its_change_may_be_chance(tuned, gain, kind, told):
    scores = {"base": {"loss": 3.0, "perplexity": 20.1}, "tuned": {"loss": tuned, "perplexity": 7.4}, "test": None}
    scores["gain"] = gain and {"value": 3 - tuned, "low": gain[0], "high": gain[1]}
    page = Causal.page(summary(status="finished", metrics={"split": "valid", "rows": 100} | scores), [])
    assert page.verdict.kind == kind
    assert page.verdict.sentence.startswith(told)
    if gain == (0.9, 1.1):
        assert "split (95 % interval of the change −1.100 to −0.900): perplexity 20.1" in page.verdict.sentence
        assert "95 % of the change: −1.100 to −0.900" in page.tiles[0].details
