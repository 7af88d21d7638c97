"""What a prompt or prefix was computed from is kept beside it: training goes on from a file as if never stopped."""

from pathlib import Path
from typing import Any

import torch

import inlay
from inlay.formats import peft as format_

from ..shapes import Shape, logits


def check_training_goes_on(model: Any, adapter: inlay.Adapter, plain: inlay.Method, shape: Shape, folder: Path) -> None:
    """Loaded from `folder`, parameters and gradients are the same; without the source the result is `plain`'s."""
    again = shape.model()
    loaded = inlay.load(again, folder)
    assert loaded.method == adapter.method
    for m in (model, again):
        logits(m, shape).square().mean().backward()
    for p, q in zip(adapter.parameters(), loaded.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)

    (folder / format_.SOURCES).unlink()
    alone = shape.model()
    assert inlay.load(alone, folder).method == plain
    torch.testing.assert_close(logits(alone, shape), logits(model, shape), atol=1e-5, rtol=1e-5)
