"""Whether a run that does not fit in 3 GB fits by the settings that are chosen for it, and trains the same adapter.

    python scripts/chosen_to_fit.py FOLDER

writes 64 rows of 512 tokens into FOLDER, captions one after another, and trains builtin:tiny-lm on them in batches of
32, with nothing else set that memory depends on: without a limit; in a memory cgroup of 3 GB; and with 3 GB of
addresses (`ulimit -v`). Ends with exit code 1 if a run fails, if nothing was chosen, or if a number of an adapter is
more than 1e-5 off; with 77 where it cannot set limits, which takes root and Linux.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from safetensors.torch import load_file
from within_memory import can_be_limited, run

from inlay.data.source import BUILTIN_FOLDER

LIMIT = 3 * 10**9
ROWS, JOINED = 64, 64  # texts, and captions in each
NEAR = 1e-5
SHORT = ("--batch-size", "32", "--epochs", "1", "--samples", "0", "--no-forgetting")


def make_data(folder: Path) -> None:
    """Write rows that are cut, so that all are as long as the model can take."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = (BUILTIN_FOLDER / "captions" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [" ".join(str(value) for value in json.loads(line).values()) for line in captions]
    for name, rows in {"train": range(ROWS), "valid": range(ROWS, ROWS + 8)}.items():
        long = [" ".join(texts[(JOINED * n + i) % len(texts)] for i in range(JOINED)) for n in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in long))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    if not can_be_limited():
        return 77
    data = folder / "data"
    make_data(data)

    def train(name: str, limit: int | None, before: Callable[[], None] | None = None) -> bool:
        out = folder / name
        subprocess.run(["rm", "-rf", str(out)], check=True)
        command = [sys.executable, "-m", "inlay", "train", "builtin:tiny-lm", str(data), "--out", str(out)]
        return run(name, [*command, *SHORT, "--dtype", "float32"], folder, limit, before)

    def few_addresses() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    ended = [train("unlimited", None), train("cgroup", LIMIT), train("addresses", None, few_addresses)]
    whole = load_file(folder / "unlimited" / "adapter" / "adapter_model.safetensors")
    good = all(ended)
    for name, ended_well in zip(("cgroup", "addresses"), ended[1:], strict=True):
        if not ended_well:
            continue
        settings = yaml.safe_load((folder / name / "resolved.yaml").read_text())
        size, again = settings["micro_batch_size"], settings["recompute"]
        own = load_file(folder / name / "adapter" / "adapter_model.safetensors")
        off = max(float((own[key] - whole[key]).abs().max()) for key in whole)
        chosen = size != 32 or again not in (None, "none")
        print(f"{name}: {size} rows at once, recompute {again}; the adapter is at most {off:.1e} off")
        good = good and chosen and own.keys() == whole.keys() and off <= NEAR
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
