"""A run's model scored on a split, and what is said where that fails."""

import math
import shlex

import torch
from torch import nn

from ..cost.machine import name_of
from ..cost.record import recorded, text_seconds
from ..errors import ProcessLost, TrainingFailed
from ..show.units import counted, seconds_text
from ..tasks.evaluation import Evaluation
from .journal import Journal
from .prepared import Prepared
from .run_state import RunState


def evaluated(run: Prepared, model: nn.Module, split: str, when: str = "after the training") -> Evaluation:
    """Score the model. Raises TrainingFailed if its loss is not finite."""
    found = run.task.evaluate(model, split)
    if not math.isfinite(found.scores["loss"]):
        raise TrainingFailed(
            f"the loss on {split} is {found.scores['loss']} {when}; try --dtype float32, and look at the rows with: "
            f"inlay data {shlex.quote(run.settings.data.path)}"
        )
    return found


def texts_of(run: Prepared, split: str) -> int:
    """Return how many texts a model writes for the split."""
    return min(run.task.most_texts(run.settings.samples), run.task.rows.get(split, 0))


def texts_note(run: Prepared, *, again: bool) -> str | None:
    """Say which texts are written; `again`: the run goes on, and those of the base were written when it began."""
    splits = {split: count for split in ("valid", "test") if (count := texts_of(run, split))}
    if "valid" not in splits:
        return None
    after = " and ".join(f"{count:,} of {split}" for split, count in splits.items())
    base = "again with the base, as no checkpoint keeps them" if again else "with the base"
    each = text_seconds(recorded(run.device.type, name_of(run.dtype), torch.get_num_threads()), run.task.base.name)
    took = [] if each is None else [f"about {seconds_text(each * splits['valid'])} for the base, by earlier runs"]
    told = took if again else [*took, "--samples 0: none"]  # a run that goes on keeps its settings
    in_brackets = f" ({'; '.join(told)})" if told else ""
    return (
        f"{counted(splits['valid'], 'text')} of valid are written {base}, and {after} after the training with the "
        f"adapter{in_brackets}"
    )


def after_training(state: RunState) -> dict[str, object]:
    """Return what comes after the training, and how long it took of the base; it takes longer with an adapter."""
    texts, measured = sum(texts_of(state.run, split) for split in ("valid", "test")), state.measurement
    took = {"last texts": (state.text_seconds or 0.0) * texts, "forgetting": measured.seconds if measured else 0.0}
    return {"after_seconds": sum(took.values()), "after": [what for what, seconds in took.items() if seconds]}


def with_texts(run: Prepared, journal: Journal, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
    """Add the texts that the model writes. A model that cannot write some has learned nonetheless."""
    try:
        return run.task.complete(model, split, found)
    except ProcessLost:
        raise
    except Exception as problem:
        if run.shares_base:  # the others wait for this process's part of the weights, if they have not failed
            raise
        reason = " ".join(str(problem).split()) or type(problem).__name__
        text = (
            f"no texts were written for {split}, so scores and report are without them, as generating failed: {reason}"
        )
        journal.record("note", text=text)
        return found
