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

import inlay
from inlay import processes
from inlay.bases.quantized import quantize
from inlay.batches.chunked_loss import causal_loss, trained_tokens
from inlay.methods.full import Full
from inlay.models import recompute
from inlay.models.sharding import attaching, held_bytes, mesh_of, share_out
from inlay.models.sites import Sites
from tests.quantized_models import TRAIN_PACKED, WIDE
from tests.shapes import SHAPES, Shape, disturb, method

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
    whole = held_bytes(plain)
    share_out(Sites(model), mesh_of(torch.device("cpu")), {})
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
    return held_bytes(model) / whole


def main(what: str, folder: Path) -> None:
    shapes = [SHAPES[name] for name in ("llama", "gpt2", "bert")]  # gpt2's head is its embedding
    for shape in shapes:
        for name in WITHOUT if what == "methods" else ("lora", "dora"):
            share = check(shape, name, folder, recomputing=what == "recompute")
            assert share <= (0.55 if processes.count() == 2 else 0.35), (shape.name, name, share)
            print("right:", what, shape.name, name, round(share, 3), flush=True)
    for name in [each for each in WITHOUT if each not in TRAIN_PACKED] if what == "methods" else ("lora", "dora"):
        share = check(WIDE["llama"], name, folder, packed=True, recomputing=what == "recompute")
        assert share <= (0.55 if processes.count() == 2 else 0.35), (name, share)
        print("right:", what, "nf4", name, round(share, 3), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        main(sys.argv[1], Path(sys.argv[2]) / os.environ["RANK"])
