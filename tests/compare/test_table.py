"""Rows, means, deviations; and the scores of tasks learned one after another."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inlay.lab.compare.export import as_markdown
from inlay.lab.compare.pareto import front
from inlay.lab.compare.sequence import average_forgetting, backward_transfer
from inlay.lab.compare.table import Spread, spread_text
from inlay.lab.compare.tables import costs_table, runs_table
from inlay.show.units import bytes_text, percent_text, seconds_text

from .fakes import comparison_of, table_of


def test_a_row_has_mean_and_deviation_over_the_seeds(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"lora": (0.90, 0.92, 0.94), "full": (0.95, 0.95, 0.95)})
    lora, full = table.rows
    assert table.split == "test"
    assert table.evaluated == 500
    assert lora.spreads["accuracy"].mean == pytest.approx(0.92)
    assert lora.spreads["accuracy"].deviation == pytest.approx(0.02)
    assert full.spreads["trainable_parameters"].mean == 22_700_000
    assert [run.seed for run in lora.runs] == [0, 1, 2]


def test_a_spread_is_told_in_one_unit() -> None:
    assert spread_text(Spread(values=(0.90, 0.94)), percent_text) == "92.0 ± 2.8 %"
    assert spread_text(Spread(values=(0.9,)), percent_text) == "90.0 %"
    assert spread_text(Spread(values=(5.0, 5.0)), str) == "5.0"
    assert spread_text(Spread(values=(2**30, 3 * 2**30)), bytes_text) == "2.00 ± 1.41 GiB"
    assert spread_text(Spread(values=(90, 91)), seconds_text) == "1 min 30 s ± 707 ms"
    assert spread_text(None, str) == "–"


def test_a_failed_run_is_a_row_with_its_reason(tmp_path: Path) -> None:
    scores = {"lora": (0.9, 0.9), "full": (0.9, 0.9)}
    result = comparison_of(tmp_path, scores, failures={"full-0": "loss is | not\nfinite", "full-1": "killed"})
    lines = list(csv.DictReader(io.StringIO(runs_table(result.table).csv())))
    assert [(line["method"], line["seed"], line["status"]) for line in lines] == [
        ("lora", "0", "finished"),
        ("lora", "1", "finished"),
        ("full", "0", "failed"),
        ("full", "1", "failed"),
    ]
    assert lines[2]["reason"] == "loss is | not\nfinite"
    assert float(lines[0]["accuracy"]) == 0.9
    told = as_markdown(result)
    assert "| full | seed 0 failed: loss is \\| not finite |" in told
    assert result.failed == 2
    widths = {line.replace("\\|", "").count("|") for line in told.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1.0, 0.90), (2.0, 0.95), (3.0, 0.93), (4.0, 0.96), (1.0, 0.80), (2.0, 0.95)]
    assert front(points, (-1, 1)) == [0, 1, 5, 3]
    assert front(points, (1, 1)) == [3]


def test_the_oracle_of_forgetting() -> None:
    """The hand-worked example: a=[[.9,–],[.7,.8]]."""
    a = [[0.9], [0.7, 0.8]]
    assert backward_transfer(a) == pytest.approx(-0.2)
    assert average_forgetting(a) == pytest.approx(0.2)
    constant = [[0.9], [0.9, 0.8], [0.9, 0.8, 0.7]]
    assert backward_transfer(constant) == average_forgetting(constant) == 0


def test_forgetting_is_measured_from_the_best_that_a_task_was() -> None:
    a = [[0.6], [0.9, 0.8], [0.7, 0.8, 0.7]]  # the first task gains from the second and loses by the third
    assert backward_transfer(a) == pytest.approx(0.05)
    assert average_forgetting(a) == pytest.approx(0.1)
    assert average_forgetting(a) >= -backward_transfer(a)


def test_sequences_are_rows_by_method_and_way(tmp_path: Path) -> None:
    result = comparison_of(tmp_path, {"lora": (0.9, 0.92), "full": (0.95, 0.95)}, then=("data/sst2", "data/cr"))
    found = {(row.label, row.way): row for row in result.sequences}
    assert found.keys() == {("lora", "apart"), ("lora", "on and on"), ("full", "on and on")}
    assert found["lora", "apart"].matrix is not None
    assert [len(row) for row in found["lora", "apart"].matrix] == [1, 2, 3]
    assert found["full", "on and on"].forgetting is not None
    assert found["full", "on and on"].forgetting.mean > found["lora", "on and on"].forgetting.mean  # type: ignore[union-attr]


def test_the_time_predicted_is_that_of_the_steps_that_were_taken() -> None:
    found: dict[str, Any] = {"steps": 86, "train_seconds": 186.0, "peak_memory_bytes": 2**30}
    found["plan"] = {"seconds": 216.0, "memory_bytes": 2**30}
    found["planned_steps"] = 108
    early: Any = SimpleNamespace(label="lora", runs=[SimpleNamespace(summary=found)])
    shown = costs_table([early])
    assert shown.columns[1].name == "time of the steps taken, predicted"
    assert shown.rows[0][1:4] == ["2 min 52 s", "3 min 6 s", "+8 %"]
    early.runs[0].summary = found | {"steps": 108}
    assert costs_table([early]).columns[1].name == "time, predicted"
