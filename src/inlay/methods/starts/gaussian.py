"""A is normal with deviation 1/R, and B zero."""

from torch import Tensor

from .start import Start


class Gaussian(Start):
    """Kaiming's start with a normal A."""

    name = "gaussian"
    serves_experts = True
    finds_directions = False

    def draw(self, a: Tensor) -> Tensor:
        return a.normal_(std=1 / a.shape[-2])
