"""A Markdown table of finished runs, a line for each data set and method with mean and deviation over the seeds.

python scripts/results_table.py runs/sst2-*
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from inlay.report.units import bytes_text, count_text


def main(folders: list[str]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for folder in folders:
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        if summary["status"] != "finished":
            sys.exit(f"{folder}: {summary['status']}: {summary['reason']}")
        groups[Path(summary["data"]).name, summary["method"]].append(summary)
    print("| data | method | seeds | valid accuracy | test accuracy | trained | adapter | steps | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (data, method), runs in sorted(groups.items()):
        first = runs[0]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        valid = _spread([run["metrics"]["tuned"]["accuracy"] for run in runs])
        test = _spread([run["metrics"]["test"]["accuracy"] for run in runs]) if first["metrics"]["test"] else "–"
        steps = f"{statistics.mean(run['steps'] for run in runs):.0f}"
        peak = bytes_text(statistics.median(run["peak_memory_bytes"] for run in runs))
        cells = [data, method, seeds, valid, test, count_text(first["trainable_parameters"])]
        print(f"| {' | '.join(cells)} | {bytes_text(first['adapter_bytes'])} | {steps} | {peak} |")


def _spread(values: list[float]) -> str:
    each = ", ".join(f"{value:.4f}" for value in values)
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation} ({each})"


if __name__ == "__main__":
    main(sys.argv[1:])
