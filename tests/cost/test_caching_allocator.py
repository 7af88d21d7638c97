"""What CUDA's caching allocator reserves, by its rules: sizes, segments, parts, and what is given back."""

import random

import pytest

from inlay.cost.caching_allocator import MIB, CachingAllocator, reserved


@pytest.mark.parametrize(
    ("size", "segment"),
    [(1, 2 * MIB), (MIB, 2 * MIB), (MIB + 1, 20 * MIB), (10 * MIB - 512, 20 * MIB), (10 * MIB, 10 * MIB)]
    + [(11 * MIB, 12 * MIB), (1500 * MIB + 1, 1502 * MIB)],
)
def test_a_tensor_that_finds_nothing_takes_a_segment_of_its_kind(size: int, segment: int) -> None:
    device = CachingAllocator()
    device.allocate(size)
    assert device.reserved == device.peak == segment


def test_segments_are_shared_in_multiples_of_512_bytes_and_small_ones_apart() -> None:
    device = CachingAllocator()
    for _ in range(4096):
        device.allocate(500)
    assert device.reserved == 2 * MIB
    device.allocate(1)
    assert device.reserved == 4 * MIB
    device.allocate(2 * MIB)
    assert device.reserved == 24 * MIB
    device.allocate(17 * MIB)  # in the 18 that are left, whose last is too little to be a part
    device.allocate(2 * MIB)
    assert device.reserved == 44 * MIB


def test_the_smallest_part_that_will_do_is_taken_and_neighbours_become_one() -> None:
    device = CachingAllocator()
    wide, narrow = device.allocate(40 * MIB), device.allocate(30 * MIB)
    device.free(wide)
    device.free(narrow)
    assert device.allocate(29 * MIB) == narrow
    first, second = device.allocate(15 * MIB), device.allocate(20 * MIB)
    assert device.reserved == 70 * MIB
    device.free(second)
    device.free(first)
    assert device.allocate(40 * MIB) == wide
    assert device.reserved == device.peak == 70 * MIB


def test_a_part_that_is_in_use_keeps_its_segment() -> None:
    device = CachingAllocator()
    whole, part, other = device.allocate(64 * MIB), device.allocate(4 * MIB), device.allocate(4 * MIB)
    device.free(whole)
    device.free(other)
    device.empty()
    assert device.reserved == 20 * MIB
    device.free(part)
    device.empty()
    assert (device.reserved, device.peak) == (0, 84 * MIB)


def test_a_step_of_many_reserves_at_least_what_lives_and_no_tensor_lies_in_another() -> None:
    draw, device = random.Random(0), CachingAllocator()
    alive: dict[int, int] = {}
    most, changes = 0, list[tuple[int, int]]()
    for number in range(2000):
        if alive and draw.random() < 0.5:
            address = draw.choice(list(alive))
            changes.append((address, -alive.pop(address)))
            device.free(address)
        size = int(2 ** draw.uniform(4, 25))
        address = device.allocate(size)
        assert not any(address < end + at and at < address + size for at, end in alive.items()), number
        alive[address] = size
        changes.append((address, size))
        most = max(most, sum(alive.values()))
    assert most < device.peak < 2 * most
    assert reserved(changes) == device.peak
