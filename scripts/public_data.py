"""Fetch public data sets from the Hugging Face hub, each into a folder of train, valid and test files that Inlay reads.

python scripts/public_data.py                                  what there is
python scripts/public_data.py trec sst2 --out ../shared/data   fetches two; this needs a network
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

PARQUET = "refs/convert/parquet"  # the hub's own copy of sets that come as a script, which is not run
_HELD_OUT = 10  # one row in so many, where the hub has no such split


@dataclass(frozen=True)
class Source:
    """A data set on the hub, and what becomes of its columns and splits."""

    hub: str
    columns: Mapping[str, str]  # ours: theirs
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "valid": "validation", "test": "test"})


TRAIN_AND_TEST = {"train": "train", "test": "test"}
OPEN = {"train": "train", "test": "validation"}  # the labels of their test split are not public
TEXT, PAIR = {"text": "text", "label": "label_text"}, {"text_a": "sentence1", "text_b": "sentence2", "label": "label"}
MEANING = {"input": "meaning_representation", "target": "target"}
QUESTION = {"text_a": "question", "text_b": "passage", "label": "answer"}

SETS = {
    "sst2": Source("SetFit/sst2", TEXT),
    "trec": Source("SetFit/TREC-QC", {"text": "text", "label": "label_coarse_original"}, splits=TRAIN_AND_TEST),
    "subj": Source("SetFit/subj", TEXT, splits=TRAIN_AND_TEST),
    "cr": Source("SetFit/CR", TEXT, splits=TRAIN_AND_TEST),
    "ag_news": Source("fancyzhx/ag_news", {"text": "text", "label": "label"}, splits=TRAIN_AND_TEST),
    "banking77": Source(
        "PolyAI/banking77", {"text": "text", "label": "label"}, revision=PARQUET, splits=TRAIN_AND_TEST
    ),
    "cola": Source("nyu-mll/glue", {"text": "sentence", "label": "label"}, "cola", splits=OPEN),
    "rte": Source("nyu-mll/glue", PAIR, "rte", splits=OPEN),
    "mrpc": Source("nyu-mll/glue", PAIR, "mrpc"),
    "boolq": Source("google/boolq", QUESTION, splits=OPEN),
    "e2e_nlg": Source("GEM/e2e_nlg", MEANING, revision=PARQUET),
    "alpaca": Source(
        "tatsu-lab/alpaca",
        {"instruction": "instruction", "input": "input", "output": "output"},
        splits={"train": "train"},
    ),
}

Load = Callable[..., Any]


def fetch(name: str, out: Path, load: Load = datasets.load_dataset) -> dict[str, int]:
    """Write the set into a folder of its name in `out`, whole or not at all; returns the rows of each split."""
    source, folder = SETS[name], out / name
    if folder.exists():
        raise SystemExit(f"{folder} is there already; remove it, or give another --out")
    found = load(source.hub, source.config, revision=source.revision)
    splits = {ours: _rows(found[theirs], source) for ours, theirs in source.splits.items()}
    for split in ("valid", "test"):
        if split not in splits:
            rows = splits["train"]
            splits[split] = rows[::_HELD_OUT]
            splits["train"] = [row for number, row in enumerate(rows) if number % _HELD_OUT]
    unfinished = out / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for split, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (unfinished / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    unfinished.rename(folder)
    return {split: len(splits[split]) for split in ("train", "valid", "test")}


def _rows(split: Any, source: Source) -> list[dict[str, object]]:
    if missing := sorted(set(source.columns.values()) - set(split.column_names)):
        raise SystemExit(f"{source.hub} has no column {missing[0]} any more; it has {', '.join(split.column_names)}")
    return [{ours: _value(split, theirs, row[theirs]) for ours, theirs in source.columns.items()} for row in split]


def _value(split: Any, column: str, value: object) -> object:
    """Return a label by its name, and any other value as it is."""
    kind = split.features[column]
    if isinstance(kind, datasets.ClassLabel):
        return kind.int2str(value)
    return ("yes" if value else "no") if isinstance(value, bool) else value


def main(arguments: list[str], load: Load = datasets.load_dataset) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", metavar="NAME", help="data sets; without any they are listed")
    options.add_argument("--out", type=Path, default=Path("../shared/data"), help="their folder (%(default)s)")
    asked = options.parse_args(arguments)
    if unknown := sorted(set(asked.names) - SETS.keys()):
        options.error(f"unknown data set {unknown[0]}; there are {', '.join(SETS)}")
    if not asked.names:
        for name, source in SETS.items():
            config = f" ({source.config})" if source.config else ""
            print(f"{name:10} https://huggingface.co/datasets/{source.hub}{config}")
    for name in asked.names:
        rows = fetch(name, asked.out, load)
        print(f"{asked.out / name}: " + " · ".join(f"{split} {count:,}" for split, count in rows.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
