"""The bytes that are alive, on tensors with values and without."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from inlay.cost.storages import Storages
from inlay.cost.trace import Trace


def test_a_storage_counts_from_the_operation_that_makes_it_until_its_last_tensor_is_gone() -> None:
    with Trace() as trace:
        a = torch.ones(1000)
        view = a[:10]
        b = a + 1
        assert trace.storages.now == 8000
        del a
        assert trace.storages.now == 8000  # the view holds it
        del view
        assert trace.storages.now == 4000
        del b
    assert trace.storages.now == 0
    assert sum(trace.storages.peak().values()) == 8000


def test_memory_is_told_by_part_where_it_is_at_its_most() -> None:
    weight = torch.ones(100)
    with Trace() as trace:
        trace.storages.name([weight], "weights")
        kept = weight * 2
        trace.storages.name_temporaries("activations")
        passing = kept + kept + kept
        del passing
    assert trace.storages.peak() == {
        **dict.fromkeys(("adapter", "gradients", "optimizer", "loss", "inputs"), 0),
        "weights": 400,
        "activations": 400,
        "temporaries": 800,
    }


def test_an_allocator_that_hands_out_blocks_takes_whole_ones() -> None:
    storages = Storages(block=512)
    storages.see(a := torch.ones(1))
    storages.see(b := torch.ones(129))
    assert storages.now == 512 + 1024
    assert len(a) + len(b) == 130


def test_tensors_without_values_take_as_much() -> None:
    def compute() -> dict[str, int]:
        x = torch.ones(64, 64, requires_grad=True)
        with Trace() as trace:
            (x @ x).relu().sum().backward()
        return trace.storages.peak()

    real = compute()
    with FakeTensorMode():
        assert compute() == real
    assert sum(real.values()) > 64 * 64 * 4
