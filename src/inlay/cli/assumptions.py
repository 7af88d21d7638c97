"""What a verb had to assume of an adapter, told beside its results."""

import sys

from ..api.run import Run


def say(run: Run) -> None:
    """Say it on standard error, as the results are for programs too."""
    for note in run.notes:
        print(f"note    {note}", file=sys.stderr)
