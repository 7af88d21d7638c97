"""What is to be copied from the docs can be: commands that a shell takes, verbs and flags that there are, Python."""

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from inlay.cli import VERBS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"inlay", "python", "pip", "git", "make", "cd", "uvicorn"}
LAUNCHERS = {"torchrun", "accelerate"}  # which start Inlay
SHELL = {"for", "do", "done", "then"}
MANY = {"--methods", "--then", "--ranks"}  # flags that take several values
PLACES = {"resume": 1, "demo": 0, "methods": 1, "doctor": 1}  # names that a verb takes without a flag, where not two


def blocks(page: Path, languages: str) -> Iterator[str]:
    pattern = rf"^( *)```(?:{languages})\n(.*?)^\1```"
    for found in re.finditer(pattern, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        yield textwrap.dedent(found[2])


def commands(page: Path) -> Iterator[list[str]]:
    """Yield each command's words, without comments and what a shell has around them."""
    for block in blocks(page, "bash|sh|shell|console"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line.partition(" #")[0]):
                words = shlex.split(part, comments=True)
                while words and words[0] in SHELL - {"for"}:
                    del words[0]
                if words and words[0] in LAUNCHERS:
                    words = words[words.index("inlay") :]
                if words and words[0] != "for":
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_commands(page: Path) -> None:
    for block in blocks(page, "bash|sh|shell|console"):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
    for words in commands(page):
        assert words[0] in PROGRAMS, words
        assert not re.search(r"[`…$]|\.\.\.", " ".join(words).replace("$method", "").replace("$seed", "")), words
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words
        if words[0] == "inlay":
            assert words[1] in VERBS, words
            assert not prose_in(words[1:]), words


def prose_in(words: list[str]) -> list[str]:
    """Return the words after a verb that are neither its names nor a flag's value."""
    verb, *rest = words
    found, left = [], PLACES.get(verb, 2)
    for word in rest:
        if word.startswith("--"):
            left = 99 if word in MANY else 1
        elif left:
            left -= 1
        else:
            found.append(word)
    return found


FLAGS = sorted({tuple(words[1:]) for page in PAGES for words in commands(page) if words[0] == "inlay"})


@pytest.mark.parametrize("words", FLAGS, ids=" ".join)
def test_flags_are_known(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give each command one flag more, which is unknown: nothing is done, and it is the only one to be refused."""
    if words[0] in ("demo", "methods", "doctor") and len(words) <= 2:
        return
    monkeypatch.syspath_prepend(ROOT / "examples")  # where the method of one's own is
    words = tuple(word.replace("$seed", "0").replace("$method", "lora") for word in words)
    assert main([*words, "--no-such-flag", "0"]) == 2
    said = capsys.readouterr().err
    assert "--no-such-flag" in said
    assert not [word for word in words if word.startswith("--") and f"unknown setting {word}" in said]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python(page: Path) -> None:
    for block in blocks(page, "python|py"):
        compile(block, str(page), "exec")


def test_prose_in_a_command_is_found() -> None:
    assert not prose_in(["compare", "MODEL", "DATA", "--methods", "lora", "dora", "--seeds", "3"])
    assert prose_in(["train", "MODEL", "DATA", "--retain", "general.jsonl", "your", "own"]) == ["your", "own"]
    assert prose_in(["eval", "RUN", "DATA", "scores", "it"]) == ["scores", "it"]
