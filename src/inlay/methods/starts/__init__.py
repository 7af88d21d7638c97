"""Where LoRA's two matrices begin, one start a file: in random directions, in those of the weight, or of the data."""

from typing import Literal

from .eva import EVA
from .gaussian import Gaussian
from .kaiming import Kaiming
from .loftq import LoftQ
from .olora import OLoRA
from .orthogonal import Orthogonal
from .pissa import PiSSA
from .start import Start

# As settings name them; a new start is its file and a word and an object here.
Initialization = Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"]
STARTS: dict[str, Start] = {
    start.name: start for start in (Kaiming(), Gaussian(), Orthogonal(), PiSSA(), OLoRA(), EVA(), LoftQ())
}
