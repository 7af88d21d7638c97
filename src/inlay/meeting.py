"""Where processes that were started together find each other."""

import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from .errors import OthersUnreachable
from .launch import patience


@dataclass(frozen=True)
class Meeting:
    """What the processes find each other by, each time that they join."""

    kept: Store  # with torchrun by its agent: it outlives these processes
    place: str  # in the store, of these processes alone


def meet(own: int, members: int) -> Meeting:
    """Find the processes that were started with this one. Raises OthersUnreachable if one of them does not come.

    They agree on a place in the store: there may be what those before them have left, and torchrun's count of restarts
    is not the same on all machines.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    missing, place = set(range(1, members)) if own == 0 else {0}, uuid.uuid4().hex
    keeps = own == 0 and not agent_keeps_store()
    try:
        if not keeps:
            _wait_for(address, port)
        kept = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]  # it is documented there
            address,
            port,
            is_master=keeps,
            timeout=timedelta(seconds=patience()),
            wait_for_workers=False,
            multi_tenant=True,
        )
        if own:
            kept.set(f"inlay/here/{own}", place)
            first = kept.get(f"inlay/to/{place}").decode()
            kept.set(f"inlay/{first}/{own}", "")
            return Meeting(kept, f"inlay/{first}")
        until = time.monotonic() + patience()
        while missing and time.monotonic() < until:
            for other in list(missing):
                if kept.check([f"inlay/{place}/{other}"]):
                    missing.remove(other)
                elif kept.check([f"inlay/here/{other}"]):  # it may be one from before
                    kept.set(f"inlay/to/{kept.get(f'inlay/here/{other}').decode()}", place)
            time.sleep(0.02)
    except (RuntimeError, OSError) as problem:
        why = f" ({' '.join(str(problem).split())})" if keeps else ""
        raise _not_met(missing, f"{address}:{port}{why}") from problem
    if missing:
        raise _not_met(missing, f"{address}:{port}")
    return Meeting(kept, f"inlay/{place}")


def _wait_for(address: str, port: int) -> None:
    """Wait until somebody listens there: the store would, too, and then write pages of its calls. Raises OSError."""
    until = time.monotonic() + patience()
    while True:
        try:
            socket.create_connection((address, port), timeout=max(0.1, until - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


def agent_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _not_met(missing: set[int], where: str) -> OthersUnreachable:
    names = f"process{'es' if len(missing) > 1 else ''} {', '.join(str(each) for each in sorted(missing))}"
    return OthersUnreachable(
        f"{names} did not come to {where} within {patience():g} seconds; see that all were started, and that their "
        "machines reach that address (INLAY_PATIENCE sets the seconds)"
    )
