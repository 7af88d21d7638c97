"""The heads of a model: what its class adds to a pretrained base for a task, and is new when training begins."""

from torch import nn

from .listed_classes import classes_for
from .modules import Guest, base_modules, parameter_count

# Classes that put a new head on what they do not keep as a module of its own, by transformers' lists of them.
_TASKS = (
    *("AUDIO_CLASSIFICATION", "AUDIO_FRAME_CLASSIFICATION", "AUDIO_XVECTOR", "IMAGE_CLASSIFICATION"),
    *("MULTIPLE_CHOICE", "QUESTION_ANSWERING", "SEMANTIC_SEGMENTATION", "SEQUENCE_CLASSIFICATION"),
    *("TOKEN_CLASSIFICATION", "VIDEO_CLASSIFICATION"),
)


def task_heads(model: nn.Module) -> tuple[str, ...]:
    """Return the modules outside the pretrained base that own parameters, by name; "" for the model's own parameters.

    A language model's head is pretrained too; a classifier's is new, so every adapter trains and saves it.
    """
    base = getattr(model, "base_model", model)
    outside = {
        name: child
        for name, child in model.named_children()
        if child is not base and not isinstance(child, Guest) and next(child.parameters(), None) is not None
    }
    embeddings = output_embeddings(model)
    if embeddings is not None:
        labels = getattr(getattr(model, "config", None), "num_labels", None)
        return (
            ()
            if base is model
            else tuple(name for name, child in outside.items() if _scores(child, labels, embeddings))
        )
    if base is model:
        if type(model).__name__ not in _task_classes():
            return ()
        towers = _towers(outside)
        outside = {name: child for name, child in outside.items() if name not in towers}
    own = any(p is not None for p in model._parameters.values())
    return (("",) if own else ()) + tuple(outside)


def input_embeddings(model: nn.Module) -> nn.Module | None:
    """Return what the model says turns its tokens into features; None if it says nothing, as models of images do."""
    return _told(model, "get_input_embeddings")


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """Return what the model says makes logits of its last features; None if it says nothing."""
    return _told(model, "get_output_embeddings")


def _told(model: nn.Module, getter: str) -> nn.Module | None:
    try:
        return getattr(model, getter)() if hasattr(model, getter) else None
    except (NotImplementedError, AttributeError):  # two towers of equal rank, such as CLIP's, or no tokens at all
        return None


def _scores(child: nn.Module, labels: int | None, embeddings: nn.Module) -> bool:
    """Tell whether a module beside a language model's head gives a number for each label, as a second head does."""
    linears = [m for _, m in base_modules(child) if isinstance(m, nn.Linear)]
    inside = any(m is embeddings for _, m in base_modules(child))
    return bool(linears) and not inside and linears[-1].out_features == labels


def _towers(children: dict[str, nn.Module]) -> set[str]:
    """Return the pretrained models among the children; the largest child and all before it if there is none."""
    from transformers import PreTrainedModel  # takes seconds, and help is shown without a model

    found = {name for name, child in children.items() if isinstance(child, PreTrainedModel)}
    if found or not children:
        return found
    names = list(children)
    largest = max(names, key=lambda name: parameter_count(children[name]))
    return set(names[: names.index(largest) + 1])


def _task_classes() -> frozenset[str]:
    return frozenset().union(*map(classes_for, _TASKS))
