"""What is assumed of an adapter whose files do not tell: one that `adapter.save` or Hugging Face PEFT has written.

Such files hold the tensors and the method; what they are for is read from the base, and each assumption is said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..bases.auto_class import no_writer
from ..bases.base import Base
from ..errors import CheckpointError
from ..formats import peft
from ..formats.peft_config import PeftConfig
from ..models.tokenizer import Tokenizer
from ..tasks import TASKS
from ..tasks.task import Task

_LONGEST = 512  # tokens of a text
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Assumed:
    """What provenance.json would say, and the sentences that tell the user."""

    provenance: dict[str, Any]
    notes: tuple[str, ...]


def assumed(
    folder: Path, config: PeftConfig, tensors: dict[str, Tensor], base: Base, tokenizer: Tokenizer | None
) -> Assumed:
    """Raise CheckpointError if it cannot be known what the adapter is for, or what its labels are."""
    task = _task(folder, config, base)
    dtype = str(getattr(base.config.get_text_config(), "dtype", None) or base.config.dtype).removeprefix("torch.")
    length = min(base.positions, getattr(tokenizer, "model_max_length", 10**9), _LONGEST)
    about = {
        "model": base.name,
        "task": task.name,
        "seed": 0,
        "max_length": length - (config.get("num_virtual_tokens") or 0),
        "dtype": dtype if dtype in _DTYPES else "float32",
        "quantize": "none",
    }
    facts, of_task = task.assumed(folder, config, tensors, base, tokenizer)
    said = [
        f"the base is {base.name} in {about['dtype']}",
        f"a text has at most {about['max_length']} tokens",
        *of_task,
    ]
    note = f"{folder} does not say how it was trained, so it is assumed that {'; '.join(said)}"
    return Assumed(about | facts, (note,))


def _task(folder: Path, config: PeftConfig, base: Base) -> type[Task]:
    kind = config.get("task_type")
    of_type = {each: task for task in TASKS.values() for each in task.peft_types}
    if kind in of_type:
        return of_type[kind]
    if kind is not None:
        raise CheckpointError(
            f"{folder} is for the task {kind}; the command line has {' and '.join(of_type)}; in Python, inlay.load may "
            "read it"
        )
    if (found := next((task for task in TASKS.values() if task.is_for(config, base)), None)) is not None:
        return found
    raise CheckpointError(
        f"{folder} has no task_type in {peft.CONFIG}, and {base.name} is {no_writer(base.config)} without a head, so "
        "what it is for is not known; in Python, inlay.load may read it"
    )
