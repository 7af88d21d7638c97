"""Loading within bounds: a base goes to where it computes, or into 4 bits, one parameter after the other; same bits."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules import module as modules

from inlay.bases.arrival import Arrival, arriving
from inlay.bases.base import find_base, labeller_class
from inlay.bases.loading import Loaded, load_onto
from inlay.bases.quantized import Packing, quantize, unshared_linears
from inlay.formats.read import tensors
from inlay.models import mapped
from inlay.models.fingerprint import fingerprint
from inlay.models.sites import Sites

from ..quantized_models import WIDE

CPU = torch.device("cpu")
CAUSAL = transformers.AutoModelForCausalLM


def sharded(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2


def pickled(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def single(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float32, save: Any = single) -> Path:
    """Save a language model, or the pretrained body of BERT; a classifier's head is new in either case."""
    whole: Any = WIDE[name].model(dtype)
    save(whole.base_model if name == "bert" else whole, folder)
    return folder


def loader(folder: Path, dtype: torch.dtype, *, classifier: bool) -> Callable[[Any], tuple[Any, tuple[str, ...]]]:
    base = find_base(str(folder))
    if classifier:
        config = base.classifier_config(("a", "b", "c"), 0)
        kind = labeller_class(config)
    else:
        config, kind = None, CAUSAL

    def load(take: Any = None) -> tuple[Any, tuple[str, ...]]:
        model, found = base.load(kind, config, take, dtype=dtype)
        return model, found.heads if classifier else ()

    return load


def plainly(load: Any, dtype: torch.dtype) -> Loaded:
    """Load the whole, and then quantize it."""
    transformers.set_seed(5)
    model, heads = load()
    total = sum(p.numel() for p in model.parameters())
    quantize(model, dtype, heads=heads)
    return Loaded(model, heads, total)


def everything(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = dict(model.state_dict())
    found["training"] = {name: m.training for name, m in model.named_modules()}
    found["dtype"] = {name: p.dtype for name, p in model.named_parameters()}
    return found


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "classifier", "save"),
    [
        ("llama", False, single),
        ("llama", True, sharded),
        ("gpt2", False, pickled),
        ("bert", True, single),  # whose pooler is there
        ("bert", True, sharded),
        ("t5", True, single),
    ],
)
def test_a_base_quantized_on_its_way_is_the_one_quantized_whole(
    name: str, classifier: bool, save: Any, stored: torch.dtype, tmp_path: Path
) -> None:
    load = loader(saved(name, tmp_path, stored, save), torch.bfloat16, classifier=classifier)
    expected, expected_random = plainly(load, torch.bfloat16), torch.get_rng_state()
    found = load_onto(CPU, load, 5, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), expected_random)
    assert found.heads == expected.heads
    assert found.total_parameters == expected.total_parameters
    here, there = everything(found.model), everything(expected.model)
    assert list(here) == list(there)
    assert any(key.endswith("quant_map") for key in here)
    for key, value in here.items():
        assert torch.equal(value, there[key]) if isinstance(value, Tensor) else value == there[key], key
    sites = [Sites(each.model, each.heads) for each in (found, expected)]
    assert fingerprint(sites[0]) == fingerprint(sites[1]) is not None
    assert os.environ.get("HF_DEACTIVATE_ASYNC_LOAD") is None
    assert not modules._global_parameter_registration_hooks
    assert not modules._global_module_registration_hooks


def test_a_new_pooler_is_a_head_and_stays_in_16_bits(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path, torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if "pooler" not in k}, folder / "model.safetensors", {"format": "pt"})
    load = loader(folder, torch.bfloat16, classifier=True)
    expected, found = plainly(load, torch.bfloat16), load_onto(CPU, load, 5, torch.bfloat16)
    assert found.heads == expected.heads == ("classifier", "bert.pooler")
    assert torch.equal(found.model.bert.pooler.dense.weight, expected.model.bert.pooler.dense.weight)


def test_there_is_never_more_than_one_weight_beside_the_quantized_ones(tmp_path: Path) -> None:
    load = loader(saved("llama", tmp_path, torch.float32), torch.bfloat16, classifier=False)
    packing = Packing(torch.bfloat16, CPU)

    def take(arrival: Arrival) -> nn.Parameter:
        assert all(layer.weight.is_meta for layer in unshared_linears(Sites(arrival.model)))
        return packing.take(arrival)

    model, _ = load(take)
    assert len(packing.packed) == len(unshared_linears(Sites(model))) == 14


def layer_of(arrival: Arrival) -> Any:
    return arrival.model.get_submodule(arrival.module_name)


def test_each_parameter_arrives_by_its_name_once_and_those_that_are_new_do_not(tmp_path: Path) -> None:
    load = loader(saved("bert", tmp_path), torch.float32, classifier=True)
    arrived: list[str] = []

    def take(arrival: Arrival) -> nn.Parameter:
        assert layer_of(arrival) is arrival.module
        arrived.append(arrival.key)
        return arrival.replaced_by(nn.Parameter(arrival.parameter.detach().clone()))

    expected, _ = load()
    model, heads = load(take)
    own = dict(expected.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters() if not name.startswith("classifier."))
    assert heads == ("classifier",)
    assert sorted(arrived) == sorted(n for n, _ in model.named_parameters() if not n.startswith("classifier."))


def test_what_another_thread_makes_meanwhile_is_left_alone() -> None:
    def fail(arrival: Arrival) -> nn.Parameter:
        raise AssertionError(arrival.key)

    def build() -> None:
        layer = nn.Sequential(nn.Linear(2, 2))
        p = nn.Parameter(torch.ones(2, 2))
        p._is_hf_initialized = True
        layer[0].weight = p

    with arriving(fail, one_by_one=False):
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
        with pytest.raises(AssertionError, match=r"0\.weight"):
            build()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is mapped")
def test_what_is_mapped_is_known_and_its_pages_can_be_given_back(tmp_path: Path) -> None:
    values = torch.arange(3_000_000, dtype=torch.float32)
    save_file({"small": torch.ones(3), "large": values}, tmp_path / "model.safetensors")
    large = tensors(tmp_path / "model.safetensors")["large"]
    assert mapped.is_mapped(large)
    assert not mapped.is_mapped(values)
    assert not mapped.is_mapped(large + 1)
    assert torch.equal(large, values)  # so all of it has been read
    before = resident_of_files()
    mapped.let_go(large)
    assert before - resident_of_files() > 0.9 * values.nbytes
    assert torch.equal(large, values)


def resident_of_files() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return 1024 * int(line.split()[1])
