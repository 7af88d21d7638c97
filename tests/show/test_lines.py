"""Lines that a terminal shows whole, and names that a heading has room for."""

import pytest

from inlay.show.lines import fitted
from inlay.show.page import short_path


def test_lines_break_between_words_and_paths_stay_whole() -> None:
    path = "/a/folder/with/a/name/that/is/longer/than/the/screen"
    text = f"report  {path} was written by the run\nand a second line"
    lines = fitted(text, 24, "  ").split("\n")
    assert path in [line.strip() for line in lines]
    assert all(len(line) <= 24 for line in lines if path not in line)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert fitted(text, None) == text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/srv/project/data/spam.csv", "data/spam.csv"),
        ("/data/spam.csv", "data/spam.csv"),
        ("/spam.csv", "spam.csv"),
        ("runs/first/data/spam.csv", "runs/first/data/spam.csv"),
        ("builtin:tickets", "builtin:tickets"),
        ("owner/name", "owner/name"),
    ],
)
def test_a_heading_has_the_end_of_a_long_path(name: str, short: str) -> None:
    assert short_path(name) == short


def test_a_number_stays_with_its_interval() -> None:
    assert fitted("an accuracy of 57.9 % ± 7.1 on valid", 24) == "an accuracy of\n57.9 % ± 7.1 on valid"
