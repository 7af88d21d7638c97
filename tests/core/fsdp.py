"""Run by test_sharded.py under torchrun: an adapter that FSDP2 shares out is trained, saved, loaded and kept."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import inlay
from inlay.errors import AdapterStateError
from tests.shapes import SHAPES, logits, method

SHAPE = SHAPES["llama"]


def trained(name: str, shard: bool) -> tuple[Any, inlay.Adapter]:
    model = SHAPE.model()
    torch.manual_seed(0)
    adapter = inlay.attach(model, method(name, SHAPE))
    if shard:
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.SGD(adapter.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits(model, SHAPE).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
    return model, adapter


def check(name: str, folder: Path) -> None:
    plain, expected = trained(name, shard=False)
    model, adapter = trained(name, shard=True)
    state = {key: t.clone() for key, t in adapter.state_dict().items()}  # whole, on every process
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, SHAPE), logits(plain, SHAPE))
    adapter.save(folder / name)  # the files are there when any process goes on
    inlay.load(again := SHAPE.model(), folder / name)
    with torch.no_grad():
        torch.testing.assert_close(logits(again, SHAPE), logits(plain, SHAPE))
    adapter.load_state_dict({key: torch.zeros_like(t) for key, t in state.items()})
    assert not any(t.any() for t in adapter.state_dict().values() if t.is_floating_point())
    adapter.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, SHAPE), logits(plain, SHAPE))
    for refused in (adapter.merge, lambda: inlay.attach(model, inlay.LoRA(), "second")):
        try:
            refused()
        except AdapterStateError:
            continue
        raise AssertionError("not refused")


dist.init_process_group("gloo")
for name in sys.argv[2:]:
    check(name, Path(sys.argv[1]))
    print("right:", name, flush=True)
dist.destroy_process_group()
