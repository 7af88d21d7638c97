"""Run by test_sharing.py, once for each process: what is trained beside a base that processes share out is what one
process trains.
"""

import filecmp
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import inlay
from inlay import processes
from inlay.bases.arrival import Arrival
from inlay.bases.base import find_base
from inlay.bases.loading import load_onto
from inlay.bases.quantized import quantize
from inlay.bases.shares import Sharing
from inlay.batches.chunked_loss import causal_loss, trained_tokens
from inlay.methods.full import Full
from inlay.models import recompute
from inlay.models.fingerprint import fingerprint
from inlay.models.sharded import whole
from inlay.models.sharding import attaching, held_bytes, mesh_of, share_out
from inlay.models.sites import Sites
from tests.quantized_models import TRAIN_PACKED, WIDE
from tests.shapes import SHAPES, Shape, disturb, method

CPU = torch.device("cpu")
WITHOUT = [name for name in inlay.METHODS if name != Full.name]


def model_of(shape: Shape, packed: bool, recomputing: bool) -> Any:
    model = shape.model()
    if packed:
        quantize(model, torch.float32)
    if recomputing:
        recompute.Recomputing(recompute.chosen(Sites(model), recompute.ALL))
    return model


def attached(model: nn.Module, name: str, shape: Shape) -> inlay.Adapter:
    torch.manual_seed(0)
    with attaching(model):
        adapter = inlay.attach(model, method(name, shape))
    disturb(adapter)
    return adapter


def batch_of(shape: Shape) -> dict[str, Tensor]:
    batch = shape.inputs()
    batch["labels"] = batch["input_ids"].clone() if shape.generates else torch.arange(len(batch["input_ids"])) % 3
    if shape.generates:
        batch["labels"][0, 2:] = -100
    return batch


def loss_of(model: Any, shape: Shape, batch: dict[str, Tensor], rows: slice) -> Tensor:
    part = {key: t[rows] for key, t in batch.items()}
    if shape.generates:
        part.pop("decoder_input_ids", None)
        return causal_loss(model, part, trained_tokens(batch))
    labels = part.pop("labels")
    return nn.functional.cross_entropy(model(**part).logits, labels, reduction="sum") / len(batch["labels"])


def step(adapter: inlay.Adapter, loss: Tensor) -> None:
    loss.backward()
    if (penalty := adapter.method.penalty(adapter)) is not None:
        penalty.backward()
    with torch.no_grad():
        for p in adapter.parameters():
            assert p.grad is not None
            p -= 0.1 * p.grad
    adapter.method.after_step(adapter, 1, 10)
    for p in adapter.parameters():
        p.grad = None


def check(shape: Shape, name: str, folder: Path, *, packed: bool = False, recomputing: bool = False) -> float:
    """Returns the share of the base that this process holds."""
    plain, model = model_of(shape, packed, False), model_of(shape, packed, recomputing)
    complete = held_bytes(plain)
    share_out(Sites(model), mesh_of(CPU), {})
    batch, number = batch_of(shape), processes.number()
    with torch.inference_mode():  # the base, before anything is attached
        alone, shared = (loss_of(m, shape, batch, slice(None)) for m in (plain, model))
        assert torch.equal(alone, shared)
    expected, adapter = attached(plain, name, shape), attached(model, name, shape)
    assert expected.base_fingerprint == adapter.base_fingerprint
    assert expected.base_rows == adapter.base_rows
    for (own, p), (other, q) in zip(adapter.named_parameters(), expected.named_parameters(), strict=True):
        assert own == other
        assert torch.equal(p, q), own
        assert type(p) is nn.Parameter, own
    loss_of(plain, shape, batch, slice(None)).backward()
    loss_of(model, shape, batch, slice(number, None, processes.count())).backward()
    largest = max(float(q.grad.abs().max()) for q in expected.parameters() if q.grad is not None)
    for (own, p), q in zip(adapter.named_parameters(), expected.parameters(), strict=True):
        assert p.grad is not None, own
        assert q.grad is not None, own
        dist.all_reduce(p.grad)
        assert float((p.grad - q.grad).abs().max()) <= 1e-6 * max(1.0, largest), own
        p.grad = q.grad = None
    assert all(p.grad is None for p in model.parameters() if not any(p is each for each in adapter.parameters()))
    for one in (expected, adapter):
        step(one, loss_of(one.model, shape, batch, slice(None)))
        one.save(folder / f"{number}-{one is adapter}")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert filecmp.cmp(*(folder / f"{number}-{one}" / file for one in (True, False)), shallow=False), file
    with torch.inference_mode():
        alone, shared = (loss_of(m, shape, batch, slice(None)) for m in (plain, model))
        assert torch.equal(alone, shared)
    loss_of(model, shape, batch, slice(None)).backward()  # after which nothing stays gathered
    return held_bytes(model) / complete


def check_loading(shape: Shape, folder: Path, packed: bool) -> None:
    """What is loaded as parts is the base, and there was never more of it than these, but for one weight at a time."""
    processes.from_first(lambda: shape.model(torch.bfloat16).save_pretrained(folder))
    base, alive, own = find_base(str(folder)), [0], Sharing.take

    def counted(sharing: Sharing, arrival: Arrival) -> nn.Parameter:
        taken = own(sharing, arrival)
        there = [p for p in arrival.model.parameters() if not p.is_meta]
        alive.append(sum(t.numel() * t.element_size() for t in (*there, *sharing.parts.values())))
        return taken

    def read(take: Any) -> tuple[nn.Module, tuple[str, ...]]:
        model, found = base.load(shape.model_class, None, take, dtype=torch.float32)
        return model, found.heads

    packed_for = torch.float32 if packed else None
    plain = load_onto(CPU, read, 0, packed_for)
    Sharing.take = counted  # pyright: ignore
    try:
        shared = load_onto(CPU, read, 0, packed_for, shard=True)
    finally:
        Sharing.take = own  # pyright: ignore
    model, sites = plain.model, Sites(plain.model)
    inside = [p for block in sites.blocks.values() for p in block.parameters() if p.ndim > 1]
    matrices = sum(p.numel() * p.element_size() for p in inside)
    others = sum(p.numel() * p.element_size() for p in model.parameters()) - matrices
    assert max(alive) < others + 1.1 * matrices / processes.count()
    assert shared.total_parameters == plain.total_parameters
    assert fingerprint(Sites(shared.model)) == fingerprint(sites)
    batch = batch_of(shape)
    with torch.no_grad():
        assert torch.equal(*(loss_of(m, shape, batch, slice(None)) for m in (plain.model, shared.model)))


def check_other_units(shape: Shape, settings: Any, with_norm: bool) -> None:
    """Where a user has shared out model and adapter, with the head in a unit of its own, as accelerate has it."""
    found = []
    for shard in (False, True):
        model: Any = shape.model()
        torch.manual_seed(0)
        adapter = inlay.attach(model, settings)
        disturb(adapter)
        if shard:
            for block in model.model.layers:
                fully_shard(block)
            fully_shard([model.model.norm, model.lm_head] if with_norm else model.lm_head)
            fully_shard(model)
        for _ in range(2):  # anew, with nothing from before
            adapter.model.zero_grad()
            loss_of(model, shape, batch_of(shape), slice(None)).backward()
        found.append({name: whole(p.grad) for name, p in adapter.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)


def main(what: str, folder: Path) -> None:
    shapes = [SHAPES[name] for name in ("llama", "gpt2", "bert")]  # gpt2's head is its embedding
    names = {"methods": WITHOUT, "some": ("dora", "prefix"), "recompute": ("lora", "dora")}.get(what, ())
    most = 0.35 if processes.count() == 4 and processes.local_count() == 4 else 0.55
    for shape in shapes:
        for name in names:
            share = check(shape, name, folder, recomputing=what == "recompute")
            assert share <= most, (shape.name, name, share)
    for name in names:
        if name not in TRAIN_PACKED:
            check(WIDE["llama"], name, folder, packed=True, recomputing=what == "recompute")
    if what == "units":
        for with_norm in (False, True):
            for settings in (inlay.LoRA(targets=("q_proj", "lm_head")), Full()):
                check_other_units(SHAPES["llama"], settings, with_norm)
    if what == "loading":
        for shape in (WIDE["llama"], WIDE["gpt2"]):
            for packed in (False, True):
                check_loading(shape, folder.parent / f"{shape.name}-{packed}", packed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        for what in sys.argv[2:]:
            main(what, Path(sys.argv[1]) / os.environ["RANK"])
            print("right:", what, flush=True)
