"""Where a new head begins: at the labels' shares in train, or at what a linear classifier learns."""

from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.attached.adapter import Adapter
from inlay.bases.base import find_base
from inlay.core.method import Method
from inlay.data.formats import open_data
from inlay.data.settings import DataSettings
from inlay.tasks.classify import Classify
from inlay.training.settings import RunSettings

from ..shapes import SHAPES
from ..tiny_models import save_tiny_model, write_rows


def started(model: str, folder: Path, method: Method) -> tuple[Adapter, dict[str, torch.Tensor]]:
    """An adapter for nine rows of one label and one of another, and its parameters before the head was started."""
    rows = [{"text": f"good film {i}", "label": "b" if i % 10 == 3 else "a"} for i in range(40)]
    data = DataSettings(path=str(Path(write_rows(folder / "train.jsonl", rows)).parent))
    write_rows(folder / "valid.jsonl", rows)
    asked = RunSettings(model=model, data=data, method=method)
    task = Classify.prepare(find_base(model), open_data(data), asked)
    task.tokenize(32)
    loaded, heads = task.load(torch.float32)
    adapter = inlay.attach(loaded, method, heads=heads)
    before = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    task.start_head(adapter, most_rows=1000)
    return adapter, before


@pytest.mark.parametrize("method", [inlay.LoRA(), inlay.Full(), inlay.BitFit()], ids=lambda method: method.name)
def test_a_new_head_begins_at_the_shares_of_the_labels(method: Method, tiny_bert: str, tmp_path: Path) -> None:
    adapter, before = started(tiny_bert, tmp_path, method)
    after = {name: p.detach() for name, p in adapter.named_parameters()}
    (bias,) = (name for name in after if not torch.equal(after[name], before[name]))
    assert bias.split(".")[0] in adapter.heads
    torch.testing.assert_close(after[bias].exp(), torch.tensor([37 / 42, 5 / 42]))


def test_a_head_without_biases_stays_as_it_is(tmp_path: Path) -> None:
    adapter, before = started(save_tiny_model(SHAPES["llama"], tmp_path / "llama"), tmp_path, inlay.LoRA())
    assert all(torch.equal(p, before[name]) for name, p in adapter.named_parameters())


def test_a_head_that_knows_the_labels_stays_as_it_is(tiny_bert: str, tmp_path: Path) -> None:
    adapter, _ = started(tiny_bert, tmp_path, inlay.Full())
    model: Any = adapter.model
    model.save_pretrained(tmp_path / "trained")
    find_base(tiny_bert).tokenizer().save_pretrained(tmp_path / "trained")
    adapter, before = started(str(tmp_path / "trained"), tmp_path, inlay.LoRA())
    assert all(torch.equal(p, before[name]) for name, p in adapter.named_parameters())
