"""The example of a method in a file of your own: it keeps the contract, and the command line serves it like our own."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.cli import main
from inlay.cli.compare import contender
from inlay.cli.train import parse_settings
from inlay.errors import CheckpointError
from inlay.formats.files import write_json
from inlay.formats.peft import read
from inlay.methods.loading import match
from inlay.testing import check_method
from inlay.training.run import train

from .edited import unseal
from .shapes import SHAPES, logits
from .training.resume.runs import StopAt

EXAMPLE = Path(__file__).parent.parent / "examples" / "your_own_method.py"
HRA = "your_own_method:HRA"


def forget() -> None:
    """Be as a process that has not seen the example."""
    inlay.METHODS._registered.clear()
    sys.modules.pop("your_own_method", None)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the example in it and nothing else."""
    path = list(sys.path)
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    sys.path[:] = path
    forget()


def test_it_is_checked_trained_resumed_scored_ranked_and_listed_like_our_own(
    beside: Path, tiny_bert: str, reviews_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check_method(inlay.METHODS[HRA])
    forget()

    short = ["--epochs", "0.5", "--no-forgetting", "--samples", "0", "--dtype", "float32"]
    asked = parse_settings(
        [tiny_bert, reviews_folder, "--method", HRA, "--method.reflections", "2", *short, "--out", "a"]
    )
    with pytest.raises(KeyboardInterrupt):
        train(asked, StopAt(event="step", step=2))
    assert "  name: your_own_method:HRA\n  reflections: 2\n" in Path("a/run.yaml").read_text()
    forget()
    assert main(["resume", "a"]) == 0
    assert json.loads(Path("a/summary.json").read_text())["method"] == "hra"
    assert read(Path("a")).provenance["method_class"] == HRA

    for arguments, said in [
        (["eval", "a"], "tuned"),
        (["rank", "a", "--no-curve"], "hra on"),
        (["methods", HRA], "inlay train --method your_own_method:HRA"),
    ]:
        forget()
        capsys.readouterr()
        assert main(arguments) == 0, arguments
        assert said in capsys.readouterr().out
    assert main(["methods"]) == 0  # by then it is known
    assert "  hra  " in capsys.readouterr().out

    asked = contender(f"{HRA}:reflections=2")
    assert (asked.method.name, asked.label) == ("hra", f"{HRA}:reflections=2")


@pytest.mark.slow
def test_processes_of_a_comparison_know_it(beside: Path, tiny_bert: str, reviews_folder: str) -> None:
    short = ["--epochs", "0.5", "--no-forgetting", "--samples", "0", "--dtype", "float32", "--out", "c"]
    assert main(["compare", tiny_bert, reviews_folder, "--methods", f"{HRA}:reflections=2", "bitfit", *short]) == 0
    found = Path("c/report.md").read_text()
    assert f"| {HRA}:reflections=2 |" in found
    assert "failed" not in found


def test_an_adapter_brings_no_code(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["llama"]
    kind: Any = inlay.METHODS[HRA]
    model = shape.model()
    inlay.attach(model, kind(reflections=2)).save("adapter")
    again = shape.model()
    assert inlay.load(again, "adapter").method == kind(reflections=2)
    assert torch.equal(logits(again, shape), logits(model, shape))

    forget()
    shutil.move("your_own_method.py", "adapter")
    for folder in (beside, beside / "adapter"):
        monkeypatch.chdir(folder)
        with pytest.raises(CheckpointError, match="not part of Inlay: .*(lies in|cannot be imported)"):
            match(shape.model(), read(beside / "adapter"))
        assert "your_own_method" not in sys.modules
    unseal(beside / "adapter")
    about = json.loads((beside / "adapter" / "provenance.json").read_text())
    write_json(beside / "adapter" / "provenance.json", about | {"method_class": "os:path"})
    with pytest.raises(CheckpointError, match="is no method"):
        match(shape.model(), read(beside / "adapter"))
