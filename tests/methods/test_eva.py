"""EVA's start against a principal component analysis of all the inputs at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.core.slot import Slot
from inlay.data.settings import DataSettings
from inlay.errors import DataError
from inlay.methods.starts import eva
from inlay.models.inputs import Inputs, inputs_of
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..shapes import VOCABULARY, Shape, logits
from .test_lora import close


def batches(count: int, rows: int = 4, seed: int = 0, padding: bool = False) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids_BT = torch.randint(2, VOCABULARY, (rows, 9), generator=generator)
        ids_BT[:, -1] = 1
        mask_BT = torch.ones_like(ids_BT)
        if padding:
            mask_BT[1:, -3:] = 0
            ids_BT[1:, -4:] = torch.tensor([1, 0, 0, 0])
        yield {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": torch.zeros(rows, dtype=torch.long)}


def pca(x_NI: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and their shares of the variance, in float64."""
    centred = x_NI.double() - x_NI.double().mean(0)
    _, values, v = torch.linalg.svd(centred, full_matrices=False)
    return v, values.square() / values.square().sum()


def overlap(a_KI: Tensor, b_KI: Tensor) -> float:
    """1 if two orthonormal sets span the same space, 0 if the spaces are orthogonal."""
    return float((a_KI.double() @ b_KI.double().T).square().sum() / len(a_KI))


def correlated(rows: int, seed: int = 0, rank: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank, 30, generator=torch.Generator().manual_seed(9))
    scales = 0.7 ** torch.arange(float(rank))
    return torch.randn(rows, rank, generator=generator) * scales @ mixing + 3 * torch.ones(30)


# The decomposition


def test_one_batch_is_its_principal_components() -> None:
    x = correlated(50)
    inputs = Inputs(30, 8, torch.device("cpu"))
    inputs.add(x)
    directions, shares = pca(x)
    close((inputs.directions_KI.double() * directions[:8]).sum(1).abs(), torch.ones(8, dtype=torch.float64), 1e-4)
    close(inputs.shares().double(), shares[:8], 1e-4)


def test_batch_after_batch_they_are_those_of_all_rows_at_once() -> None:
    """Exactly, as long as nothing is cut off: 12 directions hold all of the data."""
    x = correlated(200)
    inputs = Inputs(30, 12, torch.device("cpu"))
    for part in x.split([7, 60, 1, 100, 32]):
        inputs.add(part)
    directions, shares = pca(x)
    close((inputs.directions_KI.double() * directions[:12]).sum(1).abs(), torch.ones(12, dtype=torch.float64), 1e-3)
    close(inputs.shares().double(), shares[:12], 1e-4)
    close(inputs.mean_I, x.mean(0), 1e-5)
    assert inputs.count == 200


def test_with_fewer_directions_than_the_data_has_they_are_nearly_those_of_all_rows() -> None:
    x = correlated(600) + 0.05 * torch.randn(600, 30, generator=torch.Generator().manual_seed(1))
    inputs = Inputs(30, 6, torch.device("cpu"))
    for part in x.split(40):
        inputs.add(part)
    directions, shares = pca(x)
    assert overlap(inputs.directions_KI[:4], directions[:4]) > 0.999
    close(inputs.shares()[:4].double(), shares[:4], 0.01)
    assert inputs.settled
    close(inputs.directions_KI @ inputs.directions_KI.T, torch.eye(6), 1e-5)
    assert inputs.directions_KI.numel() + inputs.mean_I.numel() + inputs.values_K.numel() == 6 * 30 + 30 + 6


# The ranks


def test_the_budget_goes_to_the_largest_shares() -> None:
    shares = {"a": [0.5, 0.3, 0.1, 0.05], "b": [0.9, 0.02, 0.01, 0.01], "c": [0.4, 0.35, 0.2, 0.01]}
    assert eva.distribute(shares, 6) == {"a": 2, "b": 1, "c": 3}
    assert eva.distribute(shares, 3) == {"a": 1, "b": 1, "c": 1}
    assert eva.distribute(shares, 12) == {"a": 4, "b": 4, "c": 4}


def test_no_layer_is_left_without_a_rank_and_none_gets_more_than_it_may() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        sizes = torch.randint(1, 9, (6,), generator=generator).tolist()
        shares = {
            str(i): sorted(torch.rand(n, generator=generator).tolist(), reverse=True) for i, n in enumerate(sizes)
        }
        budget = int(torch.randint(6, max(7, sum(sizes) + 1), (), generator=generator))
        ranks = eva.distribute(shares, min(budget, sum(sizes)))
        assert sum(ranks.values()) == min(budget, sum(sizes))
        assert all(1 <= ranks[str(i)] <= n for i, n in enumerate(sizes))


# On a model


def started(shape: Shape, padding: bool = False, **settings: Any) -> tuple[Any, inlay.Adapter]:
    model = shape.classifier().requires_grad_(False)
    torch.manual_seed(0)
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization="eva", **settings))
    adapter.method.initialize_from_data(adapter, batches(6, padding=padding))
    return model, adapter


def hooks(model: nn.Module) -> list[tuple[int, int]]:
    return [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]


def low_rank(adapter: inlay.Adapter) -> dict[str, Any]:
    return {host: delta for host, delta in adapter.deltas.items() if hasattr(delta, "lora_A")}


def test_the_start_is_the_base_with_orthonormal_rows_and_the_same_count_of_ranks(shape: Shape) -> None:
    base = shape.classifier().requires_grad_(False)
    model, adapter = started(shape)
    assert not any(m.training for m in model.modules() if type(m) is not Slot)
    plain = shape.classifier()
    inlay.attach(plain, inlay.LoRA(rank=4))
    assert hooks(model) == hooks(plain)
    assert torch.equal(logits(model, shape), logits(base, shape))
    deltas = low_rank(adapter)
    ranks = [len(delta.lora_A) for delta in deltas.values()]
    assert sum(ranks) == 4 * len(deltas)
    assert len(set(ranks)) > 1
    assert max(ranks) <= 8
    assert min(ranks) >= 1
    for delta in deltas.values():
        close(delta.lora_A @ delta.lora_A.T, torch.eye(len(delta.lora_A)), 1e-5)
        assert not delta.lora_B.any()
        assert delta.lora_B.shape[1] == len(delta.lora_A)
        assert delta.lora_A.requires_grad
        assert delta.lora_B.requires_grad
        assert delta.scale == 32 / 4
    assert adapter.method.findings(adapter)["ranks"] == {h: len(d.lora_A) for h, d in deltas.items()}
    logits(model.train(), shape).square().sum().backward()
    assert all(d.lora_B.grad is not None and not d.lora_A.grad.any() for d in deltas.values())


def test_a_ratio_of_one_leaves_the_ranks_as_they_are(shape: Shape) -> None:
    _, adapter = started(shape, eva_rank_ratio=1.0)
    assert {len(delta.lora_A) for delta in low_rank(adapter).values()} == {4}


def test_it_is_the_same_every_time(shape: Shape) -> None:
    a, b = started(shape)[1], started(shape)[1]
    assert all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


@pytest.mark.parametrize("padding", [False, True])
def test_the_directions_are_those_of_the_layer_s_own_inputs_without_padding(padding: bool, shape: Shape) -> None:
    model = shape.classifier()
    seen: dict[str, list[Tensor]] = {}
    hosts = list(low_rank(inlay.attach(shape.classifier(), inlay.LoRA(rank=4))))
    for host in hosts:
        model.get_submodule(host).register_forward_pre_hook(
            lambda _, args, kwargs, host=host: seen.setdefault(host, []).append(
                (args or [*kwargs.values()])[0].detach()
            ),
            with_kwargs=True,
        )
    masks = []
    for batch in batches(3, padding=padding):
        masks.append(batch.pop("attention_mask").bool())
        batch.pop("labels")
        model(**batch, attention_mask=masks[-1].long())
    found = inputs_of(shape.classifier(), hosts, 32, batches(3, padding=padding))
    assert found.keys() == seen.keys()
    for host in hosts:
        rows = [x.reshape(-1, x.shape[-1]) for x in seen[host]]
        if "pooler" not in host:  # which reads the first token of each row
            rows = [x[mask.flatten()] for x, mask in zip(rows, masks, strict=True)]
        directions, shares = pca(torch.cat(rows))
        close(found[host].shares()[:4].double(), shares[:4], 1e-3)
        assert overlap(found[host].directions_KI[:4], directions[:4]) > 0.99
        assert found[host].count == sum(len(r) for r in rows)


def test_layers_that_read_the_same_tensor_share_the_work() -> None:
    from ..shapes import SHAPES

    shape = SHAPES["llama"]
    hosts = list(low_rank(inlay.attach(shape.model(), inlay.LoRA(rank=4))))
    found = inputs_of(shape.model(), hosts, 8, batches(2))
    layer = "model.layers.0."
    q, k, v, o = (found[f"{layer}self_attn.{name}_proj"] for name in "qkvo")
    gate, up, down = (found[f"{layer}mlp.{name}_proj"] for name in ("gate", "up", "down"))
    assert q is k is v
    assert gate is up
    assert len({id(each) for each in (q, o, gate, down)}) == 4
    assert q.count == 2 * 4 * 9


def test_it_stops_when_no_direction_changes_any_more() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(30, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    taken = []

    def endless() -> Iterator[dict[str, Tensor]]:
        while True:
            taken.append(len(taken))
            yield {"x": correlated(64, seed=len(taken)), "labels": torch.zeros(64)}

    found = inputs_of(Model(), ["layer"], 3, endless())
    assert found["layer"].settled
    assert 2 <= len(taken) < 60
    taken.clear()

    def noise() -> Iterator[dict[str, Tensor]]:
        while True:
            taken.append(len(taken))
            yield {"x": torch.randn(5, 30)}

    assert not inputs_of(Model(), ["layer"], 30, noise())["layer"].settled or len(taken) > 50
    assert len(taken) <= 100


def test_modes_and_hooks_are_as_before_even_if_the_model_fails(shape: Shape) -> None:
    model = shape.classifier().train()
    adapter = inlay.attach(model, inlay.LoRA(rank=4, initialization="eva"))
    next(m for m in model.modules() if isinstance(m, nn.Embedding)).eval()
    modes, before = [m.training for m in model.modules()], hooks(model)
    with pytest.raises(ValueError, match="input_ids"):
        adapter.method.initialize_from_data(adapter, iter([{"attention_mask": torch.ones(2, 3)}]))
    assert [m.training for m in model.modules()] == modes
    assert hooks(model) == before


def test_too_little_data_is_said(shape: Shape) -> None:
    model = shape.classifier()
    adapter = inlay.attach(model, inlay.LoRA(rank=16, initialization="eva"))
    state = {n: t.clone() for n, t in adapter.state_dict().items()}
    for few, found in ((iter([]), 0), (batches(1, rows=1), r"\d+")):
        with pytest.raises(DataError, match=rf"eva, which starts .* from 16 directions .* has {found}: give it more"):
            adapter.method.initialize_from_data(adapter, few)
    assert all(torch.equal(t, state[n]) for n, t in adapter.state_dict().items())


def test_only_this_start_looks_at_data() -> None:
    adapter = inlay.attach(nn.Sequential(nn.Linear(4, 4)), inlay.LoRA(rank=2))
    adapter.method.initialize_from_data(adapter, iter(()))
    assert adapter.method.findings(adapter) == {}


def test_a_run_starts_from_its_training_data(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    settings = RunSettings(
        model=tiny_bert,
        data=DataSettings(path=reviews_folder),
        method=inlay.LoRA(rank=4, initialization="eva"),
        out=str(tmp_path / "run"),
        epochs=1,
        dtype="float32",
    )
    assert train(settings)["status"] == "finished"
