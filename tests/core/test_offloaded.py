"""Bases whose weights accelerate keeps elsewhere between calls: adapters are where the work is, and read the truth."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn

import inlay
from inlay.errors import AdapterStateError, TargetError
from inlay.models.fingerprint import fingerprint
from inlay.models.sites import Sites

from ..shapes import SHAPES, Shape, disturb, logits, method

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")


def in_memory(model: Any, folder: Path) -> None:
    cpu_offload(model, execution_device=CPU)


def on_disk(model: Any, folder: Path) -> None:
    disk_offload(model, str(folder / "offloaded"), execution_device=CPU)


def by_device_map(model: Any, folder: Path) -> None:
    """The first half on the disk, the rest where it is used, as `device_map` shares a model out."""
    children = {name: "cpu" for name, _ in model.named_children()}
    first = next(iter(children))
    dispatch_model(model, children | {first: "disk"}, main_device="cpu", offload_dir=str(folder / "parts"))


PLACES = (in_memory, on_disk, by_device_map)
COMMON = ("lora", "dora", "norm", "bitfit", "prompt", "prefix", "vera", "last-layers", "sparse", "p-tuning")


@pytest.mark.parametrize("offload", PLACES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in inlay.METHODS])
@pytest.mark.parametrize("shape", [SHAPES["bert"], SHAPES["llama"]], ids=lambda s: s.name)
def test_an_offloaded_base_computes_and_learns_what_it_would_in_memory(
    name: str, offload: Any, shape: Shape, tmp_path: Path
) -> None:
    plain, model = shape.model(), shape.model()
    offload(model, tmp_path)
    if name == "full":
        with pytest.raises(TargetError, match="is offloaded"):
            inlay.attach(model, method(name, shape))
        return
    results = []
    for base in (plain, model):
        torch.manual_seed(3)
        adapter = inlay.attach(base, method(name, shape))
        assert {p.device for p in adapter.parameters()} == {CPU}
        start = logits(base, shape).detach()
        disturb(adapter)
        y = logits(base, shape)
        y.square().mean().backward()
        gradients = {n: p.grad for n, p in adapter.named_parameters()}
        results.append((adapter, start, y.detach(), gradients))
    (in_place, *expected), (adapter, *found) = results
    torch.testing.assert_close(found, expected)
    assert adapter.base_fingerprint == in_place.base_fingerprint is not None
    assert adapter.base_rows == in_place.base_rows
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".adapters." not in n)
    with torch.no_grad():  # between the calls nothing but the adapter has stayed
        torch.testing.assert_close(logits(model, shape), expected[1])
    in_place.save(tmp_path / "adapter")
    other = shape.model()
    offload(other, tmp_path / "other")
    inlay.load(other, tmp_path / "adapter")
    torch.testing.assert_close(logits(other, shape).detach(), expected[1])
    with pytest.raises(AdapterStateError):
        adapter.merge()
    adapter.detach()
    torch.testing.assert_close(logits(model, shape).detach(), logits(shape.model(), shape).detach())


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal"])
def test_starts_that_read_the_weight_read_the_offloaded_one(start: Any, tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    on_disk(model, tmp_path)
    base = logits(shape.model(), shape)
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization=start))
    torch.testing.assert_close(logits(model, shape), base)
    expected = inlay.attach(shape.model(), inlay.LoRA(rank=4, initialization=start))
    if start != "orthogonal":  # which is random
        torch.testing.assert_close(adapter.state_dict(), expected.state_dict())


def test_merging_into_offloaded_weights_is_refused_before_anything_changes(tmp_path: Path) -> None:
    model = SHAPES["llama"].model()
    in_memory(model, tmp_path)
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    disturb(adapter)
    before = logits(model, SHAPES["llama"])
    with pytest.raises(AdapterStateError, match="is offloaded.*load the base where it fits"):
        adapter.merge()
    assert torch.equal(logits(model, SHAPES["llama"]), before)


@pytest.mark.parametrize("name", ["lora", "vera", "norm", "prompt"])
def test_offloading_adapters_with_the_base_is_refused(name: str) -> None:
    model = SHAPES["llama"].model()
    inlay.attach(model, method(name, SHAPES["llama"]))
    with pytest.raises(AdapterStateError, match="offload the base first, and attach or load adapters then"):
        cpu_offload(model, execution_device=CPU)


def test_another_base_is_refused_though_its_weights_are_elsewhere(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    inlay.attach(shape.model(), inlay.LoRA(rank=2)).save(tmp_path)
    other = shape.model()
    with torch.no_grad():
        other.model.norm.weight += 1
    in_memory(other, tmp_path)
    with pytest.raises(inlay.errors.CheckpointError, match="the weights differ"):
        inlay.load(other, tmp_path)


def test_a_model_without_any_values_has_none() -> None:
    with torch.device("meta"):
        model = copy.deepcopy(SHAPES["llama"]).model_class(SHAPES["llama"].config)
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    assert fingerprint(Sites(model)) is None
    assert all(p.is_meta for p in adapter.parameters())


def test_statistics_of_an_offloaded_batch_norm_are_its_own() -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    x = torch.randn(6, 5)
    everything = build()
    cpu_offload(everything, execution_device=CPU, offload_buffers=True)
    with pytest.raises(TargetError, match="running_mean of a BatchNorm1d is offloaded"):
        inlay.attach(everything, inlay.LoRA(rank=2, targets=("0",)), heads=("1",))
    model, plain = build(), build()
    cpu_offload(model, execution_device=CPU)
    for net in (model, plain):
        torch.manual_seed(1)
        inlay.attach(net, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "2"))
        net.train()
        for _ in range(3):
            net(x)
        net.eval()
    torch.testing.assert_close(model(x), plain(x))
    inlay.adapters(model)["default"].detach()
    torch.testing.assert_close(model(x), build().eval()(x))
