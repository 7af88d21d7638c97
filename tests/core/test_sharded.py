"""Adapters whose tensors several processes share out (FSDP2), and models that others have wrapped or cast."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import inlay
from inlay.errors import AdapterStateError

from ..shapes import SHAPES, disturb, logits, method

ROOT = Path(__file__).parents[2]
METHODS = ("lora", "vera", "dora", "bitfit", "prompt", "adalora", "dynamic-rank", "norm", "full")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch with gloo, to run two processes")
def test_a_sharded_adapter_is_trained_saved_and_loaded_as_a_whole_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [*launch, str(ROOT / "tests" / "core" / "fsdp.py"), str(tmp_path), *METHODS],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert all(done.stdout.count(f"right: {name}\n") == 2 for name in METHODS)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch with gloo")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_under_ddp_an_adapter_learns_what_it_would_alone(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        found = []
        for wrap in (lambda model: model, DistributedDataParallel):
            model = shape.model()
            torch.manual_seed(0)
            adapter = inlay.attach(model, inlay.VeRA(rank=4))
            disturb(adapter)
            wrap(model)(**shape.inputs()).logits.square().mean().backward()
            found.append({n: p.grad for n, p in adapter.named_parameters()})
            adapter.save(tmp_path / "adapter")
        torch.testing.assert_close(found[1], found[0])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_model_that_another_engine_has_divided_takes_no_adapters() -> None:
    partitioned = SHAPES["llama"].model()
    p: Any = partitioned.lm_head.weight
    p.ds_id, p.data = 0, torch.empty(0)
    with pytest.raises(AdapterStateError, match=r"DeepSpeed \(ZeRO-3\).*use ZeRO-2, or FSDP2.*--shard"):
        inlay.attach(partitioned, inlay.LoRA())
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        divided, flat, parted = (SHAPES["llama"].model() for _ in range(3))
        parallelize_module(divided, mesh, {"model.layers.0.mlp.up_proj": ColwiseParallel()})
        with pytest.raises(AdapterStateError, match="tensor parallelism.*FSDP2"):
            inlay.attach(divided, inlay.LoRA())
        flat.model.layers[0] = FullyShardedDataParallel(flat.model.layers[0], device_id=torch.device("cpu"))
        with pytest.raises(AdapterStateError, match="FSDP1.*use FSDP2"):
            inlay.attach(flat, inlay.LoRA())
        fully_shard(parted, mesh=mesh)
        with pytest.raises(AdapterStateError, match="is sharded over processes already; attach or load adapters first"):
            inlay.attach(parted, inlay.LoRA())
    finally:
        torch.distributed.destroy_process_group()


def test_a_tensor_that_deepspeed_keeps_elsewhere_is_not_saved_as_nothing(tmp_path: Path) -> None:
    model = SHAPES["llama"].model()
    adapter = inlay.attach(model, inlay.LoRA(rank=2))
    p: Any = next(adapter.parameters())
    p.ds_id, p.data = 0, torch.empty(0)
    with pytest.raises(AdapterStateError, match="gather the adapter's parameters first"):
        adapter.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("name", inlay.METHODS)
@pytest.mark.parametrize("cast", ["to", "half", "bfloat16"])
def test_casting_the_model_leaves_the_adapter_in_float32(name: str, cast: str) -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, method(name, shape))
    disturb(adapter)
    state = {key: t.clone() for key, t in adapter.state_dict().items()}
    with torch.no_grad():
        before = logits(model, shape)
    model = model.to(torch.bfloat16) if cast == "to" else getattr(model, cast)()
    with torch.no_grad():
        torch.testing.assert_close(logits(model, shape).float(), before, atol=0.1, rtol=0.1)
    model.train()
    if name == "full":
        with pytest.raises(AdapterStateError, match="in 16 bits since model.to"):
            logits(model, shape)
        assert {p.dtype for p in inlay.adapters(model.float())["default"].parameters()} == {torch.float32}
        logits(model, shape)
        return
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    learned = {key for key, _ in adapter.named_parameters()}
    assert all(torch.equal(t, state[key]) for key, t in adapter.state_dict().items() if key in learned)
    logits(model, shape).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.parameters())
    model.half()  # with gradients there
    assert {p.dtype for p in model.double().parameters()} == {torch.float64}


@pytest.mark.parametrize("name", inlay.METHODS)
def test_no_tensor_of_an_adapter_is_twice_in_a_state_dict(name: str) -> None:
    shape = SHAPES["gpt2"]
    model = shape.model()
    inlay.attach(model, inlay.Pattern(include=(".*wte.*", ".*lm_head.*")) if name == "pattern" else method(name, shape))
    places = [t.data_ptr() for key, t in model.state_dict().items() if ".adapters." in key and t.numel()]
    assert len(places) == len(set(places))


def test_an_average_of_the_weights_runs_on_the_averaged_adapter() -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.LoRA(rank=4))
    disturb(adapter)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.2
        average.update_parameters(model)
        found = average(**shape.inputs()).logits
        for p in adapter.parameters():
            p -= 0.1
        torch.testing.assert_close(found, logits(model, shape), atol=1e-4, rtol=1e-4)
