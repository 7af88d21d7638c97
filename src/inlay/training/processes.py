"""One process trains. What starts several of them tells each of the others through the environment."""

import os

from ..errors import SettingsError

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # those that accelerate heeds


def check_one_process() -> None:
    """Raise SettingsError if this process is one of several, as torchrun, accelerate launch and mpirun start them.

    Each of them would train an adapter of its own on its share of the rows.
    """
    for name in _COUNTS:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 1:
            raise SettingsError(
                f"the environment variable {name} is {value}: of so many processes each would train an adapter of its "
                "own on a share of the rows, and Inlay trains in one as yet; start it once, without torchrun, "
                f"accelerate launch or mpirun, or unset {name}"
            )
