"""An event of a run, a comparison or a merge: one flat JSON object with the key `event`, which names its kind.

The same objects are the lines of metrics.jsonl, what a watcher gets, and what `--json` prints.
"""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Watcher = Callable[[Event], None]
