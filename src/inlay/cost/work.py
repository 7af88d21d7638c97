"""Operations, as time is told from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What is computed: products on the one hand, and on the other operations that only pass over memory."""

    products: float = 0.0  # multiplications and additions in matrix products
    moved: float = 0.0  # bytes that the other operations read and write
    operations: float = 0.0

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        return Work(
            self.products + times * other.products,
            self.moved + times * other.moved,
            self.operations + times * other.operations,
        )

    def of_tokens(self, share: float) -> "Work":
        """Return the work for this share of the tokens, in as many operations."""
        return Work(share * self.products, share * self.moved, self.operations)
