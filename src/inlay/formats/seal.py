"""What tells that an adapter's files are those that were written: the SHA-256 of each, kept in provenance.json.

provenance.json has one of itself too, of all else that it says. Files from before there were digests, and of
other programs, have none and are taken as they are; so are files of whose provenance the user has set `digests` to {}.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import digest_of
from .read import read_object

PROVENANCE = "provenance.json"
CAME_PACKED = "base_came_packed"  # says that the base's fingerprint is of packed weights, and fits them alone
DIGESTS = "digests"
_SEALED = "sealed"  # says that there are digests, so that damage to their own name is found too
KEYS = (_SEALED, DIGESTS)


def sealed(about: Mapping[str, object], folder: Path, names: Iterable[str]) -> dict[str, object]:
    """Return `about` with the digests of these files in `folder` and its own."""
    about = {key: value for key, value in about.items() if key not in KEYS} | {_SEALED: True}
    digests = {name: digest_of(folder / name) for name in sorted(names)}
    return about | {DIGESTS: digests | {PROVENANCE: _own(about, digests)}}


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what Inlay wrote about the adapter; empty for one that another program saved. Raises CheckpointError if it
    is not as it was written.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    about = read_object(path, "the provenance of an adapter")
    digests = about.get(DIGESTS, {} if _SEALED not in about else None)
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise CheckpointError(f"{path}: {DIGESTS} are not the digests of files by name; copy it again")
    if digests and digests.get(PROVENANCE) != _own(about, digests):
        raise CheckpointError(_changed(path))
    rows = about.get("base_rows") or {}
    texts = [about.get("base_fingerprint") or "", *(rows.values() if isinstance(rows, dict) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise CheckpointError(f"{path}: base_fingerprint or base_rows are no fingerprints; copy it again")
    return about


def check(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise CheckpointError unless these files in `folder`, or all that are there, are as they were written."""
    digests = read_provenance(folder).get(DIGESTS, {})
    for name in digests if names is None else names:
        path = folder / name
        if name in digests and Path(name).name == name and name != PROVENANCE and path.is_file():
            if digest_of(path) != digests[name]:
                raise CheckpointError(_changed(path))


def _own(about: Mapping[str, object], digests: Mapping[str, str]) -> str:
    others = {name: digest for name, digest in digests.items() if name != PROVENANCE}
    said = {**about, DIGESTS: others}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> str:
    return (
        f"{path} is not as it was written, its digest in {PROVENANCE} is another: it was damaged, or changed by "
        f'another program or by hand; copy it again, or, if it is meant, set "{DIGESTS}" in {PROVENANCE} to {{}}'
    )
