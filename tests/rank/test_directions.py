"""Subspaces and intruders on constructed matrices."""

import math

import pytest
import torch

from inlay.lab.rank import spectrum
from inlay.lab.rank.directions import against_base, cosine, intruders, overlap, similarity

from .matrices import orthonormal, thin

N = 32


def test_a_space_is_like_itself_and_like_what_holds_it() -> None:
    u = orthonormal(N, 8, 0)
    for i in (1, 3, 8):
        for j in (1, 3, 8):
            assert similarity(u[:, :i], u[:, :j]) == pytest.approx(1)
    turned = u @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).Q
    assert similarity(u, -turned) == pytest.approx(1)


def test_spaces_of_other_coordinates_are_unlike() -> None:
    eye = torch.eye(N, dtype=torch.float64)
    assert similarity(eye[:, :4], eye[:, 4:10]) == 0
    assert similarity(eye[:, :4], eye[:, 2:6]) == pytest.approx(0.5)


def test_the_order_does_not_matter() -> None:
    a, b = orthonormal(N, 4, 0), orthonormal(N, 7, 1)
    assert similarity(a, b) == pytest.approx(similarity(b, a))


def test_random_spaces_overlap_by_the_baseline_that_is_reported() -> None:
    shape, found = (64, 48), []
    for seed in range(40):
        a, b = (spectrum.of_thin(*thin(shape, [1.0] * 8, seed=1000 * k + seed)) for k in (1, 2))
        found.append(overlap(a, b, 8))
    assert found[0].random_left == 8 / 64
    assert found[0].random_right == 8 / 48
    assert sum(f.left for f in found) / 40 == pytest.approx(8 / 64, abs=0.01)
    assert sum(f.right for f in found) / 40 == pytest.approx(8 / 48, abs=0.01)


def test_left_and_right_are_outputs_and_inputs() -> None:
    """Two updates that read the same inputs and write elsewhere."""
    eye = torch.eye(12, dtype=torch.float64)
    a = spectrum.of_thin(eye[:, :2], eye[:2, :9])
    b = spectrum.of_thin(eye[:, 4:6], eye[:2, :9])
    found = overlap(a, b, 2)
    assert (found.left, found.right) == pytest.approx((0, 1))


def test_the_cosine_is_that_of_the_dense_updates() -> None:
    a, b = thin((20, 30), [3, 2, 1], seed=1), thin((20, 30), [1, 1], seed=5)
    mixed = (torch.cat([a[0], b[0]], 1), torch.cat([a[1], b[1]]))
    first, second = torch.linalg.multi_dot(a), torch.linalg.multi_dot(mixed)
    wanted = float((first * second).sum() / first.norm() / second.norm())
    assert cosine(spectrum.of_thin(*a), spectrum.of_thin(*mixed)) == pytest.approx(wanted, abs=1e-10)
    assert cosine(spectrum.of_thin(*a), spectrum.of_thin(-2 * a[0], a[1])) == pytest.approx(-1)


@pytest.fixture
def base() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A base of full rank, with its singular vectors."""
    values = torch.linspace(2, 1, N, dtype=torch.float64)
    u, v = orthonormal(N, N, 0), orthonormal(N, N, 1)
    return (u * values) @ v.T, u, v


def test_an_unchanged_weight_has_no_intruder(base: tuple[torch.Tensor, ...]) -> None:
    w, u, _ = base
    assert intruders(w, u) == []


def test_a_strong_new_direction_is_the_only_intruder(base: tuple[torch.Tensor, ...]) -> None:
    w, u, v = base
    new_u, new_v = u.sum(1) / math.sqrt(N), v.sum(1) / math.sqrt(N)
    assert intruders(w + 100 * torch.outer(new_u, new_v), u) == [0]


def test_a_stronger_old_direction_is_none(base: tuple[torch.Tensor, ...]) -> None:
    w, u, v = base
    assert intruders(w + 20 * torch.outer(u[:, 3], v[:, 3]), u) == []


def test_an_update_in_the_base_s_leading_directions_overlaps_with_them(base: tuple[torch.Tensor, ...]) -> None:
    w, u, v = base
    inside = spectrum.of_thin(5 * u[:, :4], v[:, :4].T)
    found = against_base(inside, w, w + 5 * u[:, :4] @ v[:, :4].T, 4)
    assert found.overlap.left == pytest.approx(1, abs=1e-4)
    assert found.overlap.right == pytest.approx(1, abs=1e-4)
    assert found.intruders == 0
    assert found.amplification == pytest.approx(10 / float(torch.linspace(2, 1, N)[:4].norm()), rel=1e-4)
    outside = spectrum.of_thin(5 * u[:, -4:], v[:, -4:].T)
    assert against_base(outside, w, w, 4).overlap.left == pytest.approx(0, abs=1e-4)
