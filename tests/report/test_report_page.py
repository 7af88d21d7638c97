import re

import pytest

from inlay.report import write_report
from inlay.report.decisions import decisions
from inlay.report.tiles import spans, tiles
from inlay.tasks.page import Tile

from .fake_runs import learning, prediction, summary, tickets, write_run
from .reading import cells, headings, parsed, plots, section, table, words


def test_a_finished_run_has_every_part_in_its_order(pages):
    assert headings(pages["tickets"]) == [
        "Verdict",
        "Learning curves",
        "Confusion matrix",
        "Scores by label",
        "Mistakes",
        "Time, memory and speed",
        "Words on this page",
        "How to reproduce",
    ]
    drawn = ["Loss", "Evaluation accuracy", "Learning rate", "Gradient norm", "Tokens per second", "Memory"]
    assert list(plots(pages["tickets"])) == drawn
    text = words(parsed(pages["tickets"]))
    assert "builtin:minilm · builtin:tickets · lora" in text
    assert "inlay train builtin:minilm builtin:tickets --method lora --out runs/tickets-lora" in text
    assert "method: lora # asked learning_rate: 3.0e-4 # ten times full fine-tuning's; <1 B parameters" in text
    assert "seed 0 device cpu dtype bfloat16 inlay 0.1.0 torch 2.13.0 transformers 5.23.0 python 3.11.7" in text


def test_what_the_run_noted_stands_on_the_page_once(tmp_path):
    notes = ['the labels "Bug" and "bug" differ only in case', "skipped: a.csv: 2 of 907 rows are faulty <b>"]
    events = [{"event": "note", "text": text} for text in (*notes, notes[0])]  # a run that goes on says it again
    page = write_report(write_run(tmp_path, summary(), events)).read_text()
    assert [words(line) for line in section(page, "Notes").iter("li")] == notes


def test_the_tiles_tell_before_after_and_how_sure(tmp_path):
    found = summary()
    found["metrics"]["base"]["accuracy"], found["metrics"]["tuned"]["accuracy"] = 0.1, 0.8778
    root = parsed(write_report(write_run(tmp_path, found)).read_text())
    tiles = [words(div) for div in root.iter("div") if div.get("class") == "tile"]
    assert tiles == [
        "Accuracy 10.0 % → 87.8 % +77.8 points over the base model (95 % +70.1 to +83.2) 95 % 82.2 to 91.8 % on 180 "
        "rows",
        "Macro-F1 0.018 → 0.869 mean over the labels",
        "Loss 2.339 → 0.413 on the valid split",
        "Training time 1 min 23 s 1 min 42 s with loading and evaluation",
        "Peak memory 613 MiB on cpu, bfloat16",
        "Trained parameters 1.18 M 5.0 % of 23.9 M adapter file 4.52 MiB",
    ]


@pytest.mark.parametrize("count", range(4, 14))
def test_tiles_fill_their_rows_and_none_is_alone_in_one(count):
    in_row, rows = 0, [[]]
    for span in spans(count):
        if in_row == 12:
            rows.append([])
            in_row = 0
        rows[-1].append(span)
        in_row += span
        assert in_row <= 12
    assert [sum(row) for row in rows] == [12] * len(rows)
    assert sum(map(len, rows)) == count
    assert all(2 <= len(row) <= 4 for row in rows)


def test_an_odd_number_of_tiles_is_made_even(tmp_path):
    own = [Tile(name="Score", value="1", details=[])] * 4
    shown = tiles(summary(steps=86, planned_steps=108), own)
    assert len(set(spans(len(shown)))) == 1
    assert (shown[-1].name, shown[-1].value, shown[-1].details[0]) == ("Optimizer steps", "86", "of 108 planned")
    assert [tile.name for tile in tiles(summary(), own[:3])][-1] == "Trained parameters"


def test_the_tables_hold_the_figures_computed_by_hand(tmp_path):
    rows = [
        prediction("no", "no", base_predicted="no"),
        prediction("no", "no", base_predicted="yes"),
        prediction("no", "yes", base_predicted="no", text="sure and wrong", probability=0.97, label_probability=0.031),
        prediction("yes", "no", base_predicted="no", text="unsure and wrong", probability=0.52),
        prediction("yes", "yes", base_predicted="no"),
        prediction("yes", "no", base_predicted="no", text="a pair", pair="and wrong", probability=0.61),
    ]
    found = summary(labels=["no", "yes"])
    found["metrics"]["base_is_random"] = False  # else its recall is chance, and left out
    page = write_report(write_run(tmp_path, found, predictions=rows)).read_text()
    matrix = table(section(page, "Confusion matrix"), "confusion")
    assert [row[1:] for row in matrix] == [["no", "yes"], ["2", "1"], ["2", "1"]]
    assert table(section(page, "Scores by label"), "scores")[1:] == [
        ["yes", "3", "0.50", "0.33", "0.40", "0.00"],
        ["no", "3", "0.50", "0.67", "0.57", "0.67"],
    ]
    assert table(section(page, "Mistakes"), "mistakes")[1:] == [
        ["sure and wrong", "no 3.1 %", "yes", "97.0 %"],
        ["a pairand wrong", "yes 10.0 %", "no", "61.0 %"],
        ["unsure and wrong", "yes 10.0 %", "no", "52.0 %"],
    ]
    assert table(section(page, "Mistakes"), "pairs")[1:] == [["yes", "no", "2", "1", "3"]]


def test_plan_stands_beside_actual_with_the_difference(pages):
    assert table(section(pages["tickets"], "Time, memory and speed"), "costs") == [
        ["", "planned", "actual", "difference"],
        ["Training time", "1 min 31 s", "1 min 23 s", "−9 %"],
        ["Peak memory", "583 MiB", "613 MiB", "+5 %"],
        ["Optimizer steps", "150", "150", "none"],
        ["Whole run", "–", "1 min 42 s", "–"],
        ["Tokens per second", "–", "2,144", "–"],
    ]
    assert "peak, 613 MiB planned peak, 583 MiB" in words(plots(pages["tickets"])["Memory"])
    assert "planned" not in words(plots(pages["two_labels"])["Memory"])


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_the_time_of_a_run_that_took_fewer_steps_is_compared_with_what_was_planned_for_these(tmp_path, status):
    told = {"memory_bytes": None, "seconds": 216.0}
    found = summary(status=status, steps=86, train_seconds=186.0, plan=told, planned_steps=108)
    costs = table(
        section(write_report(write_run(tmp_path / "new", found)).read_text(), "Time, memory and speed"), "costs"
    )
    assert costs[1] == ["Training time, 86 of 108 planned steps", "2 min 52 s", "3 min 6 s", "+8 %"]
    assert costs[3] == ["Optimizer steps", "108", "86", "−22"]
    events = [{"event": "step", "step": 86, "steps": 108, "epoch": 2.0, "loss": 1.0}]
    old = write_report(
        write_run(tmp_path / "old", {k: v for k, v in found.items() if k != "planned_steps"}, events)
    ).read_text()
    assert table(section(old, "Time, memory and speed"), "costs") == costs


def test_the_page_says_when_the_peak_was_reached(tmp_path):
    raised = [{"stage": "load", "step": 0, "bytes": 1 << 30}, {"stage": "trial", "step": 0, "bytes": 3 << 30}]
    plan = {"memory_bytes": 4 << 30, "seconds": 91.0}
    found = summary(peak_memory_bytes=3 << 30, raised_peak=raised, plan=plan, planned_steps=150, longest_row=512)
    shown = words(section(write_report(write_run(tmp_path / "a", found)).read_text(), "Time, memory and speed"))
    assert (
        "The peak of 3.00 GiB was reached before the first step, in the trial of the largest batch; the largest "
        "batch is padded to its longest row of 512 tokens. The plot shows what is taken after each step." in shown
    )
    other = found | {"peak_memory_bytes": 4 << 30}  # of another process, or before an interruption
    shown = words(section(write_report(write_run(tmp_path / "b", other)).read_text(), "Time, memory and speed"))
    assert "was reached" not in shown


def test_the_matrix_of_many_labels_shows_the_most_confused_ones_and_says_so(pages):
    part = section(pages["many_labels"], "Confusion matrix")
    header, *rows = table(part, "confusion")
    assert len(rows) == 20
    assert header[-1] == "other labels"
    assert all(sum(map(int, row[1:])) == 10 for row in rows)  # each label has ten rows
    assert "the 20 of 77 labels with the most mistakes" in words(part)
    assert "The other 57 labels" in words(section(pages["many_labels"], "Scores by label"))


def test_the_colour_of_a_cell_is_its_share_of_the_row(tmp_path):
    rows = [prediction("a", "a")] * 8 + [prediction("a", "b")] * 2 + [prediction("b", "b")]
    page = write_report(write_run(tmp_path, summary(labels=["a", "b"]), predictions=rows)).read_text()
    cells = [
        (td.text, td.get("class"), td.get("style")) for td in section(page, "Confusion matrix").iter("td") if td.text
    ]
    assert cells[1:] == [
        ("8", "right strong", "--heat: 0.82"),
        ("2", "wrong", "--heat: 0.26"),
        ("0", None, None),
        ("1", "right strong", "--heat: 1.00"),
    ]


def test_a_long_label_may_break_after_its_underscores_and_reads_the_same(pages):
    assert "exchange_<wbr/>rate_<wbr/>for_<wbr/>cash_<wbr/>withdrawal" in pages["many_labels"]
    assert "exchange_rate_for_cash_withdrawal_1" in words(section(pages["many_labels"], "Scores by label")).replace(
        "_ ", "_"
    )


def test_a_failed_run_tells_why_and_shows_what_there_is(pages):
    page = pages["failed"]
    text = words(parsed(page))
    assert headings(page)[:2] == ["The run failed", "Verdict"]
    assert "loss is not finite at step 37 (rows 412, 988)" in text
    assert "there is nothing to judge" in text
    assert "Training loss was not finite at 1 of the steps logged, first at step 37" in text
    assert "1 line of metrics.jsonl could not be read and is left out" in text
    assert "The run wrote no predictions" in text
    assert {"Loss", "Learning rate"} <= set(plots(page))
    assert "Evaluation accuracy" not in plots(page)


def test_a_run_that_failed_at_once_has_a_page(pages):
    text = words(parsed(pages["failed_at_once"]))
    assert "No reason was recorded." in text
    assert "The run stopped before its first step was logged." in text
    assert "Accuracy – Macro-F1" in text


def test_an_interrupted_run_says_how_to_go_on(pages):
    text = words(section(pages["interrupted"], "The run was interrupted"))
    assert "stopped after step 80; go on with: inlay resume runs/tickets-lora" in text


def test_the_best_step_is_marked(pages):
    for title in "Loss", "Evaluation accuracy":
        assert "best, step 144" in words(plots(pages["tickets"])[title])
        kinds = [path.get("class") for path in plots(pages["tickets"])[title].iter("path")]
        assert kinds.count("line best") == 2  # in the plot and its legend
        assert kinds.count("shape best") == 2


def test_what_the_method_decided_is_a_table_of_blocks_and_layers(tmp_path):
    ranks = {f"bert.layer.{i}.{name}": 3 * i + j for i in range(2) for j, name in enumerate(("att.query", "ffn"))}
    run = write_run(tmp_path / "run", summary(decided={"ranks": ranks | {"bert.pooler": 7}}))
    page = write_report(run).read_text()
    part = section(page, "What the method decided")
    assert table(part, "confusion") == [
        ["block ↓ layer →", "att.query", "ffn", "bert.pooler"],
        ["0", "0", "1", ""],
        ["1", "3", "4", ""],
        ["outside", "", "", "7"],
    ]
    assert "The ranks of 5 layers, 15 in all" in words(part)
    heats = [float(re.search("--heat: ([0-9.]+)", c.get("style"))[1]) for c in part.iter("td") if c.get("style")]
    assert heats == pytest.approx([0.08 + 0.92 * n / 4 for n in (1, 3, 4, 4)], abs=0.01)


def test_nothing_is_said_of_decisions_where_there_are_none(pages):
    assert not any("What the method decided" in page for page in pages.values())


def test_blocks_are_numbered_alone_where_they_are_of_one_stack():
    (found,) = decisions({"ranks": {"h.10.a": 1, "h.9.a": 2}})
    assert (found.map.rows, found.map.columns) == (["10", "9"], ["a"])
    assert [[cell.text for cell in row] for row in found.map.cells] == [["1"], ["2"]]
    (several,) = decisions({"ranks": {"encoder.0.a": 1, "decoder.0.a": 2}})
    assert several.map.rows == ["encoder.0", "decoder.0"]


def test_a_language_models_texts_stand_side_by_side(tmp_path):
    scores = {"loss": 1.5, "perplexity": 4.48, "bleu": 31.4}
    metrics = {"split": "valid", "rows": 9, "base": scores | {"loss": 3.0}, "tuned": scores, "test": None}
    rows = [{"prompt": f"p{i}", "references": ["w", "v"], "text": "t", "base_text": ""} for i in range(9)]
    rows[0] |= {"text": "<b>&", "references": [], "base_text": None}
    run = write_run(tmp_path / "run", summary(task="causal", labels=[], metrics=metrics), predictions=rows)
    page = write_report(run).read_text()
    part = section(page, "Samples")
    shown = table(part, "samples")
    assert shown[:3] == [
        ["prompt", "expected", "base", "tuned"],
        ["p0", "–", "–", "<b>&"],
        ["p1", "w", "(nothing)", "t"],
    ]
    assert len(shown) == 9
    assert "1 more" in words(part)
    assert "The loss fell from 3.000 to 1.500 nats per learned token" in words(section(page, "Verdict"))
    assert not {"Confusion matrix", "Scores by label", "Predictions"} & set(headings(page))


def test_the_memory_stands_part_by_part_beside_what_was_planned(tmp_path):
    told = {"weights": 50 << 20, "adapter": 3 << 20, "gradients": 0, "optimizer": 6 << 20, "activations": 400 << 20}
    told |= {"loss": 4, "inputs": 1 << 20, "temporaries": 20 << 20}
    taken = told | {"activations": 420 << 20}
    plan = {"memory_bytes": 600 << 20, "seconds": 91.0, "tensors": told}
    found = summary(plan=plan, tensors=taken, peak_memory_bytes=630 << 20)
    page = write_report(write_run(tmp_path / "cpu", found, learning(150, 10))).read_text()
    *_, parts = (cells(each) for each in section(page, "Time, memory and speed").iter("table"))
    assert parts == [
        ["", "planned", "actual", "difference"],
        ["frozen weights", "50.0 MiB", "50.0 MiB", "none"],
        ["adapter", "3.00 MiB", "3.00 MiB", "none"],
        ["optimizer", "6.00 MiB", "6.00 MiB", "none"],
        ["activations", "401 MiB", "421 MiB", "+5.0 %"],
        ["temporaries", "20.0 MiB", "20.0 MiB", "none"],
        ["all tensors", "480 MiB", "500 MiB", "+4.2 %"],
        ["the process", "600 MiB", "630 MiB", "+5.0 %"],
    ]
    device = {"allocated_bytes": 610 << 20, "reserved_bytes": 700 << 20, "beside_bytes": None}
    found = summary(plan=plan | {"tensors": None}, tensors=taken, device_memory=device)
    page = write_report(write_run(tmp_path / "cuda", found, learning(150, 10))).read_text()
    shown = words(section(page, "Time, memory and speed"))
    assert "all tensors – 500 MiB – in use by tensors 600 MiB 610 MiB +1.7 %" in shown
    assert "held by PyTorch – 700 MiB – beside it – – –" in shown
    assert "Memory, part by part" not in words(
        section(write_report(tickets(tmp_path / "old")).read_text(), "Time, memory and speed")
    )
