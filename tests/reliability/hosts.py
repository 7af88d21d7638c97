"""Two hosts with a cable between them: network namespaces of this machine, which take root and iproute2 to make."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_PORT = 29600
_OWN_DISK = 'mount -t tmpfs none "$0" && exec "$@"'


class Host:
    """One of the two; the other sees nothing of what it keeps in the folder that it calls its own."""

    def __init__(self, number: int, own: Path | None = None):
        self.number, self.own = number, own
        self.name, self.device, self.address = f"inlay{os.getpid()}-{number}", f"v{number}", f"10.77.0.{number + 1}"

    def ip(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def cut(self) -> None:
        self.ip("link", "set", self.device, "down")

    def mend(self) -> None:
        self.ip("link", "set", self.device, "up")

    def torchrun(
        self, arguments: Sequence[str], log: Path, patience: int, restarts: int = 3
    ) -> subprocess.Popen[bytes]:
        """Start `inlay` with these arguments in one process of this host, and torchrun's agent over it."""
        started = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        started += ["--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "hosts"]
        started += ["--rdzv-endpoint", f"10.77.0.1:{_PORT}", "--rdzv-conf", f"is_host={1 - self.number}"]
        started += ["--local-addr", self.address, "-m", "inlay", *arguments]
        disk = ["sh", "-c", _OWN_DISK, str(self.own)] if self.own else []
        here = {"GLOO_SOCKET_IFNAME": self.device, "OMP_NUM_THREADS": "1", "INLAY_PATIENCE": str(patience)}
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *disk, *started], stdout=file, stderr=file, env=os.environ | here
            )

    def remove(self) -> None:
        """End what runs there, and the host."""
        found = subprocess.run(["ip", "netns", "pids", self.name], check=False, capture_output=True, text=True)
        for number in found.stdout.split():
            os.kill(int(number), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@contextmanager
def two_hosts(own: Path) -> Iterator[tuple[Host, Host]]:
    """Make two hosts; the second has a file system of its own at the folder `own`. Skips the test where that needs what
    this machine does not give."""
    hosts = Host(0), Host(1, own)
    try:
        try:
            for host in hosts:
                _ip("netns", "add", host.name)
            one, other = hosts
            one.ip("link", "add", one.device, "type", "veth", "peer", "name", other.device, "netns", other.name)
            for host in hosts:
                host.ip("addr", "add", f"{host.address}/24", "dev", host.device)
                host.ip("link", "set", "lo", "up")
                host.mend()
        except (OSError, subprocess.CalledProcessError) as problem:
            said = getattr(problem, "stderr", None) or problem
            pytest.skip(f"no network namespaces can be made here, which takes root and iproute2: {said}")
        yield hosts
    finally:
        for host in hosts:
            host.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
