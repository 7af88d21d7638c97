"""Compare what a step is said to take with what it takes, every method on small models of two kinds.

python scripts/plan_accuracy.py                        a line for each, and what is not equal
python scripts/plan_accuracy.py --methods lora dora    a part of it

Each step is followed twice, without values and with them: storages as they come and go, byte for byte.
"""

import argparse
import copy
import itertools
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from inlay.attached.adapter import Adapter, attach
from inlay.batches.batch import divided
from inlay.cost.depth import shallow
from inlay.cost.run_cost import Way, largest_batch, run_cost
from inlay.cost.small_model import choose_batches
from inlay.cost.step import StepCost, follow_step
from inlay.data.settings import DataSettings
from inlay.methods import METHODS
from inlay.models.document_attention import attend_by_document
from inlay.models.recompute import Recomputing, chosen
from inlay.models.sites import Sites
from inlay.tasks.task import Task
from inlay.training.prepared import read_task
from inlay.training.settings import RunSettings

KINDS = ("encoder", "decoder padded", "decoder packed")
NEEDED: dict[str, dict[str, dict[str, Any]]] = {
    "decoder": {"pattern": {"include": (r".*\.mlp\..*",)}, "bitfit": {"add_missing": True}},
    "encoder": {"pattern": {"include": (r".*\.attention\..*",)}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    asked = parser.parse_args()
    worst, count, began = 0.0, 0, time.perf_counter()
    for kind, length, dtype, again, micro in itertools.product(
        asked.kinds, (32, 128), (torch.float32, torch.bfloat16), ("none", "all"), (None, 4)
    ):
        task = small_task(kind, length)
        for name in asked.methods:
            method = METHODS[name](**NEEDED[kind.split()[0]].get(name, {}))
            own = copy.copy(task)
            if kind.endswith("packed"):
                choose_batches(own, method, None)
                if not own.packs:
                    continue
            way = Way(method=method, dtype=dtype, batch_size=16, micro_batch_size=micro, recompute=again)
            said, taken = run_cost(own, way).step, real(own, way)
            off = said.peak / taken.peak - 1
            worst, count = max(worst, abs(off)), count + 1
            if off:
                case = f"{name} {kind} {length} {dtype} {again} {micro}"
                print(f"{case}: {said.peak} {taken.peak} {off:+.3%}", flush=True)
        print(f"{kind} {length} {dtype} {again} {micro}: {count} done, worst {worst:.3%}", file=sys.stderr, flush=True)
    print(f"{count} steps, worst {worst:.3%}, {time.perf_counter() - began:.0f} s")


def small_task(kind: str, length: int, blocks: int = 2) -> Task:
    """Return a task on a model of so many blocks, with real rows."""
    encodes = kind == "encoder"
    model, data = ("builtin:minilm", "builtin:tickets") if encodes else ("builtin:tiny-lm", "builtin:captions")
    task = read_task(RunSettings(model=model, data=DataSettings(path=data, train_rows=64), method=METHODS["lora"]()))
    task.config = shallow(task.config, blocks)
    task.tokenize(length)
    return task


def adapted(task: Task, way: Way) -> Adapter:
    """Attach the method to a model with random values."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM if task.writes else AutoModelForSequenceClassification
    return attach(auto.from_config(copy.deepcopy(task.config), dtype=way.dtype), way.method)


def real(task: Task, way: Way) -> StepCost:
    """Follow the step of a model with values."""
    task = copy.copy(task)
    task.in_parts(way.rows / way.batch_size)
    adapter = adapted(task, way)
    model: Any = adapter.model
    parts = divided(largest_batch(task, way, 1, 0)[0], way.micro_batch_size)
    if "position_ids" in parts[0]:
        attend_by_document(model)
    Recomputing(chosen(Sites(model), way.recompute))
    follow_step(adapter, task, parts[:2], len(parts), way.clip)  # a first pass looks for what it does not find later
    return follow_step(adapter, task, parts[:2], len(parts), way.clip)


if __name__ == "__main__":
    main()
