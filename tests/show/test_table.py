"""One table on a screen, in Markdown, as CSV and in a page."""

import csv
import io
import xml.etree.ElementTree as ET

import pytest

from inlay.show.page import label
from inlay.show.table import Column, Table
from inlay.show.units import percent_text

TABLE = Table(
    columns=(
        Column(name="method", html=label),
        Column(name="accuracy", text=percent_text, right=True),
        Column(name="steps", right=True),
    ),
    rows=[("lo_ra", 0.25, None), ("full", "failed: <b> | not\nfinite"), ("prefix", 1.0, 12)],
)


def test_a_screen_aligns_numbers_and_breaks_no_line_unless_it_must() -> None:
    assert (
        TABLE.screen().split("\n")
        == [
            "method            accuracy  steps",
            "lo_ra               25.0 %      –",
            "full    failed: <b> | not",
            "                    finite",
            "prefix             100 %     12",
        ]
        or TABLE.screen()
    )


def test_what_is_too_wide_gets_its_headings_broken_and_then_stands_in_parts() -> None:
    names = ("method", "trained parameters", "training time", "peak memory")
    rows = [("lora", "680 k", "1 min 18 s", "1.03 GiB"), ("full", "22.7 M", "2 min 14 s", "1.18 GiB")]
    table = Table(columns=[Column(name=name, right=i > 0) for i, name in enumerate(names)], rows=rows)
    assert table.screen(80).split("\n")[0] == "method  trained parameters  training time  peak memory"
    assert table.screen(42).split("\n") == [
        "           trained    training      peak",
        "method  parameters        time    memory",
        "lora         680 k  1 min 18 s  1.03 GiB",
        "full        22.7 M  2 min 14 s  1.18 GiB",
    ]
    assert table.screen(32).split("\n") == [
        "           trained    training",
        "method  parameters        time",
        "lora         680 k  1 min 18 s",
        "full        22.7 M  2 min 14 s",
        "",
        "            peak",
        "method    memory",
        "lora    1.03 GiB",
        "full    1.18 GiB",
    ]


def test_markdown_has_as_many_cells_in_every_row() -> None:
    assert TABLE.markdown().split("\n") == [
        "| method | accuracy | steps |",
        "| --- | ---: | ---: |",
        "| lo_ra | 25.0 % | – |",
        "| full | failed: <b> \\| not finite |  |",
        "| prefix | 100 % | 12 |",
    ]


def test_csv_has_the_values_themselves() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["method", "accuracy", "steps"],
        ["lo_ra", "0.25", ""],
        ["full", "failed: <b> | not\nfinite"],
        ["prefix", "1.0", "12"],
    ]


def test_a_page_has_scopes_and_a_sentence_that_spans_the_rest() -> None:
    region = ET.fromstring(TABLE.html("costs", "What it cost"))  # noqa: S314
    assert (region.get("class"), region.get("aria-label")) == ("scroll", "What it cost")
    assert [th.get("scope") for th in region.iter("th")] == ["col"] * 3 + ["row"] * 3
    failed = next(row for row in region.iter("tr") if row.get("class") == "failed")
    assert [(cell.get("colspan"), "".join(cell.itertext())) for cell in failed] == [
        (None, "full"),
        ("2", "failed: <b> | not\nfinite"),
    ]
    assert "<bdi>lo_<wbr/>ra</bdi>" in TABLE.html()
    assert "25.0\u00a0%" in TABLE.html()


def test_a_stacked_table_says_what_each_cell_is() -> None:
    table = ET.fromstring(TABLE.html("samples", stacked=True))  # noqa: S314
    assert table.get("class") == "samples stacked"
    assert [td.get("data-name") for td in table.iter("td")][:3] == ["method", "accuracy", "steps"]
    assert {td.get("role") for td in table.iter("td")} == {"cell"}


@pytest.mark.parametrize("width", [20, 24, 40])
def test_a_narrow_screen_breaks_texts_and_loses_nothing(width: int) -> None:
    long = Table(columns=(Column(name="name"), Column(name="n", right=True)), rows=[("a text of many words", 123456)])
    lines = long.screen(width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(lines).split()).replace(" 123456", "").startswith("name n a text")
    assert "123456" in " ".join(lines)
