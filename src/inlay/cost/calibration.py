"""How fast this machine computes, measured once by training steps of small models, a few seconds for each dtype.

Each operation of these steps is timed by itself, and the whole step without that. The figures are kept in `speed.json`
beside the record; another device, number of threads or PyTorch is measured anew.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, reduce

import torch
from torch import nn
from torch._ops import OpOverload
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from ..attached.adapter import attach
from ..bases.base import find_base
from ..batches.batch import to_device
from ..devices import is_accelerator, synchronize
from ..formats.files import write_json
from ..methods import METHODS
from ..tasks.unread import unread_task
from ..under_way import in_parts
from . import record
from .depth import shallow
from .speed import Rate, Speed, Timed, fitted
from .work import Amount, done_by

_VERSION = 2
_OTHERS = ("multiplying", "passing", "beside")
_BLOCKS = 2


@dataclass(frozen=True)
class SmallStep:
    """A step of one model and method, on rows of one length."""

    model: str
    method: str
    width: int
    rows: int
    tokens: int
    repeats: int = 3

    @property
    def is_short(self) -> bool:
        """Whether a step is over before another process has its turn, so that its time is its own."""
        return self.rows == 1


STEPS = [
    step
    for model in ("builtin:tiny-lm", "builtin:minilm")
    for step in (
        SmallStep(model, "lora", 64, 1, 8, repeats=20),
        SmallStep(model, "full", 384, 8, 32),
        SmallStep(model, "full", 512, 2, 64),
        SmallStep(model, "lora", 128, 16, 128),
    )
]
_VOCABULARY = 8192


@cache
def measured_speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """Return how fast the machine computes, as it is on file, or as it is measured now and put on file."""
    key = f"{_VERSION} {torch.__version__} {_name(device)} {dtype} {torch.get_num_threads()}"
    path = record.home() / "speed.json"
    known: dict[str, dict[str, Sequence[float]]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    with suppress(KeyError, TypeError):
        return _read(known[key])
    found = _measure(device, dtype)
    with suppress(OSError):
        write_json(path, known | {key: _written(found)})
    return found


def _written(speed: Speed) -> dict[str, Sequence[float]]:
    return {**speed.rates, **{name: getattr(speed, name) for name in _OTHERS}}


def _read(values: Mapping[str, Sequence[float]]) -> Speed:
    rates = {kind: Rate(*rate) for kind, rate in values.items()}
    multiplying, passing, beside = (rates.pop(name) for name in _OTHERS)
    return Speed(rates, multiplying, passing, beside)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _measure(device: torch.device, dtype: torch.dtype) -> Speed:
    timed, steps = defaultdict[str, list[Timed]](list), list[tuple[SmallStep, Amount, float]]()
    time_step = in_parts("measuring this machine, once", len(STEPS), _timed_step)
    with torch.random.fork_rng([device] if is_accelerator(device) else []):
        for trial in STEPS:
            operations, whole = time_step(trial, device, dtype)
            for kind, amount, seconds in operations:
                timed[kind].append((amount, seconds))
            every = reduce(Amount.plus, (amount for _, amount, _ in operations))
            steps.append((trial, every, whole - sum(seconds for _, _, seconds in operations)))
    return replace(fitted(timed), beside=_beside(steps))


def _timed_step(
    trial: SmallStep, device: torch.device, dtype: torch.dtype
) -> tuple[list[tuple[str, Amount, float]], float]:
    """Return the operations of a step, each with its time, and that of the whole."""
    step = _stepper(trial, device, dtype)
    step()  # the first makes what the others find
    operations = _timed_by_itself(step, device, trial.repeats)
    return operations, min(_seconds(step, device) for _ in range(trial.repeats))


def _beside(steps: Sequence[tuple[SmallStep, Amount, float]]) -> Rate:
    """Return what steps take beside their operations: short ones for each of them, the others for their memory too."""
    short, long = ([each for each in steps if each[0].is_short is wanted] for wanted in (True, False))
    operation = sum(s for *_, s in short) / sum(amount.operations for _, amount, _ in short)
    more = sum(s - operation * amount.operations for _, amount, s in long)
    return Rate(operation, made=max(0.0, more) / max(1.0, sum(amount.made for _, amount, _ in long)))


def _stepper(trial: SmallStep, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Return what takes a training step, again and again, on a model with random values."""
    task = unread_task(find_base(trial.model), trial.rows, trial.tokens)
    config = task.config = shallow(task.config, _BLOCKS)
    config.vocab_size = min(config.vocab_size, _VOCABULARY)
    config.intermediate_size = config.intermediate_size * trial.width // config.hidden_size
    config.num_attention_heads = trial.width // (config.hidden_size // config.num_attention_heads)
    config.hidden_size = trial.width
    if getattr(config, "num_key_value_heads", None) is not None:
        config.num_key_value_heads = config.num_attention_heads
    model: nn.Module = task.auto_class.from_config(config, dtype=dtype)
    adapter = attach(model.to(device), METHODS[trial.method]())
    model.train()
    parameters = list(adapter.parameters())
    optimizer = AdamW(parameters, lr=0.0, fused=device.type in ("cpu", "cuda"))
    batch = to_device(task.training_batch(range(trial.rows)), device)

    def step() -> None:
        task.loss(model, batch).backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Stopwatch(TorchDispatchMode):
    """Times every operation in its block."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.clock = device, _clock()
        self.found = list[tuple[str, Amount, float]]()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        kwargs, clock = kwargs or {}, self.clock
        began = clock()
        result = func(*args, **kwargs)
        synchronize(self.device)
        seconds = clock() - began
        if (done := done_by(func, args, kwargs, result)) is not None:
            self.found.append((done.kind, done.amount, seconds))
        return result


def _timed_by_itself(step: Callable[[], None], device: torch.device, repeats: int) -> list[tuple[str, Amount, float]]:
    """Return every operation of a step with its time, the least of some: the others waited for something else."""
    looks = list[list[tuple[str, Amount, float]]]()
    for _ in range(repeats):
        with _Stopwatch(device) as watch:
            step()
        looks.append(watch.found)
    return [(*each[0][:2], min(seconds for *_, seconds in each)) for each in zip(*looks, strict=True)]


def _clock() -> Callable[[], float]:
    """Return what tells the time: of the processor where it is one thread's, as others may share the machine."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    clock = _clock()
    synchronize(device)
    began = clock()
    step()
    synchronize(device)
    return clock() - began
