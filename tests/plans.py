"""Plans written by code, for screens and pages that are the same on every machine."""

from types import SimpleNamespace
from typing import Any

from inlay.api.plan import Costs
from inlay.methods import METHODS
from inlay.training.planning import NotPlanned, Planned, PlanResult

_M = 2**20
_BESIDE = 700 * _M


def planned(name: str, trained: int, activations: int, change: dict[str, object] | None, **others: Any) -> Planned:
    """A method on a base of 800 MiB, with activations in MiB; with a change it does not fit."""
    memory = {"weights": 800 * _M, "adapter": 4 * trained, "gradients": 0, "optimizer": 8 * trained}
    memory |= {"activations": activations * _M, "loss": 3 * _M, "inputs": 4096, "temporaries": 20 * _M}
    cost: Any = SimpleNamespace(step=SimpleNamespace(memory=memory, peak=sum(memory.values())))
    values: dict[str, Any] = {
        "label": name,
        "method": METHODS[name.partition(":")[0]](),
        "trained_parameters": trained,
        "file_bytes": 4 * trained + 300,
        "cost": cost,
        "tensor_bytes": cost.step.peak,
        "process_bytes": cost.step.peak + _BESIDE,
        "steps": 171,
        "step_seconds": 0.4,
        "run_seconds": 90.0,
        "fits": change is None,
        "change": change or {},
    }
    return Planned(**values | others)


def plan_of(*rows: Planned | NotPlanned, **others: Any) -> Costs:
    values: dict[str, Any] = {
        "model": "base",
        "source": "reviews",
        "device": "cpu",
        "dtype": "bfloat16",
        "batch_size": 16,
        "longest": 169,
        "memory": 3 * 2**30,
        "packs": False,
        "rows": rows,
        "processes": 1,
        "shard": False,
        "stream": False,
        "earlier_runs": 0,
        "runs_of_kind": 0,
    }
    return Costs(PlanResult(**values | others))


def some_methods() -> Costs:
    """One method of each family, of which two do not fit and one cannot be planned."""
    return plan_of(
        planned(
            "full",
            220_000_000,
            1500,
            {},
            why_not="what stays from step to step is too much; train less of the base, or a smaller one",
        ),
        planned("bitfit", 30_000, 500, None, step_seconds=0.312),
        planned("houlsby", 609_000, 700, None),
        planned("lora", 680_000, 1700, {"micro_batch_size": 8}, run_seconds=15_000),
        planned("dora", 700_000, 2600, {"micro_batch_size": 8, "recompute": "feed-forward"}),
        planned("multitask-prompt", 11_900, 800, None),
        NotPlanned(
            label="pattern", why="method.include is empty; give regular expressions for the names of parameters"
        ),
        earlier_runs=12,
        runs_of_kind=3,
    )
