"""A base that processes share out, and the adapters beside it: on 2 and 4 processes of this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inlay.attached.adapter import plan_attach
from inlay.bases.shares import check_shares
from inlay.cli import main
from inlay.errors import SettingsError
from inlay.models.sharding import planned_bytes
from inlay.models.sites import Sites

from ..shapes import SHAPES, method
from ..tiny_models import save_tiny_model, write_rows

ROOT = Path(__file__).parents[2]
on_gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch with gloo")


def run(folder: Path, count: int, *checks: str, machines: int = 1) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = count // machines
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    started = []
    for n in range(count):
        ranks = {"RANK": str(n), "LOCAL_RANK": str(n % here), "LOCAL_WORLD_SIZE": str(here)}
        command = [sys.executable, str(ROOT / "tests" / "core" / "sharing.py"), str(folder), *checks]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=os.environ | own | ranks, **pipes))
    told = [process.communicate(timeout=900) for process in started]
    for process, (out, err) in zip(started, told, strict=True):
        assert process.returncode == 0, out[-2000:] + err[-4000:]
        assert all(out.count(f"right: {check}\n") == 1 for check in checks)


@on_gloo
def test_beside_a_base_that_is_shared_out_an_adapter_learns_what_it_would_alone(tmp_path: Path) -> None:
    run(tmp_path, 2, "some", "units")


@pytest.mark.slow
@on_gloo
def test_every_method_learns_what_it_would_alone(tmp_path: Path) -> None:
    run(tmp_path, 2, "methods", "recompute", "loading")


@pytest.mark.slow
@on_gloo
def test_four_processes_hold_a_quarter_each(tmp_path: Path) -> None:
    run(tmp_path, 4, "methods", "recompute", "loading")


@pytest.mark.slow
@on_gloo
def test_on_two_machines_each_has_the_whole_base(tmp_path: Path) -> None:
    run(tmp_path, 4, "some", machines=2)


def test_it_is_told_beforehand_what_each_will_hold() -> None:
    model = SHAPES["llama"].model()
    sizes = {name: sum(p.numel() * 4 for p in module.parameters()) for name, module in model.named_modules()}
    for count in (1, 4):
        held, most = planned_bytes(Sites(model), count)
        assert held == -(-sizes[""] // count)
        assert most - held == sizes["model.norm"] + 2 * sizes["model.layers.0"]
    tied = SHAPES["gpt2"].model()  # whose head is its embedding, so that it is gathered with what is left
    held, most = planned_bytes(Sites(tied), 2)
    outside = ("transformer.wte", "transformer.wpe", "transformer.ln_f")
    assert most - held == sum(p.numel() * 4 for name in outside for p in tied.get_submodule(name).parameters()) + (
        2 * sum(p.numel() * 4 for p in tied.transformer.h[0].parameters())
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "there is one; start more with --processes or torchrun, or leave --shard out"),
        (("--stream",), "stream and shard are both on"),
    ],
)
def test_shard_is_refused_where_it_would_do_nothing(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["llama"], tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", [{"text": f"good bad {n}"} for n in range(20)])
    assert main(["train", base, data, "--shard", "--out", str(tmp_path / "run"), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_method_that_trains_the_base_itself_is_refused() -> None:
    shape = SHAPES["llama"]
    with pytest.raises(SettingsError, match=r"full trains the base's own weights.*lora with a high --method.rank"):
        check_shares(plan_attach(shape.model(), method("full", shape)), 2)
    check_shares(plan_attach(shape.model(), method("last-layers", shape)), 2)
