"""Range tests: the loss while the learning rate rises step by step, from the start of each method.

python scripts/range_test.py ../shared/data --data trec sst2 builtin:captions

A step is 16 rows, and its rate a tenth of a decade above that of the one before, from a decade below the default
to a decade and a half above. A line of the output has the exponent of each second rate and the loss before its step.
What came of it is in docs/learning_rates.md.
"""

import argparse
import math
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from defaults import NEEDED, SUITES

from inlay.batches.batch import to_device
from inlay.data.settings import DataSettings
from inlay.errors import TrainingFailed
from inlay.methods import METHODS
from inlay.training import active_run
from inlay.training.loop import Training
from inlay.training.run import train
from inlay.training.schedule import Plan
from inlay.training.settings import RunSettings

STEPS_A_DECADE, BELOW, ABOVE = 10, 1.0, 1.5


class RangeTestDone(TrainingFailed):
    """The end of a run that is a range test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the data sets")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    asked = parser.parse_args()
    active_run.fit = range_test
    for data in asked.data:
        for name in asked.methods:
            run(data if data.startswith("builtin:") else str(asked.folder / data), data, name)


def run(path: str, data: str, name: str) -> None:
    model = SUITES["writing" if data in SUITES["writing"].data else "short"].model
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(
            model=model,
            data=DataSettings(path=path, train_rows=1600, eval_rows=16),
            method=METHODS[name](**NEEDED[model].get(name, {})),
            out=f"{folder}/run",
            epochs=1,
            samples=0,
            forgetting=False,
        )
        try:
            train(settings)
        except RangeTestDone as done:
            print(f"{data} {name}: {done}", flush=True)


def range_test(
    training: Training, objective: Any, batches: Any, plan: Plan, settings: RunSettings[Any], observer: Any
) -> None:
    """Take the steps in place of a training, until the loss is three times the first."""
    adapter, optimizer, rates = training.adapter, training.optimizer, []
    losses: list[float] = []
    lowest = math.log10(plan.learning_rate) - BELOW
    for number, batch in enumerate(islice(batches, int(STEPS_A_DECADE * (BELOW + ABOVE)) + 1)):
        adapter.model.train()
        rate = 10 ** (lowest + number / STEPS_A_DECADE)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"] / plan.learning_rate
        loss = objective.loss(adapter.model, to_device(batch, training.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(adapter.parameters()), settings.clip)
        rates.append(rate)
        losses.append(loss.item())
        if not losses[-1] < 3 * losses[0] + 2:
            break
        optimizer.step()
        settings.method.after_step(adapter, number + 1, plan.steps)
        optimizer.zero_grad()
    points = zip(rates[::2], losses[::2], strict=True)
    raise RangeTestDone(" ".join(f"{math.log10(rate):.1f}:{loss:.2f}" for rate, loss in points))


if __name__ == "__main__":
    main()
