"""The bytes of every tensor that is alive, operation by operation, of a step with values or without.

A storage counts from the operation that makes it until its last tensor is gone. What a kernel takes and gives back
inside one operation is not seen: the CPU's allocator has the same figure to the byte, an accelerator some workspace
more.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "loss", "inputs", "temporaries")
"""What memory goes to, in the order in which it is told."""


@dataclass
class Storages:
    """The storages of a step, each with the part of the memory that it belongs to."""

    block: int = 1
    """Bytes that an allocator hands out at once: 512 on CUDA."""
    part: str = "temporaries"
    """The part of what is made now; what is still there when the step's forward pass ends may be told otherwise."""
    _numbers: dict[int, int] = field(default_factory=dict)  # of the storages that are alive, by address
    _parts: list[str] = field(default_factory=list)  # by number
    _changes: list[tuple[int, int]] = field(default_factory=list)  # (number, bytes), less than 0 when it goes

    def see(self, tensor: Tensor) -> None:
        """Count the tensor's storage, unless it is known."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # some kinds of tensor have none
            return
        address = storage._cdata
        if address in self._numbers:
            return
        number, size = len(self._parts), -(-storage.nbytes() // self.block) * self.block
        self._numbers[address] = number
        self._parts.append(self.part)
        self._changes.append((number, size))
        weakref.finalize(storage, self._gone, address, number, size)

    def _gone(self, address: int, number: int, size: int) -> None:
        if self._numbers.get(address) == number:
            del self._numbers[address]
        self._changes.append((number, -size))

    def name(self, tensors: Iterable[Tensor], part: str) -> None:
        """Say what part of the memory these tensors are, which are alive."""
        before, self.part = self.part, part
        for tensor in tensors:
            self.see(tensor)
            if (number := self._numbers.get(tensor.untyped_storage()._cdata)) is not None:
                self._parts[number] = part
        self.part = before

    def name_temporaries(self, part: str) -> None:
        """Say what part of the memory all temporaries are that are alive now."""
        for number in self._numbers.values():
            if self._parts[number] == "temporaries":
                self._parts[number] = part

    @property
    def changes(self) -> Sequence[tuple[int, int]]:
        """Each storage's number and bytes as it comes, and the same less than 0 as it goes."""
        return self._changes

    @property
    def now(self) -> int:
        return sum(size for _, size in self._changes)

    def peak(self) -> dict[str, int]:
        """Return the bytes of each part where their sum is at its most."""
        sums = list(accumulate(size for _, size in self._changes))
        at = max(range(len(sums)), key=sums.__getitem__, default=-1)
        found = Counter[str]()
        for number, size in self._changes[: at + 1]:
            found[self._parts[number]] += size
        return {part: found[part] for part in PARTS}
