"""Sparse training against W + S written by hand, and the Fisher information against every row's own gradient."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.errors import DataError, SettingsError, TargetError
from inlay.methods.selective.fisher import information
from inlay.methods.selective.sparse_entries import Sparse, random_entries
from inlay.models import weights
from inlay.models.sites import Sites

from ..architectures import build, inputs
from ..shapes import LABELS, SHAPES, Shape, disturb, logits
from .one_host import close, equals_the_formula, linear, one, parameters_with_gradient
from .test_lora_hosts import Packed


def dense(delta: Any, values_K: Tensor) -> Tensor:
    s_OI = torch.zeros(delta.size, dtype=values_K.dtype)
    for (row, column), value in zip(delta.indices.T.tolist(), values_K, strict=True):
        s_OI[row, column] = value
    return s_OI


def sparse(adapter: inlay.Adapter) -> dict[str, Any]:
    return {name: delta for name, delta in adapter.deltas.items() if isinstance(delta, Sparse)}


# The formula


@pytest.mark.parametrize("kind", ["linear", "without bias", "conv1d"])
@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(7, 5, 1), (9, 12, 3), (4, 4, 2)])
def test_a_layer_computes_x_times_w_plus_s(inputs: int, outputs: int, rank: int, kind: str) -> None:
    holder: dict[str, Any] = {}

    class Seen(inlay.SparseMask):
        def place(self, sites: Sites) -> Iterator[Any]:
            for name, delta in super().place(sites):
                holder["delta"] = delta
                yield name, delta

    method = Seen(rank=rank, targets=("0",), selection="random")
    delta = equals_the_formula(
        linear(inputs, outputs, kind), method, lambda w_OI, p: w_OI + dense(holder["delta"], p["values"])
    )
    assert delta.values.shape == (rank * (inputs + outputs),)
    assert delta.indices.shape == (2, rank * (inputs + outputs))
    assert delta.indices.dtype == torch.int32


def test_it_starts_as_the_base_and_every_entry_has_a_gradient_at_the_first_step(shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    before = logits(model, shape)
    adapter = inlay.attach(model, inlay.SparseMask(), heads=())
    assert torch.equal(logits(model, shape), before)
    assert not any(p.any() for p in adapter.parameters())
    host = linear(6, 4)
    assert parameters_with_gradient(*one(host, inlay.SparseMask(rank=1, targets=("0",)))[:2], 6) == {"values"}


def test_the_count_is_that_of_lora_with_the_same_rank(shape: Shape) -> None:
    counts = []
    for method in (inlay.SparseMask(rank=3), inlay.LoRA(rank=3)):
        adapter = inlay.attach(shape.model(), method, heads=())
        counts.append(sum(p.numel() for p in adapter.parameters()))
    assert counts[0] == counts[1]


def test_the_change_of_a_weight_lies_on_the_indices_and_the_other_entries_keep_their_bits(shape: Shape) -> None:
    model = shape.model()
    base = {n: p.clone() for n, p in model.named_parameters()}
    adapter = inlay.attach(model, inlay.SparseMask(), heads=())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        logits(model, shape).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = sum(state["exp_avg"].numel() for state in optimizer.state.values())
    assert kept == sum(delta.indices.shape[1] for delta in adapter.deltas.values())
    adapter.merge()
    for name, host, delta in adapter.hosts():
        own = base[f"{name}.weight"]
        now_OI, before_OI = weights.read(host)["weight"], own.T if weights.is_flipped(host) else own
        on = torch.zeros_like(before_OI, dtype=torch.bool)
        on[tuple(delta.indices)] = True
        assert torch.equal(now_OI[~on], before_OI[~on])
        assert (now_OI != before_OI)[on].float().mean() > 0.9
        assert int(on.sum()) == len(delta.values)


def test_memory_for_the_backward_pass_is_that_of_the_entries() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    inlay.attach(model, inlay.SparseMask(rank=1, targets=("0",), selection="random"))
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(3, 64, requires_grad=True))
    assert sorted(sizes)[-2:] == [256, 64 * 64]  # the base's own weight is the only large one, and no copy
    assert sizes.count(64 * 64) == 1


def test_random_entries_are_distinct_and_anywhere() -> None:
    torch.manual_seed(0)
    for count, total in [(1, 1), (5, 5), (3, 7), (10, 1000), (0, 9)]:
        drawn = random_entries(count, total)
        assert len(drawn.unique()) == len(drawn) == count
        assert all(0 <= i < total for i in drawn.tolist())
    times = torch.stack([torch.bincount(random_entries(3, 12), minlength=12) for _ in range(4000)]).sum(0)
    assert times.min() > 850  # of 1000 expected
    assert times.max() < 1150
    first, second = (inlay.attach(nn.Sequential(nn.Linear(20, 20)), inlay.SparseMask()).deltas["0"] for _ in "ab")
    assert not torch.equal(first.indices, second.indices)


def test_a_packed_layer_is_a_host() -> None:
    packed = Packed(False, "buffer") if hasattr(Packed(False, "buffer"), "packed") else Packed(False, "parameter")
    width = packed.in_features
    model = nn.ModuleDict({"a": packed})
    model.forward = lambda x: model["a"](x)
    x = torch.randn(2, width)
    before = model(x)
    adapter = inlay.attach(model, inlay.SparseMask(rank=1, targets=("a",)))
    disturb(adapter)
    delta = sparse(adapter)["a"]
    close(model(x), before + x @ dense(delta, delta.values).T, 1e-5)
    with torch.inference_mode():
        assert torch.isfinite(model(x)).all()


# Fisher information


def rows_of(shape: Shape) -> dict[str, Tensor]:
    inputs = {key: t for key, t in shape.inputs().items() if key != "decoder_input_ids"}
    return inputs | {"labels": torch.arange(len(inputs["input_ids"])) % LABELS}


def by_hand(model: Any, batch: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The sum over rows of the squares of each weight's gradient, by autograd on the plain model."""
    scores = {name: 0.0 for name in names}
    for i in range(len(batch["labels"])):
        model.zero_grad()
        row = {key: t[i : i + 1] for key, t in batch.items()}
        labels = row.pop("labels")
        F.cross_entropy(model(**row).logits, labels).backward()
        for name in names:
            host = model.get_submodule(name)
            grad = torch.zeros_like(host.weight) if host.weight.grad is None else host.weight.grad
            scores[name] = scores[name] + (grad.T if weights.is_flipped(host) else grad).square()
    return scores


def test_the_information_is_the_sum_of_every_row_s_squared_gradient(shape: Shape) -> None:
    model, plain = shape.classifier().double(), shape.classifier().double()
    adapter = inlay.attach(model, inlay.SparseMask())
    batch = rows_of(shape)
    names = list(sparse(adapter))
    rows = ({key: t[i : i + 1] for key, t in batch.items()} for i in range(4))
    found, expected = information(model, names, rows), by_hand(plain, batch, names)
    assert sum(bool(score.any()) for score in expected.values()) > 0.9 * len(names)
    for name in names:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-4, atol=1e-12)
        assert found[name].dtype == torch.float32


def test_the_entries_of_all_layers_with_the_most_information_are_chosen(shape: Shape) -> None:
    model, plain = shape.classifier(), shape.classifier()
    adapter = inlay.attach(model, inlay.SparseMask(rank=2))
    budget = sum(len(delta.values) for delta in sparse(adapter).values())
    batch = rows_of(shape)
    model.train()
    adapter.method.initialize_from_data(adapter, iter([batch]))
    chosen = sparse(adapter)
    assert sum(len(delta.values) for delta in chosen.values()) == budget
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.any() for delta in chosen.values() for p in delta.parameters())
    assert not any(m._forward_hooks for m in model.modules() if not hasattr(m, "adapters"))
    assert all(p.requires_grad for p in adapter.parameters())

    scores = by_hand(plain.double(), batch, list(chosen))
    threshold = torch.cat([s.flatten() for s in scores.values()]).topk(budget).values[-1]
    for name, delta in chosen.items():
        taken = torch.zeros(delta.size, dtype=torch.bool)
        taken[tuple(delta.indices)] = True
        assert (scores[name][taken] >= threshold * 0.999).all()
        assert (scores[name][~taken] <= threshold * 1.001).all()
        assert int(taken.sum()) == len(delta.values)
    assert len({len(delta.values) / sum(delta.size) for delta in chosen.values()}) > 1


def test_rows_count_one_by_one_and_only_so_many() -> None:
    shape = SHAPES["bert"]
    batch = rows_of(shape)
    masks = []
    for batches in ([batch], [{k: t[:1] for k, t in batch.items()}, {k: t[1:] for k, t in batch.items()}]):
        adapter = inlay.attach(shape.classifier(), inlay.SparseMask(rank=1))
        adapter.method.initialize_from_data(adapter, iter(batches))
        masks.append({n: delta.indices.tolist() for n, delta in sparse(adapter).items()})
    assert masks[0] == masks[1]

    def endless() -> Iterator[dict[str, Tensor]]:
        yield batch
        raise AssertionError("more than method.rows rows are read")

    adapter = inlay.attach(shape.classifier(), inlay.SparseMask(rank=1, rows=4))
    adapter.method.initialize_from_data(adapter, endless())
    assert {n: delta.indices.tolist() for n, delta in sparse(adapter).items()} == masks[0]
    few = inlay.attach(shape.classifier(), inlay.SparseMask(rank=1, rows=1))
    few.method.initialize_from_data(few, endless())
    assert {n: delta.indices.tolist() for n, delta in sparse(few).items()} != masks[0]


def test_random_entries_stay_as_they_are_whatever_the_data() -> None:
    adapter = inlay.attach(SHAPES["bert"].classifier(), inlay.SparseMask(selection="random"))
    before = {n: t.clone() for n, t in adapter.state_dict().items()}
    adapter.method.initialize_from_data(adapter, iter([]))
    assert all(torch.equal(t, before[n]) for n, t in adapter.state_dict().items())


def test_no_rows_are_an_error() -> None:
    model = SHAPES["bert"].classifier()
    adapter = inlay.attach(model, inlay.SparseMask())
    with pytest.raises(DataError, match="no training row"):
        adapter.method.initialize_from_data(adapter, iter([]))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_language_model_in_bfloat16_is_scored_by_its_own_loss(name: str) -> None:
    shape = SHAPES[name]
    model = shape.model(torch.bfloat16).train()
    adapter = inlay.attach(model, inlay.SparseMask(rank=1))
    inputs = {key: t for key, t in shape.inputs().items() if key != "decoder_input_ids"}
    adapter.method.initialize_from_data(adapter, iter([inputs | {"labels": inputs["input_ids"]}]))
    counts = [len(delta.values) for delta in sparse(adapter).values()]
    assert len(set(counts)) > 2
    assert sum(counts) == sum(sum(delta.size) for delta in sparse(adapter).values())


def test_a_layer_without_any_entry_trains_saves_and_loads(tmp_path: Any) -> None:
    shape = SHAPES["bert"]
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.SparseMask(rank=1))
    name, empty = next(iter(sparse(adapter).items()))
    empty.choose(torch.empty(0, dtype=torch.long))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1, fused=True)
    logits(model, shape).square().mean().backward()
    assert empty.values.grad is not None
    optimizer.step()
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "INLAY_SPARSE"
    assert config["counts"][name] == 0
    again = shape.classifier()
    loaded = inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))
    loaded.save(tmp_path / "again")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_a_choice_by_data_is_saved_with_its_indices(tmp_path: Any) -> None:
    shape = SHAPES["gpt2"]
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.SparseMask(rank=2))
    adapter.method.initialize_from_data(adapter, iter([rows_of(shape)]))
    disturb(adapter)
    adapter.save(tmp_path)
    again = shape.classifier()
    loaded = inlay.load(again, tmp_path)
    assert torch.equal(logits(again, shape), logits(model, shape))
    for name, delta in sparse(adapter).items():
        assert torch.equal(loaded.deltas[name].indices, delta.indices)


# Settings


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 0}, SettingsError, "method.rank is 0; it must be at least 1"),
        ({"rows": 0}, SettingsError, "method.rows is 0; it must be at least 1"),
        (
            {"rank": 20},
            TargetError,
            "method.rank is 20: 1280 entries of model.layers.0.self_attn.q_proj, which has 1024",
        ),
        ({"counts": {"lm_head": 3}}, TargetError, "method.counts names lm_head, which targets does not select"),
        ({"targets": ("norm",)}, TargetError, "matches only LlamaRMSNorm, which this method cannot adapt"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inlay.attach(SHAPES["llama"].model(), inlay.SparseMask(**settings))


def test_fishers_gradients_go_through_a_model_that_writes_its_state_in_place() -> None:
    model = build("rwkv")
    method = inlay.SparseMask(rank=1)
    adapter = inlay.attach(model, method)
    before = {name: delta.indices.clone() for name, delta in sparse(adapter).items()}
    method.initialize_from_data(adapter, iter([inputs("rwkv")]))
    assert any(not torch.equal(delta.indices, before[name]) for name, delta in sparse(adapter).items())


def test_a_row_takes_along_all_that_is_its_own_in_a_batch() -> None:
    model, method = build("qwen2_5_vl (images)"), inlay.SparseMask(rank=1)
    adapter = inlay.attach(model, method)
    batch = inputs("qwen2_5_vl (images)")
    method.initialize_from_data(adapter, iter([batch]))
    with pytest.raises(DataError, match="pixel_values has 31 entries for 2 rows"):
        method.initialize_from_data(adapter, iter([batch | {"pixel_values": batch["pixel_values"][1:]}]))
