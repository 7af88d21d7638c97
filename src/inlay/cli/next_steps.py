"""What can be done with a run that is finished, as commands to copy."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..api.run import Run


def next_steps(run: "Run") -> str:
    """Return the lines below a training: where its files are, what comes next, and a warning."""
    from ..tasks.naive import warning_of

    folder, warning = run.folder, warning_of(run.summary)
    named = shlex.quote(str(folder))
    lines = [
        f"report  {folder}/report.html",
        f"adapter {folder}/adapter",
        f"next    inlay predict {named} {run.example}",
        f"        inlay eval {named}",
        *([f"warning {warning}"] if warning else []),
    ]
    return "\n".join(lines)
