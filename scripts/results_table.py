"""A Markdown table of finished runs whose folders are called DATA-NAME-SEED: a line for each data set and name, with
mean and deviation over the seeds: of the accuracy in per cent, or of BLEU.

python scripts/results_table.py runs/sst2-*
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from inlay.show.units import bytes_text, count_text, seconds_text


def main(folders: list[str]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for folder in map(Path, folders):
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary["status"] != "finished":
            sys.exit(f"{folder}: {summary['status']}: {summary['reason']}")
        data = Path(summary["data"]).name
        groups[data, folder.name.removeprefix(f"{data}-").removesuffix(f"-{summary['seed']}")].append(summary)
    print("| data | method | seeds | valid | test | trained | adapter | steps | time | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (data, name), runs in groups.items():
        first = runs[0]
        score, scale = ("accuracy", 100) if first["task"] == "classify" else ("bleu", 1)
        cells = [data, name, ", ".join(str(run["seed"]) for run in runs)]
        for scores in ("tuned", "test"):
            there = first["metrics"][scores] is not None
            cells.append(_spread([scale * run["metrics"][scores][score] for run in runs]) if there else "–")
        cells += [count_text(first["trainable_parameters"]), bytes_text(first["adapter_bytes"])]
        cells.append(f"{statistics.mean(run['steps'] for run in runs):.0f}")
        cells.append(seconds_text(statistics.median(run["train_seconds"] for run in runs)))
        cells.append(bytes_text(statistics.median(run["peak_memory_bytes"] for run in runs)))
        print(f"| {' | '.join(cells)} |")


def _spread(values: list[float]) -> str:
    each = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return each
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({each})"


if __name__ == "__main__":
    main(sys.argv[1:])
