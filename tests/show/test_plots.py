"""Axes, and what is drawn between them."""

import xml.etree.ElementTree as ET

import pytest

from inlay.show.plots import Chart, between, scale, steps
from inlay.show.units import BYTES, COUNT, PERCENT, SECONDS, Unit, number


def test_axes_are_marked_in_round_units() -> None:
    def marks(values: list[float], unit: Unit, log: bool = False) -> list[str]:
        return [text for _, text in scale(values, unit, log).ticks]

    assert marks([28_400, 22_700_000], COUNT, log=True) == ["100 k", "1 M", "10 M"]
    assert marks([683 << 20, 1200 << 20], BYTES) == ["0.8 GiB", "1.0 GiB", "1.2 GiB"]
    assert marks([60, 130], SECONDS) == ["1.0 min", "1.5 min", "2.0 min"]
    assert marks([0.85, 0.97], PERCENT) == ["85 %", "90 %", "95 %"]
    assert marks([0.5, 0.5], PERCENT) == ["46 %", "48 %", "50 %", "52 %", "54 %"]


def test_an_axis_of_shares_ends_at_one_hundred_per_cent() -> None:
    for values in ((1.0, 1.0), (0.2, 1.0), (0.97, 0.995)):
        found = scale(values, PERCENT)
        assert found.high <= 1.02
        assert found.ticks[-1][0] <= 1 + 1e-9


def test_steps_are_whole_however_few() -> None:
    for last in (1, 2, 7, 57, 12_345):
        values = [value for value, _ in steps(0, last).ticks]
        assert values == [round(value) for value in values]
        assert values[0] == 0
    assert [text for _, text in steps(3, 3).ticks] == ["2", "3"]


def test_an_axis_goes_from_its_start_to_its_end() -> None:
    for log in (False, True):
        found = scale([10.0, 1000.0], COUNT, log)
        assert found.share(found.low) == 0
        assert found.share(found.high) == pytest.approx(1)
    assert scale([10.0, 1000.0], COUNT, True).share(100.0) == pytest.approx(0.5)


def chart() -> Chart:
    return Chart(steps(0, 10), between(0, 1, number(1)), "step <&>", width=200, height=100)


def test_a_chart_is_xml_whose_points_lie_within_it() -> None:
    found = chart()
    found.band("train", [(0, 0.1, 0.3), (10, 0.5, 0.9)])
    found.line("train", [(0, 0.2), (10, 0.7)], key="a line")
    found.level("reference", 0.5, key="a level")
    found.mark("best", "diamond", found.place(5, 0.5), told="<b>&")
    root = ET.fromstring(found.svg())  # noqa: S314
    assert [key.text for key in found.keys] == ["a line", "a level"]
    assert [title.text for title in root.iter("title")] == ["<b>&"]
    line = next(path for path in root.iter("path") if path.get("class") == "line train")
    assert line.get("d") == "M{:.1f} {:.1f}L{:.1f} {:.1f}".format(*found.place(0, 0.2), *found.place(10, 0.7))
    for x, y in ((0, 0), (10, 1)):
        left, top = found.place(x, y)
        assert 0 <= left <= 200
        assert 0 <= top <= 100


def test_a_line_of_one_point_is_a_dot() -> None:
    found = chart()
    found.line("train", [(5, 0.5)])
    root = ET.fromstring(found.svg())  # noqa: S314
    assert [path.get("class") for path in root.iter("path") if path.get("class") != "grid"] == ["shape train"]


def test_names_lie_beside_their_points_and_not_on_each_other() -> None:
    found = chart()
    found.names(["one", "two"], [(100, 50), (102, 50)], [])
    first, second = (t for t in ET.fromstring(found.svg()).iter("text") if t.get("class") == "name")  # noqa: S314
    assert (first.get("x"), first.get("y")) != (second.get("x"), second.get("y"))
