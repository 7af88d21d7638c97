"""LoRA at hosts that are no nn.Linear: transposed, embeddings, convolutions, packed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import inlay
from inlay.errors import AdapterStateError, TargetError
from inlay.models import weights

from ..shapes import SHAPES, disturb, logits
from .test_lora import close, double, one


def test_conv1d_computes_the_same_as_the_linear_layer_with_its_transpose() -> None:
    host, linear = Conv1D(5, 7), nn.Linear(7, 5)
    linear.weight.data, linear.bias.data = host.weight.data.T.clone(), host.bias.data.clone()
    models = []
    for each in (host, linear):
        model, adapter, _ = one(each, rank=2)
        disturb(adapter)
        models.append((model, adapter))
    x = torch.randn(2, 3, 7)
    models[1][1].load_state_dict(models[0][1].state_dict())
    y = models[1][0](x)
    close(models[0][0](x), y, 1e-6)
    for _, adapter in models:
        adapter.merge()
    close(host.weight.T, linear.weight, 1e-6)
    close(models[0][0](x), y, 1e-6)


def folded(model: nn.Module, adapter: inlay.Adapter) -> dict[str, Tensor]:
    _, host, delta = next(adapter.hosts())
    return {f"0.{name}": p for name, p in delta.fold(weights.read(host, delta.folds)).items()}


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_an_embedding_looks_up_the_folded_rows(padding_idx: int | None) -> None:
    host = nn.Embedding(11, 6, padding_idx=padding_idx).double()
    model, adapter, delta = one(host, rank=3, alpha=5)
    double(adapter)
    disturb(adapter)
    ids_BT = torch.randint(0, 11, (2, 4))
    y = model(ids_BT)
    table = host.weight + 5 / 3 * (delta.lora_embedding_B @ delta.lora_embedding_A).T
    close(y, table[ids_BT])
    target = torch.randn_like(y)
    own = torch.autograd.grad((y * target).sum(), list(adapter.parameters()))
    theirs = torch.autograd.grad((table[ids_BT] * target).sum(), list(adapter.parameters()))
    for a, b in zip(own, theirs, strict=True):
        close(a, b)
    adapter.merge()
    close(model(ids_BT), y)


class Scaled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 5.5


def test_an_embedding_that_scales_what_it_looks_up_scales_the_change_too() -> None:
    model, adapter, delta = one(Scaled(11, 6).double(), rank=3)
    double(adapter)
    disturb(adapter)
    ids_BT = torch.randint(0, 11, (2, 4))
    y = model(ids_BT)
    close(y, 5.5 * F.embedding(ids_BT, folded(model, adapter)["0.weight"]))
    y.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())
    adapter.merge()
    close(model(ids_BT), y)
    assert "weight" not in model[0].__dict__


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "bias": False},
    {"stride": 2, "padding": 2, "dilation": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect", "stride": 2},
    {"padding": 1, "padding_mode": "replicate", "dilation": 2},
]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_a_convolution_equals_the_one_with_the_folded_weight(dimensions: int, settings: Any) -> None:
    if dimensions == 3 and settings.get("padding_mode") == "reflect" and not hasattr(F, "reflection_pad3d"):
        settings = settings | {"padding_mode": "replicate"}
    host = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dimensions - 1](3, 4, 3, **settings).double()
    model, adapter, delta = one(host, rank=2, alpha=3)
    double(adapter)
    disturb(adapter, 0.3)
    x = torch.randn(2, 3, *[7] * dimensions, dtype=torch.float64, requires_grad=True)
    y = model(x)
    with torch.no_grad():
        change = folded(model, adapter)["0.weight"] - host.weight
    close(change, 1.5 * torch.einsum("or,ri...->oi...", delta.lora_B.flatten(1), delta.lora_A))
    with inlay.using(model):
        expected = functional_call(model, folded(model, adapter), (x,))
        assert not torch.allclose(model(x), y, atol=1e-3)
    close(y, expected)
    target = torch.randn_like(y)
    inputs = [x, *adapter.parameters()]
    own = torch.autograd.grad((y * target).sum(), inputs)
    for a, b in zip(own, torch.autograd.grad((expected * target).sum(), inputs), strict=True):
        close(a, b)
    adapter.merge()
    close(model(x), y)
    count = 2 * (3 * 3**dimensions + 4)
    assert sum(p.numel() for p in adapter.parameters()) == count


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_grouped_convolution_is_refused(kind: Any) -> None:
    with pytest.raises(TargetError, match=rf"matches only {kind.__name__}, which this method cannot adapt"):
        one(kind(4, 4, 3, groups=2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["embedding", "conv1d", "conv2d", "conv3d", "linear", "transposed"])
def test_other_hosts_compute_what_they_compute_in_peft(kind: str, tmp_path: Any) -> None:
    peft = pytest.importorskip("peft")

    def build() -> nn.Module:
        torch.manual_seed(0)
        host = {
            "embedding": lambda: nn.Embedding(11, 6),
            "conv1d": lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1),
            "conv2d": lambda: nn.Conv2d(3, 4, (3, 2), stride=2, padding=1),
            "conv3d": lambda: nn.Conv3d(3, 4, 2, padding=1),
            "linear": lambda: nn.Linear(3, 4),
            "transposed": lambda: Conv1D(4, 3),
        }[kind]()
        return nn.ModuleDict({"host": host})

    if kind == "embedding":
        x = torch.randint(0, 11, (2, 4))
    elif kind.startswith("conv"):
        x = torch.randn(2, 3, *[6] * int(kind[4]))
    else:
        x = torch.randn(2, 5, 3)
    model = build()
    adapter = inlay.attach(model, inlay.LoRA(rank=2, alpha=6, targets=("host",)))
    disturb(adapter)
    adapter.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    close(model["host"](x), theirs.base_model.model["host"](x), 1e-6)

    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["host"], init_lora_weights=False)
    theirs = peft.get_peft_model(build(), config).eval()
    theirs.save_pretrained(str(tmp_path / "peft"))
    again = build()
    inlay.load(again, tmp_path / "peft")
    close(again["host"](x), theirs.base_model.model["host"](x), 1e-6)
    theirs.merge_adapter()
    inlay.adapters(again)["default"].merge()
    close(again["host"].weight, theirs.base_model.model["host"].base_layer.weight, 1e-6)


# A packed host


class Packed(nn.Module):
    """A linear layer as quantization libraries have them: integers, a scale, and a forward."""

    def __init__(self, bias: bool, weight: str):
        super().__init__()
        self.in_features, self.out_features = 6, 4
        integers = torch.randint(-9, 9, (24,), dtype=torch.int8)
        if weight == "parameter":
            self.weight = nn.Parameter(integers, requires_grad=False)
        elif weight == "buffer":
            self.register_buffer("weight", integers)
        else:
            self.register_buffer("packed", integers)
        self.bias = nn.Parameter(torch.randn(4)) if bias else None

    def dense(self) -> Tensor:
        integers = self.weight if hasattr(self, "weight") else self.packed
        return integers.view(4, 6).float() * 0.1

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense().to(x.dtype), self.bias)


@pytest.mark.parametrize("weight", ["parameter", "buffer", "another name"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_layer_is_a_host(bias: bool, weight: str) -> None:
    host = Packed(bias, weight)
    model, adapter, delta = one(host, rank=2, alpha=4)
    disturb(adapter)
    x = torch.randn(3, 6, requires_grad=True)
    y = model(x)
    dense = host.dense() + 2 * delta.lora_B @ delta.lora_A
    close(y, F.linear(x, dense, host.bias), 1e-5)
    y.square().sum().backward()
    close(x.grad, 2 * y @ dense, 1e-4)
    assert all(p.grad.abs().max() > 0 for p in adapter.parameters())
    assert all(p.dtype == torch.float32 for p in adapter.parameters())

    close(weights.read(host)["weight"], host.dense(), 1e-6)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    reason = r"0.weight is a \w+ \(torch.int8\), which cannot hold" if weight != "another name" else "0 has no weight"
    with pytest.raises(AdapterStateError, match=reason):
        adapter.merge()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(model(x), y)


def test_an_adapter_at_a_host_of_buffers_lives_where_they_live() -> None:
    host = Packed(False, "another name").to("meta")
    _, adapter, _ = one(host, rank=2)
    assert all(p.is_meta for p in adapter.parameters())


def test_a_packed_layer_in_a_model_is_found_by_all_linear() -> None:
    model = SHAPES["llama"].model()
    packed = Packed(False, "parameter")
    packed.in_features = packed.out_features = 32
    packed.weight = nn.Parameter(torch.zeros(1024, dtype=torch.int8), requires_grad=False)
    packed.dense = lambda: packed.weight.view(32, 32).float()  # type: ignore[method-assign]
    model.model.layers[0].self_attn.q_proj = packed
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    assert "model.layers.0.self_attn.q_proj" in adapter.deltas
    disturb(adapter)
    logits(model, SHAPES["llama"]).sum().backward()
    assert adapter.deltas["model.layers.0.self_attn.q_proj"].lora_B.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["full", "bitfit"])
def test_packed_weights_cannot_be_trained_themselves(name: str) -> None:
    for weight in ("parameter", "buffer", "another name"):
        model = nn.Sequential(Packed(True, weight))
        if name == "full":
            with pytest.raises(TargetError, match="0 is quantized; full fine-tuning needs the base in 16 or 32 bits"):
                inlay.attach(model, inlay.Full())
        else:
            adapter = inlay.attach(model, inlay.BitFit())
            assert [n for n, _ in adapter.named_parameters()] == ["0.bias"]
