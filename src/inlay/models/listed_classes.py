"""The classes of models that transformers lists by task."""

from functools import cache


@cache
def classes_for(task: str | None) -> frozenset[str]:
    """Return the names of the classes for a task, such as CAUSAL_LM; without one, those of the pretrained bases."""
    from transformers.models.auto import modeling_auto  # takes a second, and help is shown without a model

    names = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES" if task else "MODEL_MAPPING_NAMES").values()
    return frozenset(n for name in names for n in ((name,) if isinstance(name, str) else name))
