"""Devices that are not here: what is chosen for them, and what of them is called, on modules that only count."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import inlay
from inlay import devices
from inlay.cli import doctor
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.lab.rank import updates
from inlay.lab.rank.updates import updates_of
from inlay.training import memory, random_state
from inlay.training.run import train
from inlay.training.settings import RunSettings

from .shapes import SHAPES, disturb, method

GIB = 2**30


class Module:
    """Stands for torch.cuda, torch.xpu and the like, and tells what it was asked."""

    def __init__(self, **answers: Any):
        self.answers, self.calls = answers, list[tuple[Any, ...]]()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self.answers:
            raise AttributeError(name)

        def called(*args: Any) -> Any:
            self.calls.append((name, *args))
            return self.answers[name]

        return called


Add = Callable[..., Module]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Add:
    """Give this machine accelerators of a kind that it has not."""

    def adds(kind: str, count: int = 1, **answers: Any) -> Module:
        module, real = Module(**answers), torch.get_device_module
        found = SimpleNamespace(type=kind, index=None)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: module.calls.append(("wait", device)))
        monkeypatch.setattr(torch, "get_device_module", lambda d: module if getattr(d, "type", d) == kind else real(d))
        if kind in ("cuda", "xpu"):
            for name in answers:
                monkeypatch.setattr(getattr(torch, kind), name, getattr(module, name))
        return module

    return adds


def test_whatever_accelerator_there_is_is_found_and_can_be_named(add: Add) -> None:
    for kind in ("cuda", "mps", "xpu", "hpu"):
        add(kind, 2)
        assert devices.pick_device("auto") == torch.device(kind)
        assert devices.pick_device(kind) == torch.device(kind)
        assert devices.pick_device(f"{kind}:1") == torch.device(kind, 1)
        assert devices.pick_device("cpu") == torch.device("cpu")
        with pytest.raises(SettingsError, match=f"device {kind}:2 is not there; there is {kind}:0 to {kind}:1"):
            devices.pick_device(f"{kind}:2")
    with pytest.raises(SettingsError, match="device cuda is not there; there is cpu, hpu"):
        devices.pick_device("cuda")


def test_without_an_accelerator_it_is_the_cpu() -> None:
    assert devices.pick_device("auto") == torch.device("cpu")
    with pytest.raises(SettingsError, match="device xpu:1 is not there; there is cpu"):
        devices.pick_device("xpu:1")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gpu", "device is 'gpu'; did you mean cuda?"),
        ("cud", "did you mean cuda?"),
        ("cuda:one", "only accelerators are numbered, from 0: cuda:1 is the second"),
        ("cuda:", "device is 'cuda:'"),
        ("cuda:-1", "device is 'cuda:-1'"),
        ("cpu:0", "device is 'cpu:0'; only accelerators are numbered"),
        ("auto:1", "device is 'auto:1'; only accelerators are numbered"),
    ],
)
def test_what_is_no_device_is_told_with_the_settings(asked: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said.replace("?", r"\?")):
        RunSettings(model="m", data=DataSettings(path="d"), method=inlay.LoRA(), device=asked)


def test_a_suggestion_is_a_device_of_this_machine(add: Add) -> None:
    add("mps")
    with pytest.raises(SettingsError, match="device is 'gpu'; known: auto, cpu, mps"):
        devices.pick_device("gpu")


@pytest.mark.parametrize(
    ("kind", "answers", "dtype"),
    [
        ("cuda", {"get_device_capability": (9, 0)}, torch.bfloat16),  # H100
        ("cuda", {"get_device_capability": (8, 0)}, torch.bfloat16),  # A100
        ("cuda", {"get_device_capability": (7, 5)}, torch.float16),  # T4
        ("cuda", {"get_device_capability": (7, 0)}, torch.float16),  # V100
        ("cuda", {"get_device_capability": (6, 1)}, torch.float32),  # whose float16 is a 64th as fast
        ("xpu", {"get_device_properties": SimpleNamespace(has_bfloat16_conversions=True)}, torch.bfloat16),
        ("xpu", {"get_device_properties": SimpleNamespace(has_bfloat16_conversions=False)}, torch.float16),
        ("mps", {}, torch.float32),
        ("hpu", {}, torch.bfloat16),
        ("hpu", {"is_bf16_supported": False}, torch.float16),
    ],
)
def test_a_base_has_16_bits_where_the_device_multiplies_them(
    kind: str, answers: dict[str, Any], dtype: torch.dtype, add: Add
) -> None:
    add(kind, **answers)
    assert devices.best_dtype(torch.device(kind)) == dtype


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "tf32"), ((7, 5), None)])
def test_tf32_is_for_the_block_alone_and_where_it_is(capability: tuple[int, int], name: str | None, add: Add) -> None:
    add("cuda", get_device_capability=capability)
    products: Any = torch.backends.cuda.matmul
    before = products.fp32_precision
    with suppress(KeyboardInterrupt), devices.tf32(torch.device("cuda"), allowed=True):
        assert products.fp32_precision == (name or before)
        raise KeyboardInterrupt
    assert products.fp32_precision == before
    with devices.tf32(torch.device("cuda"), allowed=False):
        assert products.fp32_precision == ("ieee" if name else before)
    assert products.fp32_precision == before
    assert not devices.has_tf32(torch.device("cpu"))


@pytest.mark.parametrize("allowed", [True, False])
def test_a_run_allows_tf32_or_does_not_and_says_so(
    allowed: bool, tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "has_tf32", lambda _: True)
    for module in ("active_run", "resolved"):
        monkeypatch.setattr(f"inlay.training.{module}.has_tf32", lambda _: True)
    seen, out = set[str](), tmp_path / "run"
    products: Any = torch.backends.cuda.matmul
    settings = RunSettings(
        model=tiny_bert, data=DataSettings(path=reviews_folder, train_rows=16), method=inlay.LoRA(rank=2), tf32=allowed,
        out=str(out), epochs=1, forgetting=False,
    )  # fmt: skip
    train(settings, lambda event: seen.add(products.fp32_precision))
    assert ("tf32" if allowed else "ieee") in seen
    assert products.fp32_precision == "none"
    (model,) = [e for e in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if e["event"] == "model"]
    assert model["tf32"] is allowed
    assert ("float32 products in TF32" in (out / "log.txt").read_text()) is allowed
    tail = "true  # float32 matrices are multiplied so" if allowed else "false\n"
    assert f"tf32: {tail}" in (out / "resolved.yaml").read_text()


def test_random_numbers_of_any_accelerator_are_kept_and_set(add: Add) -> None:
    state, device = torch.arange(16, dtype=torch.uint8), torch.device("xpu", 1)
    module = add("xpu", 2, get_rng_state=state, set_rng_state=None)
    kept = random_state.random_tensors(device)
    assert torch.equal(kept["device"], state)
    random_state.set_random_tensors(kept, device)
    assert module.calls[0] == ("get_rng_state", device)
    name, given, where = module.calls[1]
    assert (name, where) == ("set_rng_state", device)
    assert torch.equal(given, state)
    assert random_state.random_tensors(torch.device("cpu")).keys() == {"cpu"}


def test_random_numbers_of_apples_only_gpu_are_asked_for_without_a_device(add: Add) -> None:
    module = add("mps", get_rng_state=torch.zeros(2), set_rng_state=None)
    kept = random_state.random_tensors(torch.device("mps"))
    random_state.set_random_tensors(kept, torch.device("mps"))
    assert [len(call) for call in module.calls] == [1, 2]


def test_an_accelerators_memory_is_told_in_its_parts(add: Add) -> None:
    device = torch.device("xpu")
    module = add(
        "xpu",
        mem_get_info=(4 * GIB, 16 * GIB),
        memory_allocated=1 * GIB,
        memory_reserved=9 * GIB,
        max_memory_allocated=7 * GIB,
        max_memory_reserved=10 * GIB,
        empty_cache=None,
        reset_peak_memory_stats=None,
    )
    assert memory.peak_memory_bytes(device) == 7 * GIB
    assert memory.memory_bytes(device) == 1 * GIB
    assert memory.available_memory_bytes(device) == 12 * GIB  # free, and kept by PyTorch for no tensor
    assert memory.device_memory(device, memory.beside_bytes(device)) == {
        "allocated_bytes": 7 * GIB,
        "reserved_bytes": 10 * GIB,
        "beside_bytes": 3 * GIB,
        "beside_at_start_bytes": 3 * GIB,
    }
    memory.reset_peak_memory(device)
    assert ("empty_cache",) in module.calls
    assert ("reset_peak_memory_stats", device) in module.calls


def test_apples_memory_is_what_its_driver_has_allocated(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("mps")
    add("mps", empty_cache=None)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 6 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2 * GIB)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * GIB)
    assert memory.peak_memory_bytes(device) == 6 * GIB
    assert memory.memory_bytes(device) == 2 * GIB
    assert memory.available_memory_bytes(device) == 8 * GIB
    memory.reset_peak_memory(device)
    told = memory.device_memory(device, memory.beside_bytes(device))
    assert told == {
        "allocated_bytes": 6 * GIB, "reserved_bytes": 6 * GIB, "beside_bytes": None, "beside_at_start_bytes": None
    }  # fmt: skip


def test_a_cpu_has_no_parts() -> None:
    assert memory.device_memory(torch.device("cpu"), memory.beside_bytes(torch.device("cpu"))) is None


def test_what_waits_for_an_accelerator_waits_for_any(add: Add) -> None:
    module, device = add("xpu", set_device=None), torch.device("xpu", 0)
    devices.synchronize(device)
    devices.make_current(device)
    assert module.calls == [("wait", device), ("set_device", device)]
    devices.synchronize(torch.device("cpu"))
    devices.make_current(torch.device("cpu"))
    devices.make_current(torch.device("xpu"))
    assert len(module.calls) == 2


class Sent:
    """Stands for a tensor, and tells how it was copied."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.how: list[object] = []

    def pin_memory(self) -> "Sent":
        self.how.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Sent":
        self.how += [device.type, non_blocking]
        return self


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("cuda", ["pinned", "cuda", True]),
        ("xpu", ["pinned", "xpu", True]),
        ("mps", ["mps", False]),
        ("cpu", ["cpu", False]),
    ],
)
def test_nothing_waits_for_a_copy_to_the_device(kind: str, how: list[object]) -> None:
    tensor: Any = Sent()
    assert devices.send(tensor, torch.device(kind)).how == how  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("kind", "fine"), [("cuda", True), ("cpu", True), ("mps", False), ("hpu", False)])
def test_float64_is_where_it_is_known_to_be(kind: str, fine: bool) -> None:
    assert devices.has_float64(torch.device(kind)) is fine


@pytest.mark.parametrize("has", [True, False])
def test_intels_gpus_say_whether_they_have_float64(has: bool, add: Add) -> None:
    add("xpu", get_device_properties=SimpleNamespace(has_fp64=has))
    assert devices.has_float64(torch.device("xpu")) is has


@pytest.mark.parametrize("name", ["oft", "dora", "ia3", "sparse", "full"])
def test_an_update_is_taken_on_the_cpu_where_there_is_no_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delta is copied there, and stays where it was."""
    shape = SHAPES["llama"]
    base, model = shape.model(), shape.model()
    adapter = inlay.attach(model, method(name, shape))
    disturb(adapter)
    layers = updates_of(adapter, base).layers
    wanted = {layer: update.tuned() for layer, update in layers.items()}
    copied: list[object] = []
    real = updates._on_cpu
    monkeypatch.setattr(updates, "has_float64", lambda _: False)
    monkeypatch.setattr(updates, "_on_cpu", lambda delta: copied.append(delta) or real(delta))
    for layer, update in layers.items():
        found: Tensor = update.tuned()
        assert found.dtype == torch.float64
        assert torch.equal(found, wanted[layer])
    assert len(copied) == (0 if name == "full" else len(layers))


def test_doctor_tells_what_the_device_can(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add(
        "cuda", 2,
        get_device_capability=(7, 5), get_device_name="Tesla T4", mem_get_info=(14 * GIB, 16 * GIB),
        memory_reserved=0, memory_allocated=0,
    )  # fmt: skip
    found = doctor.examine()
    machine = found["machine"]
    assert machine["device"] == "Tesla T4 (cuda)"
    assert machine["computes in"].startswith("float16 with a scaled loss")
    assert machine["TF32"] == "cuda has none"
    assert machine["attention"] == "sdpa, eager (--attention)"
    assert machine["device memory"] == "14.0 GiB free"
    assert machine["devices"].startswith("cuda:0 to cuda:1")
    assert "ready to train on Tesla T4 (cuda) in float16;" in doctor._verdict(found)
