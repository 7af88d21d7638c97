"""What the memory of a training step goes to: the parts, as tables, pages and bars name them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup, escape

from .units import bytes_text


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """A part of the memory, and those of a followed step that it holds."""

    name: str
    of: tuple[str, ...]
    meaning: str
    kind: str
    """The style sheet's class of its colour."""

    def size(self, memory: Mapping[str, int]) -> int:
        return sum(memory.get(part, 0) for part in self.of)


PARTS = (
    MemoryPart(
        name="frozen weights",
        of=("weights",),
        meaning="the base's parameters that are not trained",
        kind="part-weights",
    ),
    MemoryPart(
        name="adapter", of=("adapter",), meaning="what is trained; with full the whole model", kind="part-adapter"
    ),
    MemoryPart(
        name="gradients",
        of=("gradients",),
        meaning="one for each number that is trained, as far as they are there by then",
        kind="part-gradients",
    ),
    MemoryPart(
        name="optimizer",
        of=("optimizer",),
        meaning="AdamW's two averages for each number that is trained",
        kind="part-optimizer",
    ),
    MemoryPart(
        name="activations",
        of=("activations", "inputs"),
        meaning="results of the forward pass, kept for the backward pass",
        kind="part-activations",
    ),
    MemoryPart(
        name="loss",
        of=("loss",),
        meaning="scores of all labels or of the vocabulary, and their gradients",
        kind="part-loss",
    ),
    MemoryPart(
        name="temporaries", of=("temporaries",), meaning="what comes and goes within the step", kind="part-temporaries"
    ),
)
"""In the order of tables and bars: what lasts first."""

BESIDE = MemoryPart(
    name="beside the tensors",
    of=("beside",),
    meaning="the process's libraries, and freed memory that the allocator keeps",
    kind="part-beside",
)


def bar_pieces(memory: Mapping[str, int], whole: float) -> Iterator[tuple[MemoryPart, float, float]]:
    """Return of each part where its piece of a bar begins and how long it is, as shares of `whole`."""
    start = 0.0
    for part in (*PARTS, BESIDE):
        if length := part.size(memory) / whole:
            yield part, start, length
        start += length


def memory_bar(memory: Mapping[str, int], whole: float, limit: float | None) -> Markup:
    """Draw the parts as one bar, as wide as the cell it is in, with a line at the limit if that is within it."""
    pieces = "".join(
        f'<rect class="{part.kind}" x="{1000 * start:.1f}" width="{1000 * length:.1f}" height="20">'
        f"<title>{escape(part.name)} {bytes_text(part.size(memory))}</title></rect>"
        for part, start, length in bar_pieces(memory, whole)
    )
    line = ""
    if limit is not None and limit <= whole:
        line = f'<path class="limit" d="M{1000 * limit / whole:.1f} -6V26"/>'
    return Markup(  # noqa: S704
        f'<svg class="parts" viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true">{pieces}{line}</svg>'
    )
