"""inlay data DATA [MODEL], as text and as JSON."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from rich.console import Console

from inlay.cli import main
from inlay.cli.data_screen import show
from inlay.data.describe import describe
from inlay.data.generation import load_generation
from inlay.data.settings import DataSettings
from inlay.data.token_report import report_generation

from ..data.chat_tokenizers import CHATML, ENDLESS, GEMMA, byte_level
from ..tiny_models import write_rows

POSITIONS = 64


def save(template: str | None, folder: Path) -> str:
    """A model's folder without weights, which the verb does not need."""
    tokenizer = byte_level(template)
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS)
    config.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(CHATML, tmp_path_factory.mktemp("chatml"))


def talks(folder: Path, count: int = 12) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        asked = {"role": "user", "content": f"Name capital {i}."}
        rows.append({"messages": [asked, {"role": "assistant", "content": f"Paris {i}"}], "id": i})
    return rows


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = talks(tmp_path)
    rows[4]["messages"][1]["content"] = "Paris " * 30
    rows[5]["messages"][0]["content"] = "Name " * 60
    rows[6]["messages"].append({"role": "user", "content": "And?"})
    write_rows(tmp_path / "data" / "train.jsonl", rows)
    return str(write_rows(tmp_path / "data" / "valid.jsonl", talks(tmp_path)[:2]) and tmp_path / "data")


def shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["data", *arguments]) == 0
    return capsys.readouterr().out


def screen(path: str, width: int, template: str | None = CHATML, **terminal: Any) -> str:
    settings = DataSettings(path=path)
    report = describe(settings)
    tokens = report_generation(byte_level(template), load_generation(settings), POSITIONS, 3)
    out = io.StringIO()
    show(report, tokens, Console(file=out, width=width, highlight=False, **terminal))
    return out.getvalue()


def test_json_has_what_the_screen_has(data: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown([data, model, "--json", "--samples", "2"], capsys))
    assert (found["format"], found["ignored_columns"]) == ("messages", ["id"])
    assert (found["limit"], found["written"], found["stop"]) == (64, "by the model's chat template", ["<|im_end|>"])
    train = found["tokens"]["train"]
    assert (train["rows"], train["over_limit"], train["cut"], train["left_out"]) == (11, 1, 1, 1)
    assert found["splits"]["train"]["rows"] == 11  # one count, of the rows that are used
    assert train["max"] > 64
    assert sum(count for _, _, count in train["histogram"]) == 11
    first, second = found["samples"]
    assert (first["place"], second["place"]) == ("train.jsonl:1", "train.jsonl:2")
    assert "".join(token["text"] for token in first["tokens"] if token["learned"]) == "Paris 0<|im_end|>"
    assert [problem["place"] for problem in found["problems"]] == [
        "train.jsonl:7",
        "valid.jsonl:1",
        "train.jsonl:5",
        "train.jsonl:6",
    ]


def test_without_a_model_there_are_no_tokens(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown([data, "--json"], capsys))["tokens"] is None
    text = shown([data], capsys)
    assert "messages = messages" in text
    assert "which tokens carry the loss" not in text


def test_a_limit_can_be_asked_for_within_what_the_model_takes(
    data: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(shown([data, model, "--max-length", "16", "--json"], capsys))
    assert found["limit"] == 16
    for arguments, message in (
        ([data, model, "--max-length", "65"], "max-length is 65; the model has room for 64 tokens of text"),
        ([data, model, "--max-length", "4"], "max_length is 4; it must be at least 8"),
        ([data, "--max-length", "16"], "max-length is 16, but there is no MODEL whose tokens it counts"),
        ([data, model, "--samples", "-1"], "samples is -1; it must be at least 0"),
    ):
        assert main(["data", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("template", [ENDLESS, GEMMA])
def test_what_the_template_cannot_write_is_shown_with_its_line_and_fails(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = talks(tmp_path)
    rows[2]["messages"].insert(0, {"role": "system", "content": "Be kind."})
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["data", path, save(template, tmp_path / "model")]) == 2
    lines = capsys.readouterr().out.splitlines()
    message = "ends an assistant's turn with" if template == ENDLESS else "System role not supported"
    assert any(re.match(r"error: rows.jsonl:\d+: the chat template .*" + message, line) for line in lines)
    assert main(["data", path, save(template, tmp_path / "model"), "--json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["problems"][0]["message"]


def test_errors_of_the_data_are_shown_before_a_model_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*talks(tmp_path), {"messages": [{"role": "system", "content": "Be kind."}]}]
    assert main(["data", write_rows(tmp_path / "rows.jsonl", rows), "./no-model"]) == 2
    captured = capsys.readouterr()
    assert "error: rows.jsonl:13: messages has no assistant turn, only system" in captured.out
    assert captured.err == ""


def test_without_rows_there_is_no_table_of_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n", encoding="utf-8")
    assert main(["data", str(path)]) == 2
    assert "split" not in capsys.readouterr().out


def test_every_format_is_shown_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    rows: dict[str, dict[str, Any]] = {
        "messages": talks(tmp_path)[0],
        "conversations": {"conversations": turns},
        "prompt-completion": {"prompt": "a", "completion": "b"},
        "instruction": {"instruction": "a", "output": "b"},
        "text": {"text": "a"},
    }
    for format, row in rows.items():
        write_rows(tmp_path / "d" / "train.jsonl", [row])
        write_rows(tmp_path / "d" / "valid.jsonl", [row])
        assert shown([str(tmp_path / "d")], capsys).startswith(f"{tmp_path / 'd'}: {format}\n")


def test_where_no_terminal_is_brackets_mark_what_is_learned(
    data: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown([data, model, "--samples", "1"], capsys)
    assert "\x1b" not in text
    assert "train.jsonl:1: " in text
    assert "⟦" in text
    (learned,) = re.findall("⟦([^⟧]*)⟧", text.partition("train.jsonl:1: ")[2])
    assert learned.replace("·", "") == "Paris 0<|im_end|>"
    assert "  over the limit in train: 1 lose their end\n  left out of train: 1 row (no room for the answer)\n" in text
    assert re.search(r"warning: train.jsonl:7: messages ends with a turn of user .* is left out\n", text)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("template", [CHATML, None])
def test_a_terminal_shows_the_mask_in_colour_within_its_width(data: str, width: int, template: str | None) -> None:
    text = screen(data, width, template, force_terminal=True, color_system="256")
    assert "⟦learned⟧" not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines()[1:])) <= width  # the first is the path, which is not broken
    coloured = "".join(re.findall(r"\x1b\[(?:1;)?30;48;5;\d+m([^\x1b]*)", text.partition("train.jsonl:1:")[2]))
    end = "<|im_end|>" if template else "</s>"
    assert re.search(r"\x1b\[1;30;48;5;221m" + re.escape(end), text)
    assert {"48;5;114m", "48;5;157m"} <= set(re.findall(r"48;5;\d+m", text))
    assert coloured.startswith(f"Paris 0{end}Paris 1{end}" if template else f" Paris 0{end} Paris 1{end}")


def test_a_terminal_without_colours_has_brackets_too(data: str) -> None:
    text = screen(data, 80, force_terminal=True, color_system="256", no_color=True)
    assert "⟦" in text
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[1:])) <= 80


def test_the_middle_of_a_long_answer_is_left_out_of_the_screen(tmp_path: Path) -> None:
    rows = talks(tmp_path)
    rows[0]["messages"][1]["content"] = "".join(f"{i} " for i in range(100))
    path = write_rows(tmp_path / "rows.jsonl", rows)
    settings = DataSettings(path=path)
    tokens = report_generation(byte_level(CHATML), load_generation(settings), 512, 1)
    out = io.StringIO()
    show(describe(settings), tokens, Console(file=out, width=80))
    (learned,) = re.findall("⟦(0[^⟧]*)⟧", out.getvalue())
    assert re.search(r" … \d+ tokens … ", learned)
    assert learned.endswith("<|im_end|>")
    assert len(learned) < 300


def test_classification_has_lengths_and_no_mask(
    reviews_folder: str, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(shown([reviews_folder, tiny_bert, "--json"], capsys))
    assert found["tokens"]["train"]["rows"] == 120
    assert len(found["samples"]) == 3
    assert not any(token["learned"] for sample in found["samples"] for token in sample["tokens"])
    text = shown([reviews_folder, tiny_bert], capsys)
    assert "over 64" in text
    assert "tokens in a row of train" in text
    assert "which tokens carry the loss" not in text
    assert "learned" not in text
