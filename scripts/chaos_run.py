"""A short run that ckpt-chaos kills at its writes and starts again, by one process or several.

pip install ckpt-chaos
ckpt-chaos run --ranks 2 --modes before,torn --max-points 20 --checkpoint-glob "{out}/kept/*" --ckpt-ignore-size \
    --step-regex "goes on from step (\\d+)" --result-file "{out}/adapter/adapter_model.safetensors" \
    --fail-on HARD_FAIL,LOST_WORK,SILENT_DIVERGENCE,CONTROL_FAIL -- python scripts/chaos_run.py {out}

It has six steps and a checkpoint after each, which gets a second name with the number of its step: ckpt-chaos tells by
these whether the second start has lost work, and none of them may be removed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import inlay
from inlay.formats import files
from inlay.processes import is_first
from inlay.training import keeper
from inlay.training.checkpoint import CHECKPOINT, write_checkpoint

STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="lora")
    asked = parser.parse_args()
    keeper.write_checkpoint = write_and_name
    files._unfinished = lambda path: path.with_name(f".{path.name}.0{files._UNFINISHED}")  # in each start the same
    inlay.train(
        "builtin:tiny-lm",
        "builtin:captions",
        asked.method,
        out=str(asked.out),
        go_on=True,
        train_rows=6 * STEPS,
        eval_rows=6,
        epochs=1,
        batch_size=6,
        micro_batch_size=2,
        max_length=64,
        samples=0,
        forgetting=False,
        checkpoint_minutes=1e-9,
        device="cpu",
        dtype="float32",
        progress=tell,
    )


def write_and_name(folder: Path, training: Any, identity: Any) -> None:
    write_checkpoint(folder, training, identity)
    named = folder / "kept" / f"{training.progress.step}.safetensors"
    named.parent.mkdir(exist_ok=True)
    if not named.exists():
        os.link(folder / CHECKPOINT, named)


def tell(event: dict[str, Any]) -> None:
    if not is_first():
        return
    if event["event"] == "resume":
        print(f"goes on from step {event['step']}", flush=True)
    elif event["event"] == "note" and "begins anew" in event["text"]:
        print("goes on from step 0", flush=True)
    elif event["event"] == "note" and "nothing to do" in event["text"]:
        print(f"goes on from step {STEPS}", flush=True)


if __name__ == "__main__":
    main()
