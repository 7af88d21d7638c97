"""builtin:tiny-lm is a base like any other: every method trains on it, and what it wrote it writes again."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import inlay
from inlay.data.settings import DataSettings
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..tiny_models import write_rows

CAPTIONS = Path(inlay.__file__).parent / "builtin" / "captions"

# One of each family, with those whose files need something made anew (vera) or hold a choice (sparse).
QUICK = ("lora", "vera", "prefix", "houlsby", "sparse", "full")
OTHERS = [name for name in inlay.METHODS if name not in QUICK]
PARTS = 4  # of the others, so that several processes can share them

ASK_AGAIN = """
import json, sys
from pathlib import Path
from inlay.inference.opened import open_adapter
folders, prompts = sys.argv[2:], json.loads(sys.argv[1])
written = {Path(f).name: [a.values["text"] for a in open_adapter(Path(f)).answer(prompts)] for f in folders}
print(json.dumps(written))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "names", [QUICK, *(pytest.param(OTHERS[i::PARTS], marks=pytest.mark.slow) for i in range(PARTS))]
)
def test_every_method_trains_and_a_new_process_writes_the_same(names: Sequence[str], tmp_path: Path) -> None:
    for split, rows in (("train", 48), ("valid", 3)):
        lines = (CAPTIONS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
        write_rows(tmp_path / "data" / f"{split}.jsonl", [json.loads(line) for line in lines])
    written, prompts, folders = {}, [], []
    for name in names:
        kind = inlay.METHODS[name]
        settings = RunSettings(
            model="builtin:tiny-lm",
            data=DataSettings(path=str(tmp_path / "data")),
            method=kind(**kind.example),
            out=str(tmp_path / name),
            epochs=2,
            samples=3,
            evaluations_per_epoch=1,
        )
        summary = train(settings)
        metrics = summary["metrics"]
        assert metrics["tuned"]["loss"] != metrics["base"]["loss"], name  # six steps change, and may not improve
        lines = (tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        prompts, written[name] = [row["prompt"].strip() for row in rows], [row["text"] for row in rows]
        folders.append(str(tmp_path / name))
    command = [sys.executable, "-c", ASK_AGAIN, json.dumps(prompts), *folders]
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(again) == written
    assert len(set(map(tuple, written.values()))) > 1
