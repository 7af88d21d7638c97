"""What a checkpoint must hold to fit a training: the names, dtypes and shapes that the training itself has."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..attached.adapter import Adapter
from ..loss_scale import LARGEST, LossScale
from ..tasks.metric import scores_from_json
from .guard import MOST_RETURNS, Guard, Return, Safe
from .loop import Training
from .progress import Progress
from .shrinking import Shrunk

_COUNTS = ("step", "evaluated", "best_step", "without_better", "tokens")
_MOST = 2**53  # of anything that is counted
_SPREAD = 64  # places of memory for each number of a tensor that is a part of a larger one
_APART = ("changed", "safe", "start", "inside")  # of what is told, as Progress has them otherwise
_AVERAGES = {"step", "exp_avg", "exp_avg_sq"}  # AdamW's, of each parameter

Parts = Mapping[str, Mapping[str, Tensor]]
Told = Mapping[str, Any]  # of the header, unchecked


def own_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Name the adapter's tensors as it does; they are not detached, so that they can be set."""
    return {f"{host}.{name}": tensor for host, name, tensor in adapter.tensors()}


def by_first_part(tensors: Mapping[str, Tensor], by: str) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        first, _, rest = key.partition(by)
        found.setdefault(first, {})[rest] = tensor
    return found


def check_fits(parts: Parts, training: Training) -> None:
    """Raise ValueError for a tensor that is missing, too many, or of another dtype or shape than the training's."""
    adapter, saved = training.adapter, parts["adapter"]
    own = own_tensors(adapter)
    _check_names("adapter", saved, own)
    resizable = {f"{host}.{name}" for host, module, d in adapter.hosts() if d.resizable for name in d.saved(module)}
    for name, tensor in own.items():
        shape = saved[name].shape if name in resizable else tensor.shape
        _check(f"adapter.{name}", saved[name], tensor.dtype, shape if len(shape) == tensor.ndim else tensor.shape)

    shapes = {id(tensor): saved[name].shape for name, tensor in own.items()}
    parameters = dict(adapter.named_parameters())
    for part in ("best", "safe", "start", "inside"):
        found = parts.get(part, {})
        _check_names(part, found, parameters if found else {})
        for name, tensor in found.items():
            p = parameters[name]
            _check(f"{part}.{name}", tensor, p.dtype, shapes[id(p)] if id(p) in shapes else p.shape)

    averaged = [p for group in training.optimizer.param_groups for p in group["params"]]
    averages = by_first_part(parts["optimizer"], by=".")
    _check_names("optimizer", averages, {str(number) for number in range(len(averaged))})
    for number, values in averages.items():
        p = averaged[int(number)]
        _check_names(f"optimizer.{number}", values, _AVERAGES)
        for name, tensor in values.items():
            shape = shapes[id(p)] if id(p) in shapes else p.shape
            dtype, shape = (torch.float32, torch.Size()) if name == "step" else (p.dtype, shape)
            _check(f"optimizer.{number}.{name}", tensor, dtype, shape)

    _check_memory("memory", by_first_part(parts.get("memory", {}), by="/"), adapter)
    for part in ("safe_memory", "start_memory"):
        if memory := by_first_part(parts.get(part, {}), by="/"):
            _check_memory(part, memory, adapter)
    for name, tensor in parts["random"].items():
        _check(f"random.{name}", tensor, torch.uint8, tensor.shape)


def progress_of(told: Told, main_score: str) -> Progress:
    """Read how far the training was, without the tensors of its best step."""
    values: dict[str, Any] = {name: told[name] for name in told if name not in _APART}
    for name in _COUNTS:
        if type(values[name]) is not int or not 0 <= values[name] < _MOST:
            raise ValueError(f"progress has {values[name]!r} for {name}, which is a count")
    for name in ("evaluated", "best_step"):
        if values[name] > values["step"]:
            raise ValueError(f"progress has {values[name]} for {name}, and it is of step {values['step']}")
    check_amount("progress", "seconds", values["seconds"])
    if type(told["changed"]) is not bool:
        raise ValueError(f"progress has {told['changed']!r} for changed, which is true or false")
    best = None if values["best"] is None else scores_from_json(values["best"], main_score)
    if best is None and values["best_step"]:
        raise ValueError(f"progress has {values['best_step']} for best_step, and {values['best']!r} for best")
    for name, value in best.items() if best is not None else ():
        if not (math.isfinite(value) or (name == "perplexity" and value > 0)):
            raise ValueError(f"progress has {value!r} for the best {name}, which is a number")
    values["best"] = best
    if "guard" in told:  # a version before had none
        values["guard"] = _guard_of(told["guard"])
    if "scale" in told:  # likewise
        values["scale"] = _scale_of(told["scale"])
    values["shrunk"] = shrunk_of(told)
    return Progress(**values)


def _guard_of(told: Told) -> Guard:
    losses = [told["first_loss"]] * (told["first_loss"] is not None) + list(told["losses"])
    if not all(type(loss) is float and math.isfinite(loss) for loss in losses):
        raise ValueError(f"guard has {losses!r} for losses, which are numbers")
    returns = tuple(Return(**each) for each in told["returns"])
    for each in returns:
        if type(each.step) is not int or type(each.to) is not int or not 0 <= each.to < each.step < _MOST:
            raise ValueError(f"guard has a return from step {each.step!r} to {each.to!r}")
        if type(each.share) is not float or not 0 < each.share < 1:
            raise ValueError(f"guard has {each.share!r} for what is left of the learning rate")
        if type(each.why) is not str:
            raise ValueError(f"guard has {each.why!r} for why the training went back, which is a text")
    if len(returns) > MOST_RETURNS:
        raise ValueError(f"guard has {len(returns)} returns; a training goes back {MOST_RETURNS} times at most")
    return Guard(told["first_loss"], tuple(told["losses"]), returns)


def shrunk_of(told: Told) -> tuple[Shrunk, ...]:
    """Read how steps that did not fit in memory are divided. Raises ValueError for what no run has."""
    found = tuple(Shrunk(**each) for each in told.get("shrunk", ()))  # a version before had none
    for each in found:
        if type(each.step) is not int or type(each.micro_batch_size) is not int or type(each.recomputes) is not bool:
            raise ValueError(f"progress has {each!r}, which says of no step how it is divided")
        if not (0 <= each.step < _MOST and 1 <= each.micro_batch_size < _MOST):
            raise ValueError(f"progress has {each!r}, whose numbers are no counts")
    return found


def _scale_of(told: Told) -> LossScale:
    scale = LossScale(**told)
    if type(scale.factor) is not float or not 1 <= scale.factor <= LARGEST or not scale.factor.is_integer():
        raise ValueError(f"the loss is scaled by {scale.factor!r}, which is a power of two from 1 to {LARGEST:,.0f}")
    if type(scale.steps) is not int or not 0 <= scale.steps < _MOST:
        raise ValueError(f"the loss is scaled so since {scale.steps!r} steps, which is a count")
    return scale


def kept_of(told: Told, parts: Parts, progress: Progress, main_score: str) -> dict[str, Safe | None]:
    """Read the steps that a training can go back to or keep, by their names in Progress. Versions before had no start,
    and no step inside a budget."""
    safe, inside = (_kept(told, name, parts, progress, main_score) for name in ("safe", "inside"))
    start = safe if safe is not None and safe.step == 0 else _kept(told, "start", parts, progress, main_score)
    if start is None and parts.get("start"):  # of a version before, which did not score it
        start = Safe(0, None, parts["start"], by_first_part(parts.get("start_memory", {}), by="/"))
    return {"safe": safe, "start": start, "inside": inside}


def _kept(told: Told, name: str, parts: Parts, progress: Progress, main_score: str) -> Safe | None:
    """Read a step that is kept: the best one, or another whose tensors the checkpoint has as well."""
    if told.get(name) is None:
        return None
    step, scores = told[name]["step"], told[name]["scores"]
    if type(step) is not int or not 0 <= step <= progress.step:
        raise ValueError(f"progress has {step!r} for its {name} step, and the checkpoint is of step {progress.step}")
    parameters = parts.get(name) or (parts.get("best") if step == progress.best_step else None)
    if not parameters:
        raise ValueError(f"the {name} step is {step}, and there are no tensors of it")
    read = None if scores is None else scores_from_json(scores, main_score)
    return Safe(step, read, parameters, by_first_part(parts.get(f"{name}_memory", {}), by="/"))


def check_amount(what: str, name: str, value: object) -> None:
    """Raise ValueError unless the value can be one of seconds or bytes."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError(f"{what} has {value!r} for {name}")


def check_strides(told: object, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless each tensor that has strides can be laid out by them in the memory that it takes."""
    if not isinstance(told, dict):
        raise ValueError(f"strides are {told!r}")
    for key, strides in told.items():
        shape = tensors[key].shape
        if not isinstance(strides, list) or len(strides) != len(shape) or not all(type(s) is int for s in strides):
            raise ValueError(f"strides of {key} are {strides!r}, and it is of {list(shape)}")
        reach = 1  # numbers from the first to the last, over the dimensions so far
        for stride, size in sorted(zip(strides, shape, strict=True)):
            if size > 1 and stride < reach:
                raise ValueError(f"strides of {key} are {strides!r}, which put two numbers in one place")
            reach += (size - 1) * stride
        if reach > _SPREAD * tensors[key].numel():
            raise ValueError(f"strides of {key} are {strides!r}, which spread it over {reach} places")


def _check_memory(part: str, memory: Mapping[str, Mapping[str, Tensor]], adapter: Adapter) -> None:
    """Check what a method remembers: what it has at the start must be there, and averages may have come."""
    hosts = {host: delta.training_state() for host, _, delta in adapter.hosts()}
    _check_names(part, memory, {host for host, own in hosts.items() if own} | (memory.keys() & hosts.keys()))
    for host, saved in memory.items():
        own = hosts[host]
        _check_names(f"{part}.{host}", saved.keys() & own.keys(), own)
        for name, tensor in saved.items():
            of = own.get(name)
            dtype, shape = (torch.float32, tensor.shape) if of is None else (of.dtype, of.shape)
            _check(f"{part}.{host}/{name}", tensor, dtype, shape)


def _check_names(what: str, found: Collection[str], wanted: Collection[str]) -> None:
    if different := sorted(set(found) ^ set(wanted)):
        where = "the checkpoint" if different[0] in found else "the training"
        raise ValueError(f"{what}: only {where} has {different[0]}")


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: torch.Size) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        found, wanted = (f"{d} of {list(s)}" for d, s in ((tensor.dtype, tensor.shape), (dtype, shape)))
        raise ValueError(f"{name} is {found}; this training has {wanted}")
