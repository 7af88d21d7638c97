"""A is U(-1/sqrt(I), 1/sqrt(I)), as every implementation of LoRA has it (the paper says Gaussian), and B zero."""

from ...models.weights import Host
from .start import Start


class Kaiming(Start):
    """The start by default, which every host can have."""

    name = "kaiming"
    serves_experts = True

    def check_host(self, name: str, host: Host, rank: int) -> None:
        pass


KAIMING = Kaiming()
