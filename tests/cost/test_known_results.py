"""Results of operations on fake tensors that are known again: as those of tensors with values."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from inlay.cost.known_results import KnownResults
from inlay.cost.trace import Trace

Results = list[Tensor]


def _written() -> Results:
    a, b = torch.ones(4, 6), torch.ones(4, 6)
    return [a.add_(b), a.mul_(a), torch.add(a, b, out=b), torch.add(a, b, out=a), a, b]


def _viewed() -> Results:
    a = torch.ones(4, 6)
    inner = a[1:, 2:]
    return [a, inner, inner.t(), inner[1:], a.view(2, 12), a.unsqueeze(0).expand(3, 4, 6), *a.split(2), *a.unbind(1)]


def _of_other_kinds() -> Results:
    a, turned = torch.ones(4, 6, dtype=torch.int64), torch.ones(6, 4, dtype=torch.int64).t()
    return [
        a + 1,
        turned + 1,
        a + 1.0,
        a + True,
        a * torch.ones(()),
        a.to(torch.bfloat16),
        a.t() + 1,
        a[:, ::2] + 1,
        a[:, ::2].clone(),
    ]


def _several() -> Results:
    a = torch.ones(4, 6)
    return [*a.topk(2), *torch.var_mean(a, dim=0), *torch._foreach_add([a, a[0]], 1.0)]


def _trained() -> Results:
    w = torch.ones(6, 6, requires_grad=True)
    q = (torch.ones(2, 6) @ w).view(1, 1, 2, 6)
    loss = (
        F.scaled_dot_product_attention(q, q, F.dropout(q)).square().sum() + F.embedding(torch.ones(3).long(), w).sum()
    )
    loss.backward()
    assert w.grad is not None
    return [w.grad, loss.detach()]


def _looks(compute: Callable[[], Results]) -> list[object]:
    results = compute()
    storages = [t.untyped_storage()._cdata for t in results]
    return [
        (t.dtype, t.shape, t.stride(), t.storage_offset(), t.untyped_storage().nbytes(), storages.index(storage))
        for t, storage in zip(results, storages, strict=True)
    ]


@pytest.mark.parametrize("compute", [_written, _viewed, _of_other_kinds, _several, _trained])
def test_results_that_are_known_again_are_those_of_tensors_with_values(compute: Callable[[], Results]) -> None:
    real = _looks(compute)
    with FakeTensorMode(), KnownResults():
        first = _looks(compute)
    with FakeTensorMode(), KnownResults():
        again = _looks(compute)
    assert first == real
    assert again == real


@pytest.mark.parametrize("compute", [_written, _viewed, _of_other_kinds, _several, _trained])
def test_memory_and_work_of_known_results_are_those_of_tensors_with_values(compute: Callable[[], Results]) -> None:
    def traced() -> tuple[object, object, object]:
        with Trace(512) as trace:
            compute()
        return trace.storages.peak(), trace.work.amounts, trace.kernels

    real = traced()
    for _ in range(2):
        with FakeTensorMode():
            assert traced() == real


def test_what_is_known_is_not_worked_out_again() -> None:
    def asked() -> int:
        info = FakeTensorMode.cache_info()
        return info.hits + info.misses + sum(info.bypasses.values())

    def compute() -> None:
        with FakeTensorMode(), KnownResults():
            a = torch.ones(4, 7)
            (a @ a.t()).relu_().sum()

    compute()
    before = asked()
    compute()
    assert asked() == before


def test_a_tensor_whose_value_is_known_stays_one() -> None:
    with FakeTensorMode(), KnownResults():
        assert (torch.ones(()) + 1).shape == ()  # of which the result is known
    for value in (2.0, 3.0):
        with FakeTensorMode(), KnownResults():
            a = torch.tensor(value)
            assert (a + 1).item() == value + 1


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
def test_an_address_is_refused_of_a_known_result_only_where_it_is_of_others() -> None:
    """PyTorch lets code ask a tensor without values for its address by default."""
    with FakeTensorMode() as mode, KnownResults():
        first, second, third = (torch.ones(4, 6) + 1 for _ in range(3))
        found = [each.data_ptr() for each in (first, second, third)]
    assert mode._allow_unsafe_data_ptr_access
    assert found == [0, 0, 0]
