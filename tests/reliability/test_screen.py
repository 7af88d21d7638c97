"""What reaches a terminal, recorded as bytes: no control but our own, whatever stands in rows, names and messages."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from inlay.cli import main
from inlay.cli import methods as methods_verb
from inlay.cli.demos import DEMOS
from inlay.cli.safe_console import console
from inlay.cli.screen import screens
from inlay.outside import printable, shown, shown_lines
from inlay.training import keeper as keeper_module
from inlay.training import run_output

from ..shapes import SHAPES
from ..tiny_models import WORDS, reviews, save_tiny_model, write_rows
from .hostile_text import EVIL, NAME, unsafe
from .terminal import Terminal, recorded, recorded_whole


@pytest.fixture(scope="module")
def evil_model(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return shutil.copytree(tiny_bert, str(tmp_path_factory.mktemp("models") / f"model{NAME}"))


@pytest.fixture(scope="module")
def evil_run(evil_file: str, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run's folder, and what the terminal was sent while it was made."""
    out = tmp_path_factory.mktemp("runs") / f"run{NAME}"
    code, sent = recorded(
        *("train", tiny_bert, evil_file, "--out", str(out), "--epochs", "1", "--no-forgetting", "--dtype", "float32")
    )
    assert code == 0, sent
    return str(out), sent


def test_train_sends_no_control_of_others(evil_run: tuple[str, str]) -> None:
    assert unsafe(evil_run[1]) == set()
    assert "\\x1b[2J\\x1b]0;evil\\x07" in evil_run[1]
    assert "[red]x[red][link=http:e]y[link]:bomb:" in evil_run[1]


def test_what_a_run_writes_can_be_read_and_shows_no_control(evil_run: tuple[str, str]) -> None:
    run = Path(evil_run[0])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b onload" not in page
    assert "&lt;b onload=x&gt;" in page
    assert not set("\x1b\x07\x9b\x7f\u202e\u2066") & set(page)
    assert unsafe((run / "log.txt").read_text(encoding="utf-8")) == set()
    assert NAME in yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["data"]["path"]
    assert f"good{EVIL}" in json.loads((run / "summary.json").read_text(encoding="utf-8"))["labels"]


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    "verb",
    [
        *("data", "data MODEL", "doctor", "doctor MODEL", "methods NAME"),
        *("eval", "predict", "predict FILE", "resume", "rank", "merge"),
    ],
)
def test_no_verb_sends_a_control_of_others(
    verb: str, json: tuple[str, ...], evil_file: str, evil_run: tuple[str, str], evil_model: str, tmp_path: Path
) -> None:
    run = evil_run[0]
    arguments, expected = {
        "data": (("data", evil_file), 0),
        "data MODEL": (("data", evil_file, evil_model), 0),
        "doctor": (("doctor",), 0),
        "doctor MODEL": (("doctor", evil_model), 0),
        "methods NAME": (("methods", "lora"), 0),
        "eval": (("eval", run, evil_file), 0),
        "predict": (("predict", run, f"a film {EVIL}"), 0),
        "predict FILE": (("predict", run, evil_file), 0),
        "resume": (("resume", run), 2),
        "rank": (("rank", run, "--no-curve", "--base", "never"), 0),
        "merge": (("merge", run, str(tmp_path / f"out{NAME}")), 0),
    }[verb]
    code, sent = recorded(*arguments, *json)
    assert (code, unsafe(sent)) == (expected, set()), sent


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_a_run_that_goes_on_sends_no_control_of_others(
    json: tuple[str, ...], evil_file: str, evil_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / f"run{NAME}")
    save = keeper_module.Keeper.between_steps

    def stop(keeper: keeper_module.Keeper) -> None:
        save(keeper)
        if keeper.training and keeper.training.progress.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_output, "write_report", lambda *_: None)  # which takes longer than the run
    asked = (evil_model, evil_file, "--out", run, "--epochs", "1", "--no-forgetting", "--dtype", "float32")
    with monkeypatch.context() as patched:
        patched.setattr(keeper_module.Keeper, "between_steps", stop)
        stopped = recorded("train", *asked, *json)
    gone_on = recorded("resume", run, *json)
    assert (stopped[0], gone_on[0]) == (130, 0)
    assert ("step 3/3" if not json else "\n{") in gone_on[1]
    assert unsafe(stopped[1] + gone_on[1]) == set()


@pytest.fixture(scope="module")
def evil_writer(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The run of a language model each of whose words has controls, and its rows."""
    folder = tmp_path_factory.mktemp("writer")
    model = folder / f"model{NAME}"
    save_tiny_model(SHAPES["llama"], model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {w + EVIL * (w in WORDS and w != "good"): i for w, i in vocabulary.items()}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    rows = [{"prompt": f"{w} good {EVIL}", "completion": f"good {EVIL}", f"x{EVIL}": EVIL} for w in WORDS]
    data = write_rows(folder / f"rows{NAME}.jsonl", rows)
    flags = ("--epochs", "1", "--no-forgetting", "--dtype", "float32", "--samples", "4")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_output, "write_report", lambda *_: None)
        code, sent = recorded("train", str(model), data, "--out", str(folder / f"run{NAME}"), *flags)
    assert (code, unsafe(sent)) == (0, set()), sent
    return str(folder / f"run{NAME}"), data


@pytest.mark.parametrize("verb", ["predict", "predict --json", "predict FILE", "eval"])
def test_no_text_that_a_model_wrote_sends_a_control(verb: str, evil_writer: tuple[str, str]) -> None:
    run, data = evil_writer
    short, hot = ("--max-tokens", "8"), ("--temperature", "100")
    arguments = {
        "predict": ("predict", run, f"good {EVIL}", *short, *hot),
        "predict --json": ("predict", run, f"good {EVIL}", *short, *hot, "--json"),
        "predict FILE": ("predict", run, data, *short, *hot),
        "eval": ("eval", run, data),
    }[verb]
    code, sent = recorded(*arguments)
    assert (code, unsafe(sent)) == (0, set()), sent
    written = re.search(rf"({'|'.join(WORDS)})\\(x1b|u001b)\[2J", sent)
    assert written or verb == "eval", sent


@pytest.mark.slow
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_a_comparison_to_its_end_sends_no_control_of_others(
    json: tuple[str, ...], evil_file: str, evil_model: str, tmp_path: Path
) -> None:
    """Its runs are in processes of their own, which have the terminal too; one of them fails. Then once more, over what
    is there."""
    then = shutil.copyfile(evil_file, str(tmp_path / f"then{NAME}.jsonl"))
    methods = ("lora", "pattern:include=.*query.*|[red]x[/red]\u202e\u2066:bomb:x", "lora:alpha=1e30")
    flags = ("--epochs", "1", "--dtype", "float32", "--no-forgetting", "--out", str(tmp_path / f"out{NAME}"))
    for _ in range(2):
        code, sent = recorded_whole(
            "compare", evil_model, evil_file, "--methods", *methods, "--then", then, *flags, *json
        )
        assert (code, unsafe(sent)) == (0, set()), sent
        assert ('"state": "failed"' if json else "lora:alpha=1e30, seed 0 failed") in sent


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "generate"])
def test_a_demonstration_to_its_end_sends_no_control_of_others(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows and texts are our own, here a few of them; its folder, and what it is asked, are not."""
    model, data, *_ = DEMOS[task].run
    short = ("--data.train-rows", "32", "--data.eval-rows", "8", "--epochs", "1", "--no-forgetting")
    hostile = replace(DEMOS[task], run=(model, data, *short), inputs=(f"animal: fox {EVIL}",))
    monkeypatch.setitem(DEMOS, task, hostile)
    code, sent = recorded("demo", "--task", task, "--out", str(tmp_path / f"demo{NAME}"))
    assert (code, unsafe(sent)) == (0, set()), sent
    assert f"demo{shown(NAME)}" in sent
    assert "animal: fox \\x1b[2J" in sent  # what was asked, beside the answer


@pytest.mark.parametrize(
    "arguments",
    [
        (EVIL,),
        ("train", EVIL, "builtin:tickets"),
        ("train", "builtin:minilm", EVIL),
        ("train", "builtin:minilm", "builtin:tickets", "--out", f"a{EVIL}\udcff"),
        ("train", "builtin:minilm", "builtin:tickets", "--method", EVIL),
        ("train", "builtin:minilm", "builtin:tickets", "--seed", EVIL),
        ("train", "builtin:minilm", "builtin:tickets", EVIL),
        ("train", "--config", EVIL),
        ("compare", "builtin:minilm", "builtin:tickets", "--methods", EVIL, f"lora:{EVIL}=1"),
        ("methods", EVIL),
        ("doctor", EVIL),
        ("eval", EVIL),
        ("predict", EVIL, "--json"),
        ("rank", EVIL),
        ("merge", EVIL, EVIL),
        ("resume", EVIL),
        ("demo", "--task", EVIL),
        ("data", f"\udcff{EVIL}.jsonl"),
    ],
    ids=lambda arguments: arguments[0] if arguments[0] != EVIL else "verb",
)
def test_no_refusal_sends_a_control_of_others(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, sent = recorded(*arguments)
    assert (code, unsafe(sent)) == (2, set()), sent
    assert not list(tmp_path.iterdir())


def test_a_bug_sends_no_control_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> int:
        raise RuntimeError(EVIL)

    monkeypatch.setattr(methods_verb, "main", broken)
    code, sent = recorded("methods")
    assert (code, unsafe(sent)) == (1, set())
    assert "RuntimeError: \\x1b[2J" in sent


def test_help_keeps_its_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    with terminal.connected(), pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert b"\x1b[1m" in terminal.sent
    assert unsafe(terminal.sent.decode()) == set()


def test_a_console_takes_text_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    with screens():
        out = console()
        out.print(EVIL)
        out.print(Text(EVIL, style="red"))
        out.print(Segments([Segment("\x1b[2J")]))  # what no layout has looked at
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().replace("\n", "").count("[red]x[/red][link=http://e]y[/link]:bomb:") == 2


def test_a_table_has_room_for_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for the letters that are not."""
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    with screens():
        table = Table(box=None)
        table.add_row("\x1b\x1b\x1b\x1b", "end")
        console().print(table)
    assert "\\x1b\\x1b\\x1b\\x1b end" in " ".join(stream.getvalue().split())


def test_rich_is_used_through_the_safe_console_alone() -> None:
    import inlay.cli

    for path in Path(str(inlay.cli.__file__)).parent.glob("*.py"):
        source = path.read_text()
        assert path.name == "safe_console.py" or not re.search(r"\bConsole\(|\bProgress\(|rich\.print", source), path
        assert path.name == "screen.py" or "json.dumps" not in source, path


@pytest.mark.parametrize(
    ("text", "line", "lines"),
    [
        ("plain é 漢字 👍", "plain é 漢字 👍", "plain é 漢字 👍"),
        ("a\r\nb\tc\rd", "a\\r\\nb\\tc\\rd", "a\nb\tc\\rd"),
        ("\x1b[31m\x9b\x00\x7f", "\\x1b[31m\\x9b\\x00\\x7f", "\\x1b[31m\\x9b\\x00\\x7f"),
        ("a\u202eb\u200f\ufeff\U000e0041", "a\\u202eb\\u200f\\ufeff\\U000e0041", "a\\u202eb\\u200f\\ufeff\\U000e0041"),
        ("\udcff", "\\udcff", "\\udcff"),
    ],
)
def test_unsafe_letters_become_numbers(text: str, line: str, lines: str) -> None:
    assert (shown(text), shown_lines(text)) == (line, lines)


def test_a_page_has_nothing_that_turns_it_round() -> None:
    assert (
        printable("a\x00\x1b\x9b\udcff\u202e\u2066b é\u200f\u200d\n")
        == "a\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdb é\u200f\u200d\n"
    )


def test_why_a_run_failed_is_said_once_on_a_terminal_and_on_both_streams_elsewhere(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", reviews(60))
    command = ["train", tiny_bert, rows, "--memory", "1MB", "--no-forgetting", "--out"]
    code, sent = recorded(*command, str(tmp_path / "a"))
    assert code == 3
    assert sent.count("the run takes about") == 1
    assert "inlay: " not in sent
    capsys.readouterr()
    assert main([*command, str(tmp_path / "b")]) == 3
    said = capsys.readouterr()
    assert "failed  the run takes about" in said.out
    assert said.err.startswith("inlay: the run takes about")
