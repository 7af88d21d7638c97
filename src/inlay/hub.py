"""Whether anything may be fetched from a hub: only what the user has named, never what a file names."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH = "HF_HUB_OFFLINE"  # of both libraries, each of which has read the environment when it was imported


@contextmanager
def offline(within: bool = True) -> Iterator[None]:
    """Let whatever would ask a hub use what is on this machine, or fail; with `within` False nothing is different.

    The arguments for this of transformers' readers do not reach all that they call.
    """
    if not within:
        yield
        return
    from huggingface_hub import constants

    of_data = sys.modules.get("datasets.config")
    before, of_data_before = constants.HF_HUB_OFFLINE, getattr(of_data, _SWITCH, constants.HF_HUB_OFFLINE)
    for switched in filter(None, (constants, of_data)):
        setattr(switched, _SWITCH, True)
    try:
        yield
    finally:
        setattr(constants, _SWITCH, before)
        if of_data := sys.modules.get("datasets.config"):  # it may have been imported in between
            setattr(of_data, _SWITCH, of_data_before)
