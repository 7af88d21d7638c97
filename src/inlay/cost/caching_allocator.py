"""What CUDA's caching allocator reserves of a device for tensors that come and go: more than they take.

It rounds sizes, takes whole segments of the device, gives parts of them away, best fit first, and keeps what is free;
parts that are next to each other become one again. By the rules of PyTorch 2 with its default settings.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

MIB = 2**20
_BLOCK = 512  # bytes that sizes are multiples of
_SMALL = MIB  # up to here a tensor is small, and has segments of its own kind
_SMALL_SEGMENT, _SEGMENT, _OWN_SEGMENT, _ROUNDED = 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


@dataclass(eq=False, repr=False)
class _Part:
    """A part of a segment, and its neighbours there."""

    address: int
    size: int
    small: bool
    before: "_Part | None" = None
    after: "_Part | None" = None
    free: bool = False


@dataclass
class CachingAllocator:
    """A device's memory as PyTorch gives it away."""

    reserved: int = 0
    peak: int = 0
    """The most that was reserved."""
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})  # size and address
    _parts: dict[int, _Part] = field(default_factory=dict)  # by address
    _end: int = 0

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes."""
        size = max(_BLOCK, _rounded(size, _BLOCK))
        small = size <= _SMALL
        free = self._free[small]
        at = bisect_left(free, (size, -1))
        part = self._parts[free.pop(at)[1]] if at < len(free) else self._segment(size, small)
        part.free = False
        left = part.size - size
        if left >= _BLOCK if small else left > _SMALL:
            rest = _Part(part.address + size, left, small, part, part.after)
            if part.after is not None:
                part.after.before = rest
            part.after, part.size = rest, size
            self._put(rest)
        return part.address

    def free(self, address: int) -> None:
        """Take the bytes at this address back, to give them away again."""
        part = self._parts[address]
        for other in (part.before, part.after):
            if other is not None and other.free:
                self._free[other.small].remove((other.size, other.address))
                first, second = (other, part) if other is part.before else (part, other)
                first.size += second.size
                first.after = second.after
                if second.after is not None:
                    second.after.before = first
                del self._parts[second.address]
                part = first
        self._put(part)

    def empty(self) -> None:
        """Give back segments that are free, as `torch.cuda.empty_cache` does."""
        for free in self._free.values():
            for each in list(free):
                part = self._parts[each[1]]
                if part.before is None and part.after is None:
                    free.remove(each)
                    del self._parts[part.address]
                    self.reserved -= part.size

    def _segment(self, size: int, small: bool) -> _Part:
        whole = _SMALL_SEGMENT if small else _SEGMENT if size < _OWN_SEGMENT else _rounded(size, _ROUNDED)
        part = _Part(self._end, whole, small)
        self._end += whole + _ROUNDED  # no neighbour of another segment
        self._parts[part.address] = part
        self.reserved += whole
        self.peak = max(self.peak, self.reserved)
        return part

    def _put(self, part: _Part) -> None:
        part.free = True
        self._parts[part.address] = part
        insort(self._free[part.small], (part.size, part.address))


def reserved(changes: Iterable[tuple[int, int]]) -> int:
    """Return the most that is reserved for changes: a tensor's number, and its bytes, less than 0 when it goes."""
    device, places = CachingAllocator(), dict[int, int]()
    for number, size in changes:
        if size > 0:
            places[number] = device.allocate(size)
        elif number in places:
            device.free(places.pop(number))
    return device.peak


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to
