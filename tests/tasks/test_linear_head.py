"""The linear classifier that a new head begins as: found by its loss and penalty, from what the head is given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.bases.base import find_base
from inlay.data.formats import open_data
from inlay.data.settings import DataSettings
from inlay.tasks.classify import Classify
from inlay.tasks.linear_head import features, fitted
from inlay.training.settings import RunSettings

from ..shapes import SHAPES
from ..tiny_models import reviews, save_tiny_model, write_reviews, write_rows


def some_rows(rows: int = 300, labels: int = 5, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    labels_N = torch.arange(rows) * 7 % labels
    return F.one_hot(labels_N, 16).float() + noise * torch.randn(rows, 16), labels_N


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_classifier_has_the_least_loss_and_penalty(with_bias: bool) -> None:
    x_NF, labels_N = some_rows()
    found = fitted(x_NF, labels_N, torch.zeros(5, 16), torch.full((5,), 0.2), with_bias=with_bias)
    assert found is not None
    weight_LF, bias_L = (t.clone().requires_grad_() for t in (found.head.weight_LF, found.head.bias_L))
    logits_NL = x_NF.double() @ weight_LF.T + bias_L
    assert logits_NL.argmax(1).eq(labels_N).float().mean() > 0.95
    F.cross_entropy(logits_NL, labels_N).backward()
    assert weight_LF.grad is not None
    assert bias_L.grad is not None
    penalty = -weight_LF.grad.flatten() @ weight_LF.detach().flatten() / weight_LF.detach().square().sum()
    torch.testing.assert_close(weight_LF.grad, -penalty * weight_LF.detach(), atol=1e-4, rtol=0)
    assert bias_L.grad.abs().max() < 1e-4 if with_bias else bias_L.detach().eq(0).all()


def test_what_it_is_worth_is_told_by_rows_that_it_had_not_seen() -> None:
    """Many features fit few rows whatever their labels are, and tell nothing of another row."""
    torch.manual_seed(0)
    noise_NF, labels_N = torch.randn(60, 500), torch.arange(60) % 3
    assert fitted(noise_NF, labels_N, torch.zeros(3, 500), torch.full((3,), 1 / 3), with_bias=True) is None
    x_NF, labels_N = some_rows(noise=1.0)
    found = fitted(x_NF, labels_N, torch.zeros(5, 16), torch.full((5,), 0.2), with_bias=True)
    assert found is not None
    assert float(found.head.losses(x_NF.double(), labels_N).mean()) < found.loss < found.loss_of_shares


def prepared(model: str, folder: Path) -> tuple[Classify, Any, list[nn.Module]]:
    data = DataSettings(path=write_reviews(folder))
    task = Classify.prepare(find_base(model), open_data(data), RunSettings(model=model, data=data, method=inlay.LoRA()))
    task.tokenize(32)
    loaded, heads = task.load(torch.float32)
    return task, loaded, [loaded.get_submodule(name) for name in heads]


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_features_are_what_the_logits_are_made_from(name: str, tmp_path: Path) -> None:
    task, model, heads = prepared(save_tiny_model(SHAPES[name], tmp_path / "base"), tmp_path)
    rows, head = task.tokens["train"].rows, heads[-1]
    x_NF = features(model, head, task.tokenizer, rows, 8)
    assert x_NF is not None
    with torch.no_grad():
        for row, x_F in zip(rows[:8], x_NF, strict=False):
            logits_1L = model(**{key: torch.tensor([value]) for key, value in row.items()}).logits
            torch.testing.assert_close(head(x_F)[None], logits_1L, atol=1e-5, rtol=1e-5)


def test_a_head_whose_results_are_changed_afterwards_has_no_features(tiny_bert: str, tmp_path: Path) -> None:
    task, model, heads = prepared(tiny_bert, tmp_path)

    def halved(module: nn.Module, given: object, results: Any) -> Any:
        results.logits = results.logits / 2
        return results

    model.register_forward_hook(halved)
    assert features(model, heads[-1], task.tokenizer, task.tokens["train"].rows, 8) is None


def test_features_that_hardly_differ_teach_nothing() -> None:
    """Weights that tell them apart would be so large that any step undoes them."""
    x_NF, labels_N = some_rows()
    alike_NF = 2.0 + 0.01 * x_NF
    shares_L = torch.full((5,), 0.2)
    assert fitted(x_NF, labels_N, torch.zeros(5, 16), shares_L, with_bias=True) is not None
    assert fitted(alike_NF, labels_N, torch.zeros(5, 16), shares_L, with_bias=True) is None


def telling_bert(folder: Path) -> str:
    """A tiny BERT whose features differ from text to text, as a trained one's do."""
    name = save_tiny_model(SHAPES["bert"], folder)
    model = transformers.AutoModel.from_pretrained(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    model.save_pretrained(name)
    return name


def test_a_run_begins_with_it_and_says_so(tmp_path: Path) -> None:
    rows, model = write_rows(tmp_path / "rows.jsonl", reviews(200)), telling_bert(tmp_path / "model")
    run = inlay.train(model, rows, "lora", out=tmp_path / "run", epochs=1, forgetting=False, dtype="float32")
    events = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (said,) = (e["text"] for e in events if e["event"] == "note" and "new head" in e["text"])
    assert "a linear classifier of the base's features of 184 rows" in said
    losses = [e["loss"] for e in events if e["event"] == "step"]
    assert losses[0] < 0.65  # 0.69 by the labels' shares
