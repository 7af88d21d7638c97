import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from inlay.data.classification import load_classification
from inlay.data.describe import Lengths
from inlay.data.generation import load_generation
from inlay.data.settings import DataSettings
from inlay.data.token_report import TokenReport, report_classification, report_generation

from .chat_tokenizers import CHATML, GEMMA, KINDS, byte_level
from .files import labelled, write_jsonl, write_text


def report(path: Path | str, tokenizer: Any, limit: int = 512, samples: int = 2) -> TokenReport:
    found = report_generation(tokenizer, load_generation(DataSettings(path=str(path))), limit, samples)
    json.dumps(asdict(found))
    return found


def numbers(path: Path, *counts: int) -> str:
    """A folder whose training rows have so many tokens in all, for a tokenizer that makes one of each letter x."""
    rows = [
        {"prompt": "?", "completion": "x" * (count - 3)} for count in counts
    ]  # ? and a line break before, </s> after
    write_jsonl(path / "train.jsonl", rows)
    write_jsonl(path / "valid.jsonl", rows[:1])
    return str(path)


def letters() -> Any:
    return byte_level(bos=False, texts=["no letter twice"])


def test_lengths_are_those_before_the_limit_and_what_becomes_of_longer_rows_is_counted(tmp_path):
    path = numbers(tmp_path, 5, 10, 20, 30, 40)
    write_text(
        tmp_path / "train.jsonl",
        (tmp_path / "train.jsonl").read_text() + json.dumps({"prompt": "x" * 25, "completion": "x"}),
    )
    found = report(path, letters(), limit=20).splits["train"]
    assert found.lengths == Lengths(min=5, median=20, p95=40, max=40)
    assert (found.rows, found.over_limit, found.cut, found.left_out) == (5, 2, 2, 1)
    assert (found.tokens, found.learned) == (5 + 10 + 20 + 20 + 20, 3 + 8 + 18 + 18 + 18)
    assert found.histogram == (
        (5, 6, 1),
        (7, 8, 0),
        (9, 10, 1),
        (11, 12, 0),
        (13, 14, 0),
        (15, 16, 0),
        (17, 18, 0),
        (19, 20, 1),
        (21, 40, 2),
    )


@pytest.mark.parametrize(
    ("counts", "limit", "bars"),
    [
        ([5, 5, 6], 512, ((5, 5, 2), (6, 6, 1))),
        (
            [500, 510, 512],
            512,
            ((499, 500, 1), (501, 502, 0), (503, 504, 0), (505, 506, 0), (507, 508, 0), (509, 510, 1), (511, 512, 1)),
        ),
        ([100, 200, 300], 50, ((51, 300, 3),)),
        (
            [5, 500],
            500,
            (
                (1, 64, 1),
                (65, 128, 0),
                (129, 192, 0),
                (193, 256, 0),
                (257, 320, 0),
                (321, 384, 0),
                (385, 448, 0),
                (449, 500, 1),
            ),
        ),
    ],
)
def test_the_bars_have_one_width_and_cover_every_row(tmp_path, counts, limit, bars):
    found = report(numbers(tmp_path, *counts), letters(), limit=limit).splits["train"].histogram
    assert found == bars


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_sample_make_up_its_text(tmp_path, kind):
    messages = [
        {"role": "user", "content": "Name  the\tcapital 🦊."},
        {"role": "assistant", "content": "Café\n\nParis"},
    ]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": messages}] * 3)
    write_jsonl(tmp_path / "valid.jsonl", [{"messages": messages}])
    tokenizer = KINDS[kind](CHATML)
    found = report(tmp_path, tokenizer)
    assert [sample.place for sample in found.samples] == ["train.jsonl:1", "train.jsonl:2"]
    tokens = found.samples[0].tokens
    assert "".join(token.text for token in tokens) == tokenizer.decode([token.id for token in tokens])
    assert "".join(token.text for token in tokens if token.learned) == "Café\n\nParis<|im_end|>"
    assert {token.text for token in tokens if token.special} - {"<unk>"} == {"<s>", "<|im_start|>", "<|im_end|>"}
    assert found.stop == ("<|im_end|>",)
    assert found.written == "by the model's chat template"


def test_how_rows_are_written_is_told(tmp_path):
    path = numbers(tmp_path, 5, 10)
    assert report(path, byte_level()).written.startswith("prompt, a line break")
    assert report(path, byte_level(CHATML)).written == "by the model's chat template"
    write_text(tmp_path / "a.txt", "word " * 1000)
    assert report(tmp_path / "a.txt", byte_level(CHATML)).written == "each text, and the end-of-sequence token"
    write_jsonl(tmp_path / "train.jsonl", [{"instruction": "a", "output": "b"}])
    write_jsonl(tmp_path / "valid.jsonl", [{"instruction": "a", "output": "b"}])
    assert report(tmp_path, byte_level()).written.startswith("a plain form, as the model has no chat template")


def test_a_long_text_is_several_rows_and_none_is_cut(tmp_path):
    write_text(tmp_path / "train.txt", "x" * 50)
    write_text(tmp_path / "valid.txt", "x" * 50)
    found = report(tmp_path, letters(), limit=20).splits["train"]
    assert found.lengths == Lengths(min=51, median=51, p95=51, max=51)
    assert (found.rows, found.over_limit, found.cut, found.left_out, found.learned) == (3, 1, 0, 0, 50)


def test_problems_of_all_splits_are_told_and_not_raised(tmp_path):
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    write_jsonl(tmp_path / "train.jsonl", [{"messages": messages[1:]}, {"messages": messages}])
    write_jsonl(tmp_path / "valid.jsonl", [{"messages": messages}])
    found = report(tmp_path, byte_level(GEMMA))
    assert [str(problem) for problem in found.problems] == [
        "train.jsonl:2: the chat template refuses the conversation: System role not supported; change the row, or the "
        "model's template (2 rows have this: train.jsonl:2 and valid.jsonl:1)"
    ]
    assert (found.splits["train"].rows, found.splits["valid"].rows) == (1, 0)
    assert found.splits["valid"].lengths is None


def test_lengths_for_classification_count_what_the_tokenizer_adds(tmp_path):
    rows = [row | {"text": "x" * (i + 1)} for i, row in enumerate(labelled(30))]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "valid.jsonl", rows[:2])
    data = load_classification(DataSettings(path=str(tmp_path)))
    tokenizer = byte_level(texts=["no letter twice"])
    found = report_classification(tokenizer, data, 20)
    assert found.splits["train"].lengths == Lengths(min=2, median=16, p95=30, max=31)
    assert (found.splits["train"].over_limit, found.splits["train"].cut) == (11, 11)
    assert found.splits["train"].learned == 0
    assert (found.samples, found.stop, found.written) == ((), (), "as the tokenizer writes a text")
    pairs = [{"text_a": "xx", "text_b": "xxx", "label": i % 2} for i in range(9)]
    write_jsonl(tmp_path / "train.jsonl", pairs)
    write_jsonl(tmp_path / "valid.jsonl", pairs)
    data = load_classification(DataSettings(path=str(tmp_path)))
    assert report_classification(byte_level(bos=False, texts=["x"]), data, 20).splits["train"].lengths == Lengths(
        min=5, median=5, p95=5, max=5
    )
