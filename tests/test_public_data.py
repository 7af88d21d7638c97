"""scripts/public_data.py, with a hub that is made up: what it writes is what Inlay reads."""

import json
import runpy
from pathlib import Path
from typing import Any

import datasets
import pytest

from inlay.cli import main as inlay_main

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "public_data.py"))
SETS = SCRIPT["SETS"]


def made_up(source: Any) -> Any:
    """Return a `load_dataset` that knows this set alone, with labels as numbers that have names."""
    texts = {ours: [f"{ours} number {n}" for n in range(40)] for ours in source.columns}
    columns = {theirs: texts[ours] for ours, theirs in source.columns.items()} | {"idx": list(range(40))}
    features = {name: datasets.Value("int64" if name == "idx" else "string") for name in columns}
    if (label := source.columns.get("label")) == "label":
        columns[label] = [n % 2 for n in range(40)]
        features[label] = datasets.ClassLabel(names=["bad", "good"])
    elif label == "answer":
        columns[label] = [n % 2 == 0 for n in range(40)]
        features[label] = datasets.Value("bool")
    elif label:
        columns[label] = [("bad", "good")[n % 2] for n in range(40)]

    def load(hub: str, config: str | None, revision: str | None) -> datasets.DatasetDict:
        assert (hub, config, revision) == (source.hub, source.config, source.revision)
        split = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        return datasets.DatasetDict({name: split for name in source.splits.values()})

    return load


@pytest.mark.parametrize("name", SETS)
def test_each_set_becomes_a_folder_that_inlay_reads(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SETS[name]
    SCRIPT["main"]([name, "--out", str(tmp_path)], made_up(source))
    assert f"{name}: train" in capsys.readouterr().out
    rows = {
        split: [json.loads(line) for line in (tmp_path / name / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "valid", "test")
    }
    assert all(row.keys() == source.columns.keys() for split in rows.values() for row in split)
    assert sum(map(len, rows.values())) == 40 * len(source.splits)  # held out of train, not taken twice
    if "label" in source.columns:
        assert {row["label"] for row in rows["train"]} in ({"bad", "good"}, {"yes", "no"})
    assert inlay_main(["data", str(tmp_path / name)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_what_is_there_stays_and_a_column_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    with pytest.raises(SystemExit, match="is there already"):
        SCRIPT["fetch"]("sst2", tmp_path, made_up(SETS["sst2"]))
    with pytest.raises(SystemExit, match="has no column sentence any more; it has text, label, idx"):
        SCRIPT["fetch"]("cola", tmp_path, lambda *_, **__: made_up(SETS["ag_news"])("fancyzhx/ag_news", None, None))
    assert not (tmp_path / "cola").exists()
