"""A base whose blocks stay in its files trains to the bits of one that is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import inlay
from inlay.bases.arrival import Arrival
from inlay.bases.base import find_base
from inlay.bases.loading import load_onto
from inlay.bases.streaming import Streaming
from inlay.cli import main
from inlay.cost.fake_model import share_storage
from inlay.errors import SettingsError
from inlay.formats.peft import TENSORS
from inlay.models.fingerprint import fingerprint
from inlay.models.sites import Sites

from ..shapes import SHAPES, Shape, disturb, method
from ..tiny_models import save_tiny_model, write_rows

CPU = torch.device("cpu")
WEIGHTS_OF_A_BLOCK = {"llama": 7, "bert": 6, "gpt2": 4}
BITS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(folder: Path, shape: Shape, dtype: torch.dtype, *, stream: bool) -> Any:
    base = find_base(str(folder))
    kind: Any = transformers.AutoModelForSequenceClassification if shape.name == "bert" else shape.model_class

    def read(take: Any) -> tuple[nn.Module, tuple[str, ...]]:
        model, found = base.load(kind, None, take, dtype=dtype)
        return model, found.heads

    return load_onto(CPU, read, 3, None, base if stream else None).model


def save(shape: Shape, folder: Path, dtype: torch.dtype) -> Path:
    shape.model(dtype).save_pretrained(folder)
    return folder


def in_files(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.is_meta]


def learned(model: Any, adapter: inlay.Adapter, shape: Shape) -> tuple[Any, ...]:
    disturb(adapter)
    model.train()
    torch.manual_seed(4)  # of dropout
    logits = model(**shape.inputs()).logits
    logits.float().square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in adapter.named_parameters()}


COMMON = ("lora", "dora", "oft", "houlsby", "last-layers", "prefix", "prompt", "adalora")
STREAMED = [name for name in inlay.METHODS if name != "full"]


@pytest.mark.parametrize("stored", BITS)
@pytest.mark.parametrize("name", [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in STREAMED])
@pytest.mark.parametrize("kind", ["llama", "bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_gradients_are_those_of_a_base_in_memory(kind: str, name: str, stored: str, tmp_path: Path) -> None:
    """Stored in float32 the layers are mapped as they are; from bfloat16 they are cast each time."""
    shape = SHAPES[kind]
    folder, results = save(shape, tmp_path, BITS[stored]), []
    for stream in (False, True):
        model = load(folder, shape, torch.float32, stream=stream)
        torch.manual_seed(3)
        adapter = inlay.attach(model, method(name, shape))
        before = in_files(model)
        assert sum(each.endswith(".weight") for each in before) == (2 * WEIGHTS_OF_A_BLOCK[kind] if stream else 0)
        results.append(learned(model, adapter, shape))
        assert in_files(model) == before  # after the backward pass too
        assert adapter.base_fingerprint == fingerprint(Sites(shape.model(BITS[stored])))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_the_cost_is_told_with_the_weights_of_one_block() -> None:
    model: Any = SHAPES["llama"].model()
    inlay.attach(model, inlay.LoRA(rank=2))
    share_storage(model)
    distinct = {p.data_ptr() for n, p in model.model.layers.named_parameters() if n.endswith("_proj.weight")}
    assert len(distinct) == WEIGHTS_OF_A_BLOCK["llama"]
    assert model.model.layers[0].mlp.up_proj.weight is model.model.layers[1].mlp.up_proj.weight


def test_starts_read_the_weights_in_the_files(tmp_path: Path) -> None:
    shape, states = SHAPES["llama"], []
    folder = save(shape, tmp_path, torch.bfloat16)
    for stream in (False, True):
        model = load(folder, shape, torch.float32, stream=stream)
        states.append(inlay.attach(model, inlay.LoRA(rank=4, initialization="pissa")).state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_a_run_that_streams_ends_as_one_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_tiny_model(SHAPES["llama"], tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", [{"text": f"good bad {n} fine"} for n in range(20)])
    for name, more in {"loaded": (), "streamed": ("--stream",)}.items():
        flags = ("--epochs", "1", "--samples", "0", "--no-forgetting", "--dtype", "float32", *more)
        assert main(["train", base, data, "--out", str(tmp_path / name), *flags]) == 0
    assert "its blocks read from the files in each pass" in " ".join(capsys.readouterr().out.split())
    loaded, streamed = (tmp_path / name / "adapter" for name in ("loaded", "streamed"))
    assert (streamed / TENSORS).read_bytes() == (loaded / TENSORS).read_bytes()
    about = [json.loads((folder / "provenance.json").read_text()) for folder in (loaded, streamed)]
    assert "stream" not in about[0]
    assert about[1]["stream"] is True
    opened = [inlay.open(folder) for folder in (loaded, streamed)]
    assert [bool(in_files(each.model)) for each in opened] == [False, True]  # what needed it in training needs it now
    ids = torch.arange(5, 11)[None]
    with torch.no_grad():
        logits = [each.model(input_ids=ids).logits for each in opened]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "full"), "full trains the base's own weights, which stay in its files; choose another method"),
        (("--quantize", "nf4"), "quantize is nf4; a quantized base takes a quarter of the memory"),
    ],
)
def test_stream_is_refused_where_it_would_do_nothing(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["llama"], tmp_path / "base")
    data = write_rows(tmp_path / "rows.jsonl", [{"text": f"good bad {n}"} for n in range(20)])
    assert main(["train", base, data, "--stream", "--out", str(tmp_path / "run"), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_base_without_safetensors_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = Path(save_tiny_model(SHAPES["llama"], tmp_path / "base"))
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    data = write_rows(tmp_path / "rows.jsonl", [{"text": f"good bad {n}"} for n in range(20)])
    assert main(["train", str(base), data, "--stream", "--out", str(tmp_path / "run")]) == 2
    assert "has no safetensors files to read from" in " ".join(capsys.readouterr().err.split())


def test_weights_that_the_files_have_otherwise_are_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    base = find_base(str(save(shape, tmp_path, torch.bfloat16)))
    streaming = Streaming(base, CPU)

    def change(arrival: Arrival) -> nn.Parameter:
        arrival.parameter.data = arrival.parameter + 1
        return streaming.take(arrival)

    with pytest.raises(SettingsError, match=r"down_proj.weight of LlamaForCausalLM is not in the safetensors files"):
        base.load(transformers.AutoModelForCausalLM, None, change, dtype=torch.float32)
