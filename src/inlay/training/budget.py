"""A budget of forgetting: the step and the scale of a training that stay inside it, and score best on valid.

A step is inside if the upper end of its 95 % interval is, on half of the measured passages; what it comes to on the
other half, which checks, is what the run has forgotten. Each evaluated step is measured if its score may be
kept. After the training the best step is tried at smaller scales as well,

    parameters = start + scale (trained - start)        those of a new head as they are

as WiSE-FT does with a whole model (https://arxiv.org/abs/2109.01903): at its start an adapter changes nothing. A soft
prompt does, so that only its step is chosen. Among equal scores the lower loss decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import SettingsError, TrainingFailed
from ..forgetting.baseline import Baseline
from ..models.sites import Sites
from ..show.budget import UNITS, Chosen, Tried, value_text
from ..show.forgetting import GeometryChange, LossChange
from ..show.units import percent_text
from ..tasks.metric import Scores, better_than
from .guard import Safe
from .loop import Training
from .progress import Progress

SCALES = tuple(eighths / 8 for eighths in range(8, 0, -1))
EVERY_TOKEN = 2**62  # of the passages, whatever the run can afford: they were asked for


def check_bound(most: float, measure: Literal["loss", "geometry"]) -> None:
    """Raise SettingsError for a bound that keeps nothing back."""
    if measure == "geometry" and most >= 1:
        raise SettingsError(
            f"forget_at_most is {most:g}, and a classifier's forgetting, 1 - CKA, is 1 where nothing is left of the "
            "base; give a number between 0 and 1"
        )


class ForgettingBudget:
    """Most that a model may forget, and the passages that decide whether it does."""

    def __init__(self, most: float, deciding: Baseline, seconds: float = 0.0):
        self.most, self.deciding, self.seconds = most, deciding, seconds

    def planned_seconds(self, evaluations: int, evaluation_seconds: float) -> float:
        """Estimate what it adds to a training, at most, if measuring takes as long as it did with the base."""
        return (evaluations + len(SCALES)) * self.seconds + len(SCALES) * evaluation_seconds

    def spent(self, model: nn.Module) -> LossChange | GeometryChange:
        return self.deciding.compare(model)

    def allows(self, found: LossChange | GeometryChange) -> bool:
        return found["interval"][1] <= self.most

    def choose(self, training: Training, score: Callable[[], Scores], by: str) -> Chosen:
        """Put the training at the step and the scale that stay inside and score best by a metric. Raises TrainingFailed
        if there is none."""
        tried, best, best_scores, found = list[Tried](), None, None, None
        for step, scale in _candidates(training):
            training.put(_parameters(training, step, scale))
            found = self.spent(training.adapter.model)
            scores = score() if self.allows(found) else None
            each: Tried = {
                "step": step,
                "scale": scale,
                "value": found["value"],
                "interval": list(found["interval"]),
                "score": scores[by] if scores is not None else None,
            }
            tried.append(each)
            # All of these may be kept: what they forget is what was allowed. So among equals the lower loss decides, as
            # between any two steps, and not who forgot less: on few rows scores are often equal, and the adapter that
            # was scaled down furthest has learned least. With the same loss the larger scale stays, which comes first.
            if scores is not None and better_than(scores, best_scores, by):
                best, best_scores = each, scores
        assert found is not None
        if best is None:
            raise TrainingFailed(_too_much(self.most, UNITS[found["measure"]], tried))
        # Made once more and not kept from above, as for full fine-tuning it is another copy of the model.
        training.put(_parameters(training, best["step"], best["scale"]))
        return {
            **best,
            "most": self.most,
            "measure": found["measure"],
            "passages": found["passages"],
            "tried": tried,
            "checked": None,
        }


def _too_much(most: float, unit: str, tried: Sequence[Tried]) -> str:
    least = min(tried, key=lambda each: each["interval"][1])
    return (
        f"nothing stays inside --forget-at-most {most:g} {unit}: step {least['step']} with "
        f"{percent_text(least['scale'])} of its change forgets least, {value_text(least)}; allow more, or try a lower "
        "--learning-rate, fewer --epochs or a --retain-weight"
    )


def _candidates(training: Training) -> Iterator[tuple[int, float]]:
    """Yield the best step at each scale, the largest first, and the best one that was inside as it is."""
    done = training.progress
    for scale in SCALES if _can_be_scaled(training, done) else SCALES[:1]:
        yield done.best_step, scale
    if done.inside is not None and done.inside.step != done.best_step:
        yield done.inside.step, 1.0


def _parameters(training: Training, step: int, scale: float) -> Mapping[str, Tensor]:
    """Return those of a candidate."""
    done = training.progress
    if step != done.best_step:
        assert done.inside is not None
        return done.inside.parameters
    return _scaled(training, done, scale)


def _can_be_scaled(training: Training, done: Progress) -> bool:
    """Tell whether the adapter changes nothing at its start, which is still there and is not the best step itself."""
    return training.adapter.method.virtual_tokens == 0 and done.start is not None and done.best_step > 0


def _scaled(training: Training, done: Progress, scale: float) -> Mapping[str, Tensor]:
    if scale == 1:
        return done.best_state
    start: Safe | None = done.start
    assert start is not None
    adapter = training.adapter
    sites = Sites(adapter.model, adapter.heads)
    return {
        name: p if sites.in_head(name) else torch.lerp(start.parameters[name], p, scale)
        for name, p in done.best_state.items()
    }
