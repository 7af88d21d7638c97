"""Buffers that a forward pass moves: the base's keep their bits, and what is trained whole has its own."""

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import inlay
from inlay.errors import AdapterStateError, CheckpointError, TargetError

from ..edited import unseal

X = 2 * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 1


def convnet(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    head = nn.Linear(8 * 36, 2)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), head).to(dtype).eval()


def train(model: nn.Module, adapter: inlay.Adapter, x: Tensor = X, steps: int = 5) -> None:
    model.train()
    optimizer = torch.optim.Adam(adapter.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if ".adapters." not in name}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_frozen_batch_norm_uses_its_own_statistics_in_training() -> None:
    model, plain = convnet(), convnet()
    before = buffers(model)
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0", "4")))
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_(std=0.1)
    model.train()
    y = model(X)
    assert model[1].training
    plain[0].weight.data += (
        2 * 8 * (adapter.deltas["0"].lora_B.flatten(1) @ adapter.deltas["0"].lora_A.flatten(1)).view(8, 3, 3, 3)
    )
    plain[4].weight.data += 2 * 8 * adapter.deltas["4"].lora_B @ adapter.deltas["4"].lora_A
    torch.testing.assert_close(y, plain(X))  # the plain one is in evaluation
    train(model, adapter)
    assert equal(buffers(model), before)
    adapter.detach()
    torch.testing.assert_close(model(X), convnet()(X), atol=0, rtol=0)
    model.train()(X)
    assert not equal(buffers(model), before)  # without adapters it is an ordinary model again


def test_a_batch_norm_that_is_trained_whole_moves_its_own_statistics(tmp_path: Path) -> None:
    model, plain = convnet(), convnet().train()
    base, before = model(X), buffers(model)
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "4"))
    for p in adapter.parameters():
        p.requires_grad_(not p.shape[0] == 2 and p.shape[0] == 8 and p.ndim == 1 or p.shape in ((2, 288), (2,)))
    plain[0].requires_grad_(False)
    for net, params in ((model.train(), adapter.parameters()), (plain, plain.parameters())):
        optimizer = torch.optim.SGD([p for p in params if p.requires_grad], 1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            net(X).square().mean().backward()
            optimizer.step()
    model.eval(), plain.eval()
    tuned = model(X)
    torch.testing.assert_close(tuned, plain(X))
    own = adapter.state_dict()
    for name, value in plain[1].state_dict().items():
        torch.testing.assert_close(own[f"1.{name}"], value)
    assert equal(buffers(model), before)
    with inlay.using(model):
        assert torch.equal(model(X), base)

    adapter.save(tmp_path)
    again = convnet()
    inlay.load(again, tmp_path)
    torch.testing.assert_close(again(X), tuned, atol=0, rtol=0)

    with pytest.raises(TargetError):
        inlay.attach(convnet(), inlay.LoRA(rank=2, targets=("1",)))
    merged = convnet()
    whole = inlay.attach(merged, inlay.Pattern(include=(r"[14]\..*",)))
    train(merged, whole)
    expected = merged(X)
    whole.merge()
    torch.testing.assert_close(merged(X), expected)
    assert not equal(buffers(merged), before)
    whole.unmerge()
    assert equal(buffers(merged), before)
    whole.detach()
    assert torch.equal(merged(X), base)


@pytest.mark.parametrize(
    "method", [inlay.NormTuning(), inlay.Pattern(include=(r"1\..*",)), inlay.Full()], ids=lambda m: m.name
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_methods_that_train_a_batch_norm_whole_save_its_statistics(
    method: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = convnet(dtype)
    before, x = buffers(model), X.to(dtype)
    adapter = inlay.attach(model, method)
    train(model, adapter, x)
    tuned = model(x)
    adapter.save(tmp_path)
    assert equal(buffers(model), before) == adapter.removable
    again = convnet(dtype)
    inlay.load(again, tmp_path)
    torch.testing.assert_close(again(x), tuned, atol=0, rtol=0)
    moved = next(t for name, t in adapter.state_dict().items() if name.endswith("running_mean"))
    assert (moved - before["1.running_mean"]).abs().max() > 0.1


def test_a_file_without_statistics_is_read_with_those_of_the_base(tmp_path: Path) -> None:
    model = convnet()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "4"))
    adapter.save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    unseal(path.parent)
    save_file({k: t for k, t in tensors.items() if "running" not in k and "batches" not in k}, path)
    inlay.load(again := convnet(), tmp_path)
    assert torch.equal(again(X), model(X))
    save_file({k: t for k, t in tensors.items() if "running_var" not in k}, path)
    with pytest.raises(CheckpointError, match="running_var is missing"):
        inlay.load(convnet(), tmp_path)


@pytest.mark.parametrize("of_peft", [True, False], ids=["read", "written"])
def test_modules_to_save_with_buffers_both_ways(of_peft: bool, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["1", "4"])
    if of_peft:
        model: Any = peft.get_peft_model(convnet(), config)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2)
        for _ in range(3):
            model(X).square().mean().backward()
            optimizer.step()
        model.eval().save_pretrained(tmp_path)
        inlay.load(again := convnet(), tmp_path)
    else:
        model = convnet()
        train(model, adapter := inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "4")))
        adapter.save(tmp_path)
        again = peft.PeftModel.from_pretrained(convnet(), tmp_path).eval()
    torch.testing.assert_close(again(X), model(X))


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_norm_tuning_of_a_batch_norm_is_read_by_peft(tmp_path: Path) -> None:
    model = convnet()
    train(model, adapter := inlay.attach(model, inlay.NormTuning()))
    adapter.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == ["1"]
    torch.testing.assert_close(peft.PeftModel.from_pretrained(convnet(), tmp_path).eval()(X), model(X))


class Codebook(nn.Module):
    """An average that its own forward moves by putting another tensor in its place, and a count in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
            self.count += 1
        self.seen += 1
        return x + self.average


class Meddling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        self[1].average.add_(1)
        return super().forward(x)


def moving(kind: str) -> nn.Module:
    torch.manual_seed(0)
    middle: nn.Module = {
        "codebook": Codebook,
        "batch norm 1d": lambda: nn.BatchNorm1d(4),
        "synchronized": lambda: nn.SyncBatchNorm(4),
        "without weight": lambda: nn.BatchNorm1d(4, affine=False),
        "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        "old spectral": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
        "instance norm": lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
        ),
    }[kind]()
    return nn.Sequential(nn.Linear(5, 4), middle, nn.Linear(4, 2)).eval()


KINDS = ["codebook", "batch norm 1d", "synchronized", "without weight", "spectral", "old spectral", "instance norm"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_moves_a_buffer_leaves_the_bases_as_it_is(kind: str, tmp_path: Path) -> None:
    model, x = moving(kind), torch.randn(6, 5)
    base, before = model(x), buffers(model)
    seen = model[1].seen.clone() if kind == "codebook" else None
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)))
    train(model, adapter, x)
    state = buffers(model)
    if seen is not None:
        assert state.pop("1.seen") > before.pop("1.seen")  # a cache, which is no part of the model
    assert equal(state, before)
    adapter.save(tmp_path)
    inlay.load(again := moving(kind), tmp_path)
    torch.testing.assert_close(again(x), model(x), atol=0, rtol=0)
    adapter.detach()
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "old spectral"])
def test_whatever_moves_a_buffer_is_kept_by_an_adapter_that_trains_it(kind: str, tmp_path: Path) -> None:
    model, x = moving(kind), torch.randn(6, 5)
    plain = copy.deepcopy(model).train()
    base, before = model(x), buffers(model)
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "2"))
    model.train()
    for _ in range(3):
        torch.testing.assert_close(model(x), plain(x))
    model.eval(), plain.eval()
    tuned = model(x)
    torch.testing.assert_close(tuned, plain(x))
    before.pop("1.seen", None)
    assert equal({k: v for k, v in buffers(model).items() if k != "1.seen"}, before)
    adapter.save(tmp_path)
    inlay.load(again := moving(kind), tmp_path)
    torch.testing.assert_close(again(x), tuned, atol=0, rtol=0)
    adapter.detach()
    assert torch.equal(model(x), base)


def test_old_weight_and_spectral_norm_cannot_be_trained_whole() -> None:
    model = moving("old spectral")
    with pytest.raises(TargetError, match="computes its weight before each call"):
        inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1",))


def test_a_buffer_that_another_module_writes_is_told() -> None:
    model = Meddling(nn.Linear(5, 4), Codebook(), nn.Linear(4, 2))
    inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)))
    with pytest.raises(AdapterStateError, match="1.average"):
        model(torch.randn(6, 5))


def test_with_checkpointing_statistics_move_once_as_they_would_alone() -> None:
    from torch.utils.checkpoint import checkpoint

    model = convnet().train()
    inlay.attach(model, inlay.LoRA(rank=2, targets=("4",)))
    before = buffers(model)
    checkpoint(model, X, use_reentrant=False).sum().backward()
    assert equal(buffers(model), before)


@pytest.mark.slow
def test_compiled_they_are_kept_too() -> None:
    model = convnet()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("4",))
    before = buffers(model)
    model.train()
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(X)
    torch.testing.assert_close(y, model(X))
    assert equal(buffers(model), before)
    adapter.detach()
    inlay.attach(model, inlay.LoRA(rank=2, targets=("0",)), heads=("1", "4"))
    twin = copy.deepcopy(model)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(X), twin(X))
    assert equal(buffers(model), before)
