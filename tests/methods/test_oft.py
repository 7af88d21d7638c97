"""OFT against the Cayley formula with an explicit inverse, and the facts of a rotation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.models import weights

from ..shapes import Shape, disturb
from .one_host import close, dense, equals_the_formula, linear, one, parameters_with_gradient


def skew(upper_N: Tensor, size: int) -> Tensor:
    """The skew-symmetric matrix with this upper triangle, row by row."""
    matrix = [[torch.zeros((), dtype=upper_N.dtype)] * size for _ in range(size)]
    values = iter(upper_N)
    for row in range(size):
        for column in range(row + 1, size):
            value = next(values)
            matrix[row][column], matrix[column][row] = value, -value
    return torch.stack([torch.stack(row) for row in matrix])


def cayley(q: Tensor) -> Tensor:
    eye = torch.eye(len(q), dtype=q.dtype)
    return (eye - q) @ torch.linalg.inv(eye + q)


def series(terms: int) -> Any:
    def rotation(q: Tensor) -> Tensor:
        coefficients = [1, *[2] * (terms - 2), 1]
        return torch.stack([c * torch.matrix_power(q, n) for n, c in enumerate(coefficients)]).sum(0)

    return rotation


def formula(weight_OI: Tensor, p: dict[str, Tensor], size: int, rotation: Any) -> Tensor:
    """W times the transpose of the dense block-diagonal R."""
    count = weight_OI.shape[1] // size
    stored = [rotation(skew(row, size)) for row in p["oft_R"]]
    return weight_OI @ torch.block_diag(*(stored * (count // len(stored)))).T


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv1d"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "settings", "shape"),
    [
        (12, 5, {"block_size": 4}, (3, 6)),
        (12, 5, {"block_size": 12}, (1, 66)),
        (12, 5, {"block_size": 32}, (1, 66)),
        (12, 7, {"block_size": 5}, (3, 6)),  # 4 and 6 are as near: the smaller
        (12, 7, {"blocks": 4}, (4, 3)),
        (12, 7, {"blocks": 5}, (4, 3)),
        (6, 6, {"block_size": 2}, (3, 1)),
        (12, 5, {"block_size": 4, "block_share": True}, (1, 6)),
    ],
)
def test_it_rotates_the_input_by_the_cayley_transform(
    inputs: int, outputs: int, settings: dict[str, Any], shape: tuple[int, int], kind: str
) -> None:
    size = next(n for n in range(2, 13) if n * (n - 1) // 2 == shape[1])
    delta = equals_the_formula(
        linear(inputs, outputs, kind), inlay.OFT(**settings), lambda w, p: formula(w, p, size, cayley)
    )
    assert delta.oft_R.shape == shape


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("terms", [4, 5, 8])
def test_with_the_series_it_multiplies_by_that(terms: int, kind: str) -> None:
    equals_the_formula(
        linear(12, 5, kind),
        inlay.OFT(block_size=4, neumann=True, neumann_terms=terms),
        lambda w, p: formula(w, p, 4, series(terms)),
    )


def rotated(scale: float, **settings: Any) -> tuple[Any, Tensor]:
    """A delta on a host of 16 inputs, moved by `scale`, and its dense R, read by rotating the identity."""
    _, adapter, delta = one(nn.Linear(16, 9).double(), inlay.OFT(block_size=8, **settings))
    adapter.deltas["0"].double()
    disturb(adapter, scale)
    return delta, delta.edit_input(None, torch.eye(16, dtype=torch.float64)).detach()


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_exact_rotation_is_orthogonal_however_large(scale: float) -> None:
    _, r_II = rotated(scale)
    close(r_II @ r_II.T, torch.eye(16, dtype=torch.float64))
    assert torch.linalg.det(r_II) > 0
    assert not r_II[:8, 8:].any()
    assert not r_II[8:, :8].any()
    x = torch.randn(5, 16, dtype=torch.float64)
    close((x @ r_II).norm(dim=1), x.norm(dim=1))


def test_the_angles_between_rows_of_the_weight_are_kept() -> None:
    delta, _ = rotated(1.0)
    weight_OI = torch.randn(9, 16, dtype=torch.float64)
    folded_OI = delta.fold({"weight": weight_OI})["weight"]
    close(folded_OI @ folded_OI.T, weight_OI @ weight_OI.T)
    assert not torch.allclose(folded_OI, weight_OI, atol=0.1)


def test_the_series_is_nearly_the_opposite_rotation_while_turns_are_small() -> None:
    for scale, error in ((0.01, 1e-5), (0.03, 1e-3)):
        _, exact = rotated(scale)
        _, series_ = rotated(scale, neumann=True)
        close(series_, exact.T, error)
        assert not torch.allclose(series_, exact, atol=0.01)
        _, longer = rotated(scale, neumann=True, neumann_terms=12)
        close(longer, exact.T, 1e-9)


def test_it_starts_as_the_base_bit_for_bit_and_all_of_it_learns_at_once() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for neumann in (False, True):
            model, adapter, delta = one(nn.Linear(24, 5, dtype=dtype), inlay.OFT(block_size=8, neumann=neumann))
            x = torch.randn(3, 24, dtype=dtype)
            assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
            assert parameters_with_gradient(model, adapter, 24) == {"oft_R"}
            assert (delta.oft_R.grad != 0).float().mean() > 0.95


def test_the_count_is_half_the_inputs_times_the_block_size_less_one(shape: Shape) -> None:
    adapter = inlay.attach(shape.model(), inlay.OFT(block_size=8), heads=())
    expected = sum(weights.size(host)[1] * 7 // 2 for _, host, _ in adapter.hosts())
    assert sum(p.numel() for p in adapter.parameters()) == expected


@pytest.mark.parametrize("neumann", [False, True])
def test_its_work_is_a_block_size_per_input(neumann: bool) -> None:
    """A dense R would cost what the layer costs; PEFT's OFT has 1.15 times the base's work here, too."""
    model, _, _ = one(nn.Linear(256, 256), inlay.OFT(block_size=32, neumann=neumann))
    x = torch.randn(512, 256)
    with FlopCounterMode(display=False) as counter:
        model(x)
    series_work = 3 * 2 * 8 * 32**3 if neumann else 0  # an inverse is not counted
    assert counter.get_total_flops() == 2 * 512 * (256 * 256 + 256 * 32) + series_work


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("neumann", [False, True])
def test_in_bfloat16_it_computes_nearly_the_same(kind: str, neumann: bool) -> None:
    torch.manual_seed(0)
    host = linear(64, 48, kind).float()
    model, adapter, delta = one(host, inlay.OFT(neumann=neumann))
    disturb(adapter, 0.03)
    x = torch.randn(20, 64)
    expected, turns = model(x), delta.oft_R.detach().clone()
    host.to(torch.bfloat16)
    delta.oft_R.data = turns
    y = model(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("block_share", [False, True])
def test_dropout_leaves_blocks_unturned_in_training(block_share: bool) -> None:
    """PEFT's module_dropout has no effect (bug 1): with 0.9 its outputs in training are those without any."""
    torch.manual_seed(0)
    model, adapter, delta = one(nn.Linear(4000, 1), inlay.OFT(block_size=4, dropout=0.3, block_share=block_share))
    disturb(adapter, 0.5)
    x = torch.randn(2, 4000)
    whole = delta.eval().edit_input(model[0], x)
    some = delta.train().edit_input(model[0], x)
    left = (some == x).view(2, 1000, 4).all(2).all(0)
    assert 0.25 < left.float().mean() < 0.35
    kept = ~left.repeat_interleave(4)
    assert torch.equal(some[:, kept], whole[:, kept])
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_peft_s_dropout_has_no_effect_and_ours_has() -> None:
    """PEFT bug 1 (0.21.2): the largest difference that module_dropout=0.9 makes in training is 0; here it is not."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    x = torch.randn(2, 64)
    model = nn.Sequential(nn.Linear(64, 8))
    ours, theirs = inlay.attach(model, inlay.OFT(block_size=8, dropout=0.9)), nn.Sequential(nn.Linear(64, 8))
    config = peft.OFTConfig(oft_block_size=8, module_dropout=0.9, target_modules=["0"])
    wrapped = peft.get_peft_model(theirs, config).train()
    disturb(ours)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if "oft_R" in name:
                p += 0.1 * torch.randn(p.shape)
    assert torch.equal(wrapped(x), wrapped.eval()(x))
    assert (model.train()(x) - model.eval()(x)).abs().max() > 0.01


def test_it_can_be_merged_into_a_transposed_weight() -> None:
    host = linear(12, 5, "conv1d").float()
    model, adapter, _ = one(host, inlay.OFT(block_size=4))
    disturb(adapter)
    before, x = dense(host).clone(), torch.randn(3, 12)
    y = model(x)
    adapter.merge()
    assert not torch.allclose(dense(host), before, atol=1e-2)
    close(model(x), y, 1e-5)
    adapter.unmerge()
    assert torch.equal(dense(host), before)


def test_a_layer_that_would_be_cut_into_blocks_of_one_is_refused() -> None:
    with pytest.raises(TargetError, match="0 has 101 inputs, which method.block_size 32 would cut into blocks of 1"):
        one(nn.Linear(101, 4), inlay.OFT())
    with pytest.raises(TargetError, match="0 has 8 inputs, which method.blocks 9 would cut into blocks of 1"):
        one(nn.Linear(8, 4), inlay.OFT(blocks=9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 1}, "method.block_size is 1; it must be at least 2"),
        ({"blocks": 0}, "method.blocks is 0; it must be at least 1"),
        ({"neumann_terms": 3}, "method.neumann_terms is 3; it must be at least 4"),
        ({"dropout": 1.0}, "method.dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.OFT(**settings)
