"""What a comparison has to say of runs whose figures are not what they look like."""

from pathlib import Path

from inlay.api.comparison import Comparison
from inlay.lab.compare.advice import advise

from .fakes import comparison_of, table_of

TWO_SEEDS = {"lora": (0.92, 0.91), "bitfit": (0.90, 0.89)}


def test_a_score_of_the_new_head_alone_is_called_that(tmp_path: Path) -> None:
    table = table_of(tmp_path, TWO_SEEDS)
    row = next(row for row in table.finished if row.label == "lora")
    assert (found := advise(table)) is not None
    assert "kept its start" not in found.text
    row.runs[1].summary["best_step"] = 0
    assert (found := advise(table)) is not None
    assert (
        "lora kept its start in 1 of 2 runs, as no step was better on valid: 91.0 % (seed 1) is the score of the new "
        "head alone, and the adapter has learned nothing there."
    ) in found.caveats
    row.runs[0].summary["best_step"] = 0
    assert (found := advise(table)) is not None
    assert ": 92.0 % (seed 0) and 91.0 % (seed 1) are the scores of the new head alone" in found.text


def test_one_run_alone_is_not_counted(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.92,), "bitfit": (0.90,)})
    for row in table.finished:
        back = [{"step": 9, "to": 0, "share": 0.25, "why": "it rose"}]
        row.runs[0].summary.update(best_step=0, went_back=back)  # pyright: ignore[reportCallIssue]
    assert (found := advise(table)) is not None
    assert "lora kept its start, as no step was better on valid: 92.0 % (seed 0) is the score" in found.text
    assert "lora had to go back, as the training collapsed" in found.text


def test_a_notebook_marks_what_the_page_marks(tmp_path: Path) -> None:
    found = Comparison(comparison_of(tmp_path, {"lora": (0.92, 0.91), "full": (0.91, 0.91), "bitfit": (0.5, 0.51)}))
    legend = (
        "≈ marks methods that cannot be told from lora, the best by accuracy (test), at 95 % for all methods together."
    )
    for shown in (repr(found), found._repr_html_()):
        assert "full ≈" in shown
        assert "bitfit ≈" not in shown
        assert legend in shown
    assert [row[0] for row in found.table.rows] == ["lora", "full", "bitfit"]


def test_what_is_left_out_is_in_the_number_of_the_methods(tmp_path: Path) -> None:
    none = {f"{label}-{seed}": "killed" for label in ("bitfit", "full") for seed in (0, 1)}
    scores = dict.fromkeys(("lora", "bitfit", "full"), (0.9, 0.91))
    assert (found := comparison_of(tmp_path, scores, failures=none).advice) is not None
    assert "Not judged, since no run of them finished with a score: bitfit and full." in found.caveats


def test_the_advised_method_is_not_named_without_its_collapse(tmp_path: Path) -> None:
    table = table_of(tmp_path, TWO_SEEDS)
    assert (found := advise(table)) is not None
    assert found.recommended is not None
    assert "Mind what is said" not in found.conclusion
    row = next(row for row in table.finished if row.label == found.recommended)
    for run in row.runs:
        run.summary["went_back"] = [{"step": 9, "to": 0, "share": 0.25, "why": "the loss rose"}]
    assert (found := advise(table)) is not None
    assert found.conclusion.endswith(f"Mind what is said of {found.recommended} below.")
    assert f"{found.recommended} had to go back in 2 of 2 runs" in found.text


def test_forgetting_that_seeds_or_passages_change_as_much_is_not_called_the_least(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.970, 0.972, 0.968), "pfeiffer": (0.960, 0.966, 0.966)})
    rows = [row for row in table.finished if "forgetting" in row.spreads]
    keeps = min(rows, key=lambda row: row.spreads["forgetting"].mean)
    assert (found := advise(table)) is not None
    assert f"Of these, {keeps.label} forgets the least general text" in found.text
    least = found.text.split("forgets the least general text")[1]
    assert "about as low" not in least
    for run in keeps.runs:
        assert (forgetting := run.summary["forgetting"]) is not None
        forgetting["interval"] = [0.0, 1.0]
    assert (found := advise(table)) is not None
    assert "(others are about as low)" in found.text.split("forgets the least general text")[1]
