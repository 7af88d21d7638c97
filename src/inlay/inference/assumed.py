"""What is assumed of an adapter whose files do not tell: one that `adapter.save` or Hugging Face PEFT has written.

Such files hold the tensors and the method; what they are for is read from the base, and each assumption is said.
"""

import re
from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor, nn

from ..bases.auto_class import no_writer
from ..bases.base import Base, empty_classifier, empty_language_model
from ..errors import CheckpointError
from ..formats import peft
from ..models.sites import Sites

_TASKS = {"SEQ_CLS": "classify", "CAUSAL_LM": "causal"}
_LONGEST = 512  # tokens of a text
_ANSWER = 256  # tokens of an answer
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Assumed:
    """What provenance.json would say, and the sentences that tell the user."""

    provenance: dict[str, Any]
    notes: tuple[str, ...]


def assumed(
    folder: Any, config: dict[str, Any], tensors: dict[str, Tensor], base: Base, tokenizer: Any | None
) -> Assumed:
    """Raises CheckpointError if it cannot be known what the adapter is for, or what its labels are."""
    task = _task(folder, config, tensors, base)
    dtype = str(getattr(base.config.get_text_config(), "dtype", None) or base.config.dtype).removeprefix("torch.")
    length = min(base.positions, getattr(tokenizer, "model_max_length", 10**9), _LONGEST)
    about = {
        "model": base.name,
        "task": task,
        "seed": 0,
        "max_length": length - (config.get("num_virtual_tokens") or 0),
        "dtype": dtype if dtype in _DTYPES else "float32",
        "quantize": "none",
    }
    said = [f"the base is {base.name} in {about['dtype']}", f"a text has at most {about['max_length']} tokens"]
    if task == "classify":
        labels, source = _labels(folder, base, tensors)
        about["labels"] = list(labels)
        said.append(f"the labels are {', '.join(labels[:8])}{' …' if len(labels) > 8 else ''}, {source}")
    else:
        chat = bool(getattr(tokenizer, "chat_template", None))
        stop = _stop(base, tokenizer)
        about |= {"format": "messages" if chat else "text", "stop": stop, "room": _ANSWER}
        ends = " or ".join(map(str, tokenizer.convert_ids_to_tokens(stop))) if tokenizer is not None else ""
        said.append(f"prompts are written {'by the chat template' if chat else 'as they are'}")
        said.append(f"an answer has at most {_ANSWER} tokens{' and ends at ' + ends if ends else ''}")
    note = f"{folder} does not say how it was trained, so it is assumed that {'; '.join(said)}"
    return Assumed(about, (note,))


def _task(folder: Any, config: dict[str, Any], tensors: dict[str, Tensor], base: Base) -> str:
    kind = config.get("task_type")
    if kind in _TASKS:
        return _TASKS[kind]
    if kind is not None:
        raise CheckpointError(
            f"{folder} is for the task {kind}; the command line has {' and '.join(_TASKS)}; in Python, inlay.load may "
            "read it"
        )
    if any(name.endswith("ForSequenceClassification") for name in base.config.architectures or ()):
        return "classify"
    if no_writer(base.config) is None and not _has_head(config, base):
        return "causal"
    if config.get("modules_to_save"):
        return "classify"
    raise CheckpointError(
        f"{folder} has no task_type in {peft.CONFIG}, and {base.name} is {no_writer(base.config)} without a head, so "
        "what it is for is not known; in Python, inlay.load may read it"
    )


def _has_head(config: dict[str, Any], base: Base) -> bool:
    """Whether the adapter has a module that is no language model's."""
    saved = config.get("modules_to_save") or ()
    names = {name.rpartition(".")[2] for name, _ in empty_language_model(base.config).named_modules()} if saved else ()
    return any(entry.rpartition(".")[2] not in names for entry in saved)


def _labels(folder: Any, base: Base, tensors: dict[str, Tensor]) -> tuple[tuple[str, ...], str]:
    """The labels, and where they are from."""
    own: dict[int, str] = base.config.id2label
    named = [own[i] for i in sorted(own)]
    count = _outputs(empty_classifier(base.config), len(named), tensors)
    if count is None:
        if not any(name.endswith("ForSequenceClassification") for name in base.config.architectures or ()):
            raise CheckpointError(
                f"{folder} gives labels, but neither it nor {base.name} has a head that was trained; name with --model "
                "a base that has one"
            )
        count = len(named)
    if count == len(named) and named != _unnamed(count):
        return tuple(named), f"as {base.name} names them"
    return tuple(_unnamed(count)), f"as nothing names the {count} of its head"


def _unnamed(count: int) -> list[str]:
    """What transformers calls labels without a name."""
    return [f"LABEL_{i}" for i in range(count)]


def names_nothing(labels: tuple[str, ...]) -> bool:
    """Whether the labels are numbers and no names."""
    return list(labels) == _unnamed(len(labels))


def _outputs(empty: nn.Module, count: int, tensors: dict[str, Tensor]) -> int | None:
    """How many labels the head among `tensors` has, where one of `count` has its last layer; None if there is none."""
    for name, head in Sites(empty).head_hosts():
        weight = head._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and weight.shape[0] == count:
            pattern = re.compile(rf"(.*\.)?{re.escape(name)}\.(.*\.)?weight")
            for key, tensor in tensors.items():
                if pattern.fullmatch(key) and tensor.ndim == 2 and tensor.shape[1] == weight.shape[1]:
                    return tensor.shape[0]
    return None


def _stop(base: Base, tokenizer: Any | None) -> list[int]:
    """Where the base's own generation ends."""
    found: list[Any] = [getattr(tokenizer, "eos_token_id", None)]
    try:
        settings: Any = transformers.GenerationConfig.from_pretrained(base.path, local_files_only=not base.fetch)
        found.append(settings.eos_token_id)
    except (OSError, ValueError):
        found.append(getattr(base.config.get_text_config(), "eos_token_id", None))
    ids = {id for ids in found for id in (ids if isinstance(ids, list) else [ids]) if id is not None}
    known = len(tokenizer) if tokenizer is not None else 0
    return sorted(id for id in ids if id < known)
