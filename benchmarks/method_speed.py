"""What a training step of each method costs beside one of full fine-tuning, on the same batches, in turns.

    python benchmarks/method_speed.py [--model builtin:minilm] [--data builtin:tickets] [--rounds 5] [--methods lora]

Every method has a copy of the model, and in each round takes the same ten steps. What is printed is the median over the
rounds of a round's time beside full fine-tuning's in the same round, so that what else the machine does cancels out.
"""

import argparse
import time
from statistics import median
from typing import Any

import torch

import inlay
from inlay.attached.adapter import Adapter, plan_attach
from inlay.batches.batch import Batch
from inlay.core.state import commit
from inlay.data.settings import DataSettings
from inlay.training.journal import Journal
from inlay.training.prepared import Prepared, prepare_run
from inlay.training.settings import RunSettings

STEPS = 10
SETTINGS: dict[str, dict[str, Any]] = {"pattern": {"include": r".*\.attention\..*"}}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="builtin:minilm")
    options.add_argument("--data", default="builtin:tickets")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--methods", nargs="*", default=list(inlay.METHODS), choices=list(inlay.METHODS))
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    names = list(dict.fromkeys(["full", *chosen.methods]))
    runs = {name: _prepared(name, chosen) for name in names}
    adapters = {name: _adapter(run) for name, run in runs.items()}
    optimizers = {name: torch.optim.AdamW(a.parameters(), lr=0.0, fused=True) for name, a in adapters.items()}
    task = runs["full"].task
    batches = [batch for batch, _ in zip(task.batches(16, seed=0), range(STEPS), strict=False)]
    print(f"{len(batches)} steps of 16 rows, {sum(int(b['attention_mask'].sum()) for b in batches)} tokens")

    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(chosen.rounds + 1):
        for name in names:
            began = time.perf_counter()
            for batch in batches:
                _step(runs[name], adapters[name], optimizers[name], batch)
            if number:  # in the first round every shape is new
                seconds[name].append((time.perf_counter() - began) / len(batches))
    for name, found in seconds.items():
        share = median(a / b for a, b in zip(found, seconds["full"], strict=True))
        print(f"{name:18} {1000 * median(found):6.0f} ms a step, {share:.2f} of full", flush=True)


def _prepared(name: str, chosen: argparse.Namespace) -> Prepared:
    method = inlay.METHODS[name](**SETTINGS.get(name, {}))
    asked = RunSettings(model=chosen.model, data=DataSettings(path=chosen.data), method=method, out="runs/none")
    return prepare_run(asked, Journal(lambda _: None))


def _adapter(run: Prepared) -> Adapter:
    torch.manual_seed(0)
    model, heads = run.task.load(run.dtype)
    adapter = plan_attach(model, run.settings.method, heads=heads)
    commit(adapter)
    run.settings.method.initialize_from_data(adapter, iter(run.task.batches(16, seed=0)))
    run.settings.method.parameter_groups(adapter, 1e-3)
    run.task.ready(model)
    return adapter


def _step(run: Prepared, adapter: Adapter, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    method = run.settings.method
    adapter.model.train()
    run.task.loss(adapter.model, batch).backward()
    if (penalty := method.penalty(adapter)) is not None:
        penalty.backward()
    torch.nn.utils.clip_grad_norm_(list(adapter.parameters()), 1.0)
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    main()
