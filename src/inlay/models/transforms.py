"""Whether torch.func (grad, vmap, jacrev, ...) or forward-mode differentiation is at work on a forward pass.

Then tensors stand for other ones: they have no memory to look at, values cannot decide anything, and operators of our
own are not known.
"""

import torch
from torch.autograd import forward_ad


def at_work() -> bool:
    """Tell whether one is, on a pass that is not compiled."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
