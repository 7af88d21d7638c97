"""What a run will take, said before its first step: from the base's evaluation, which has just been timed.

Time: a training step costs its forward pass and about as much again for the gradient of the activations, and once more
where weights have gradients. Memory: what is in use now, the gradient and the optimizer's two numbers for each trained
one, and the activations that the backward pass needs, about 34 bytes in 16 bits per token, layer and unit of width
(https://arxiv.org/abs/2205.05198), without the attention scores, which fused attention does not keep.
"""

from dataclasses import dataclass
from typing import Any

from .loop import Plan

_ACTIVATIONS_PER_UNIT = 17
_BACKWARD_OF_ACTIVATIONS, _BACKWARD_OF_WEIGHTS = 1.0, 1.0


@dataclass(frozen=True)
class Estimate:
    seconds: float  # of training, with its evaluations
    memory_bytes: int


def estimate(
    plan: Plan,
    *,
    train_tokens: int,
    evaluation_tokens: int,
    evaluation_seconds: float,
    trained_share: float,
    trained_parameters: int,
    longest_batch_tokens: int,
    config: Any,
    bytes_per_value: int,
    memory_now: int,
) -> Estimate:
    """`train_tokens` are those of one epoch; `trained_share` is the share of the parameters that have gradients."""
    forward_seconds = evaluation_seconds / max(1, evaluation_tokens)
    step_cost = 1 + _BACKWARD_OF_ACTIVATIONS + _BACKWARD_OF_WEIGHTS * trained_share
    training = plan.epochs * train_tokens * forward_seconds * step_cost
    evaluations = len(plan.evaluate_after) * evaluation_seconds
    activations = longest_batch_tokens * config.num_hidden_layers * config.hidden_size * _ACTIVATIONS_PER_UNIT
    return Estimate(training + evaluations, memory_now + 12 * trained_parameters + activations * bytes_per_value)
