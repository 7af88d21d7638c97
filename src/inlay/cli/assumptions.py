"""What a verb had to assume of an adapter, told beside its results."""

import sys

from ..inference.opened import Found


def say(found: Found) -> None:
    """Say it on standard error, as the results are for programs too."""
    for note in found.notes:
        print(f"note    {note}", file=sys.stderr)
