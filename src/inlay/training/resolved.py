"""resolved.yaml: every setting as decided, with the reason of each automatic value beside it."""

import dataclasses
from collections.abc import Iterator, Mapping

import yaml

from ..devices import has_tf32
from ..forgetting.passages import BUILTIN_PASSAGES
from ..methods import METHODS
from ..show.reach import reach_text
from ..show.units import count_text, counted
from .prepared import Prepared
from .settings import RunSettings


def resolved_yaml(run: Prepared) -> str:
    settings, plan, data_read = run.settings, run.plan, run.task.data
    asked = {f.name: getattr(settings, f.name) for f in dataclasses.fields(RunSettings)}
    method = {"name": METHODS.reference(type(settings.method)), **dataclasses.asdict(asked.pop("method"))}
    data = dataclasses.asdict(asked.pop("data")) | {"format": data_read.format} | data_read.columns
    decided = {
        "out": (str(run.folder), "from the data and the method"),
        "epochs": (
            plan.epochs,
            f"{settings.method.epochs:g} for {settings.method.name}, or more for fewer than 100 steps",
        ),
        "learning_rate": (plan.learning_rate, plan.rate_reason),
        "warmup": (round(plan.warmup_steps / plan.steps, 4), f"{counted(plan.warmup_steps, 'step')} of {plan.steps}"),
        "micro_batch_size": (settings.rows_at_once, "the whole batch at once"),
        "max_length": (run.max_length, "what model and method leave, at most 512"),
        "dtype": (str(run.dtype).removeprefix("torch."), f"what {run.device.type} computes fastest in"),
        "recompute": (run.recomputed, "as it is streamed" if settings.stream else "unless it has to be"),
        "memory": (None, "what is free"),
        "device": (str(run.device), "what is there"),
        "attention": (run.attention, "what transformers chooses for this model"),
        "retain": (BUILTIN_PASSAGES, "comes with Inlay"),
        "forget_at_most": (None, "no bound"),
    }
    lines = [f"model: {_inline(asked.pop('model'))}", *_block("data", data), *_block("method", method)]
    for name, value in asked.items():
        chosen = run.chosen.get(name)
        final, reason = decided[name] if chosen is None and value in (None, "auto") else (value, chosen)
        if name == "tf32" and value:
            reason = "float32 matrices are multiplied so" if has_tf32(run.device) else f"{run.device} has none"
        lines.append(f"{name}: {_inline(final)}" + (f"  # {reason}" if reason else ""))
    if run.part.reason is not None:
        lines.append(f"# part: {run.part.name or 'the language model'}; {run.part.reason}")
    lines.append(f"# reach: {reach_text(run.reach)}")
    lines += [
        f"#   {group['reason']}: {', '.join(group['modules'])} ({count_text(group['parameters'])} parameters)"
        for group in run.reach["left_out"]
    ]
    lines.append(f"# valid: {len(run.task.lengths('valid'))} rows, {data_read.valid_from}")
    lines.append(
        f"# {plan.steps} steps, {plan.steps_per_epoch} an epoch; evaluated after {sorted(plan.evaluate_after)}"
    )
    return "\n".join(lines) + "\n"


def _block(name: str, values: Mapping[str, object]) -> Iterator[str]:
    yield f"{name}:"
    yield from (f"  {key}: {_inline(value)}" for key, value in values.items())


def _inline(value: object) -> str:
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
