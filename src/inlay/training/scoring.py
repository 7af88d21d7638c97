"""A run's model scored on a split, and what is said where that fails."""

import math
import shlex

from torch import nn

from ..errors import ProcessLost, TrainingFailed
from ..tasks.evaluation import Evaluation
from .journal import Journal
from .prepared import Prepared


def evaluated(run: Prepared, model: nn.Module, split: str, when: str = "after the training") -> Evaluation:
    """Score the model. Raises TrainingFailed if its loss is not finite."""
    found = run.task.evaluate(model, split)
    if not math.isfinite(found.scores["loss"]):
        raise TrainingFailed(
            f"the loss on {split} is {found.scores['loss']} {when}; try --dtype float32, and look at the rows with: "
            f"inlay data {shlex.quote(run.settings.data.path)}"
        )
    return found


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
