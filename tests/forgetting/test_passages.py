"""What general text comes with Inlay, and how a user's is read."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from inlay.errors import DataError
from inlay.forgetting.passages import GeneralText, general_text

from ..tiny_models import write_rows

SENTENCES = [f"This is passage number {i}, which says little but has words enough." for i in range(90)]


def read(path: Path) -> GeneralText:
    return general_text(str(path), max_length=512)


def texts(text: GeneralText) -> tuple[set[str], set[str]]:
    return {p.text for p in text.measured}, {p.text for p in text.kept}


def test_the_passages_that_come_with_inlay_are_many_short_different_and_of_many_kinds() -> None:
    text = general_text(None, max_length=512)
    everything = [*text.measured, *text.kept]
    assert len(text.measured) == 168
    assert len({p.text for p in everything}) == len(everything) == 240
    assert set(Counter(p.domain for p in text.measured).values()) == {14}
    assert set(Counter(p.domain for p in everything).values()) == {20}
    assert all(40 <= len(p.text.split()) <= 90 for p in everything)
    assert all(p.text == " ".join(p.text.split()) and p.text.isprintable() for p in everything)
    starts = Counter(" ".join(p.text.split()[:4]) for p in everything)
    assert max(starts.values()) <= 3  # no template with other words in it


def test_any_start_of_the_passages_has_every_kind() -> None:
    measured = general_text(None, max_length=512).measured
    for count in (12, 24, 36):
        assert set(Counter(p.domain for p in measured[:count]).values()) == {count // 12}


def test_a_passage_keeps_its_part_whatever_the_order_and_the_other_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": s} for s in SENTENCES])
    shuffled = random.Random(0).sample(SENTENCES, 60)
    write_rows(tmp_path / "b.jsonl", [{"text": s.upper()} for s in shuffled])
    measured, kept = texts(read(tmp_path / "a.jsonl"))
    fewer, fewer_kept = texts(read(tmp_path / "b.jsonl"))
    assert measured | kept == set(SENTENCES)
    assert 15 <= len(kept) <= 45
    assert {s.upper() for s in measured} >= fewer
    assert {s.upper() for s in kept} >= fewer_kept
    assert fewer | fewer_kept == {s.upper() for s in shuffled}
    write_rows(tmp_path / "c.jsonl", [{"text": s} for s in reversed(SENTENCES)])
    assert read(tmp_path / "c.jsonl").measured == read(tmp_path / "a.jsonl").measured


def test_formats_with_a_column_and_plain_paragraphs_give_the_same(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": s, "domain": "number"} for s in SENTENCES])
    (tmp_path / "a.json").write_text(json.dumps([{"text": s} for s in SENTENCES]))
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"{s}"\n' for s in SENTENCES))
    (tmp_path / "a.txt").write_text("\n\nA title\n\n" + "\r\n \r\n".join(SENTENCES) + "\n\n")
    found = [read(tmp_path / name) for name in ("a.jsonl", "a.json", "a.csv", "a.txt")]
    assert all(texts(text) == texts(found[0]) for text in found)
    assert {p.domain for p in found[0].measured} == {"number"}
    assert {p.domain for p in found[1].measured} == {None}
    assert "1 texts of fewer than 8 words" in found[3].notes[0]


def test_a_paragraph_may_have_several_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(s.replace(", ", ",\n") for s in SENTENCES))
    assert all(",\n" in p.text for p in read(tmp_path / "a.txt").measured)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    rows = [{"text": s, "source": "x"} for s in [*SENTENCES, SENTENCES[3], SENTENCES[4].upper(), "too short"]]
    text = read(Path(write_rows(tmp_path / "a.jsonl", rows)))
    assert [note.partition(": ")[2] for note in text.notes] == [
        "1 texts of fewer than 8 words are no passages and are left out",
        "2 passages are there already and count once",
        "ignored columns: source",
    ]
    write_rows(tmp_path / "many.jsonl", [{"text": f"{s} {i}"} for i in range(4) for s in SENTENCES])
    many = read(tmp_path / "many.jsonl")
    assert len(many.measured) == 168
    assert "measured on 168 of the passages" in many.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', 'a.jsonl:2: no column "text"'),
        ("a.jsonl", '{"text": "a"}\n\n{"text" "b"}\n', "a.jsonl:3: the row is not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": " "}\n', "a.jsonl:2: text is empty"),
        ("a.csv", 'text\n"a"\nb,c\n', "a.csv:3: the row has 2 fields"),
        ("a.jsonl", '{"text": 7}\n', "a.jsonl:1: text is 7, not a text"),
        ("a.txt", "\n\n".join(SENTENCES[:20]), "20 different passages of 8 words or more are too few"),
        ("a.txt", "", "0 different passages"),
        ("a.pdf", "x", "not a kind of file that can be read; known: .jsonl"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as refused:
        read(tmp_path / name)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "general.txt").write_text("x")
    with pytest.raises(DataError, match=r"no such file; did you mean .*general\.txt"):
        read(tmp_path / "genral.txt")
