"""Every method on an accelerator of no known kind: no bfloat16, no float64, and no tensors of the CPU in a call."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from inlay.methods import METHODS

from ..shapes import SHAPES
from ..tiny_models import WORDS, save_tiny_model, write_reviews, write_rows

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy.cpp compiled; skip where that cannot be done."""
    folder = tmp_path_factory.mktemp("toy")
    compiler, python = shutil.which(os.environ.get("CXX", "c++")), Path(sysconfig.get_paths()["include"])
    if compiler is None or not (python / "Python.h").is_file():
        pytest.skip("there is no C++ compiler, or Python's headers are missing")
    own = Path(torch.__file__).parent
    include = [own / "include", own / "include/torch/csrc/api/include", python]
    libraries = [f"-l{name}" for name in ("torch", "torch_cpu", "c10", "torch_python")]
    subprocess.run(
        [
            compiler, "-O0", "-w", "-shared", "-fPIC", "-std=c++20", "-DTORCH_EXTENSION_NAME=toy_device",
            *(f"-I{path}" for path in include), str(HERE / "toy.cpp"), "-o", str(folder / "toy_device.so"),
            f"-L{own / 'lib'}", *libraries, f"-Wl,-rpath,{own / 'lib'}",
        ],
        check=True,
    )  # fmt: skip
    return folder


def told_by(module: str, folder: Path) -> list[dict[str, Any]]:
    """What the module says that it did, in a process of its own, all of which was to work."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.accelerator.{module}", str(folder)],
        cwd=HERE.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-3000:]
    assert {each["did"]: each["failed"] for each in told if each["failed"]} == {}
    return told


@pytest.mark.slow
def test_every_method_learns_in_a_users_loop_on_a_model_that_is_on_two_devices(built: Path) -> None:
    told = {each["did"]: each["found"] for each in told_by("on_two_devices", built)}
    assert len(told) == 2 * len(METHODS)
    assert {told[f"{kind} lora"] for kind in ("llama", "bert")} == {"cpu toy; merged"}
    assert sum(found.endswith("merged") for found in told.values()) > len(METHODS)


@pytest.mark.slow
def test_every_method_on_an_accelerator_that_nobody_has_heard_of(built: Path) -> None:
    for name in ("bert", "llama"):
        save_tiny_model(SHAPES[name], built / name)
    write_reviews(built / "reviews")
    rows = [{"prompt": f"the {noun}", "completion": f"was {word}"} for noun in WORDS[6:9] for word in WORDS[:6]]
    for split in ("train", "valid"):
        write_rows(built / "completions" / f"{split}.jsonl", rows)
    told = told_by("on_toy", built)
    assert sum(each["did"].startswith("same") for each in told) == 3
    assert sum(each["did"].startswith("train") for each in told) == 2 * len(METHODS)

    summary, calls = next(e["found"] for e in told if e["did"] == "resume"), told[-1]["calls"]
    assert summary["status"] == "finished"
    assert (summary["device"], summary["dtype"]) == ("toy", "float16")
    assert 0 < summary["device_memory"]["allocated_bytes"] == summary["peak_memory_bytes"] < 2**28
    assert summary["device_memory"]["beside_bytes"] == 2**30
    assert calls["get_rng_state"]
    assert calls["set_rng_state"]
    assert calls["manual_seed_all"]
