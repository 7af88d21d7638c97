"""What `inlay train` saves, Hugging Face PEFT loads, and gives the same logits; and what PEFT saves, Inlay loads."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model

import inlay
from inlay.data.settings import DataSettings
from inlay.inference.opened import open_adapter
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..shapes import SHAPES, Shape
from ..tiny_models import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own, about transformers' deprecations

METHODS = {"lora": inlay.LoRA(rank=4), "prompt": inlay.PromptTuning(tokens=5)}


@pytest.fixture(scope="module", params=[(s, m) for s in SHAPES for m in METHODS], ids=lambda p: "-".join(p))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reviews_folder: str
) -> tuple[Shape, str, Path, str]:
    shape_name, method = request.param
    shape = SHAPES[shape_name]
    folder = tmp_path_factory.mktemp(f"{shape_name}-{method}")
    model = save_tiny_model(shape, folder / "model")
    asked = RunSettings(
        model=model,
        data=DataSettings(path=reviews_folder),
        method=METHODS[method],
        out=str(folder / "run"),
        epochs=2,
        learning_rate=1e-2,
        dtype="float32",
    )
    train(asked)
    return shape, method, folder / "run", model


def plain_classifier(model: str) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).eval()


def unpadded_rows(opened: Any) -> list[dict[str, torch.Tensor]]:
    texts = ["the film was so good", "a very awful plot", "bad"]
    return [dict(opened.task.tokenizer(text, return_tensors="pt")) for text in texts]


def test_peft_gives_the_logits_of_the_trained_adapter(trained: tuple[Shape, str, Path, str]) -> None:
    shape, method, run, model = trained
    ours = open_adapter(run)
    if (shape.name, method) == ("t5", "prompt"):
        pytest.skip(
            "transformers' T5 classifier refuses inputs_embeds, which is how PEFT puts a prompt before the text"
        )
    theirs = PeftModel.from_pretrained(plain_classifier(model), run / "adapter").eval()
    base = plain_classifier(model)
    with torch.no_grad():
        for row in unpadded_rows(ours):
            expected = theirs(**row).logits
            torch.testing.assert_close(ours.adapter.model(**row).logits, expected, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(base(**row).logits, expected, atol=1e-2)


def test_what_peft_trained_gives_the_same_logits_here(trained: tuple[Shape, str, Path, str], tmp_path: Path) -> None:
    shape, method, run, model = trained
    if (shape.name, method) == ("t5", "prompt"):
        pytest.skip(
            "transformers' T5 classifier refuses inputs_embeds, which is how PEFT puts a prompt before the text"
        )
    head = ["classification_head"] if shape.name == "t5" else None
    config: Any = (
        LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules="all-linear", modules_to_save=head)
        if method == "lora"
        else PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=5)
    )
    theirs = get_peft_model(plain_classifier(model), config)
    rows = unpadded_rows(open_adapter(run))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for row in rows:
        theirs.train()(**row, labels=torch.tensor([1])).loss.backward()
        optimizer.step()
    theirs.eval().save_pretrained(tmp_path)
    ours = plain_classifier(model)
    inlay.load(ours, tmp_path)
    with torch.no_grad():
        for row in rows:
            torch.testing.assert_close(ours(**row).logits, theirs(**row).logits, atol=1e-5, rtol=1e-5)


def test_a_fresh_start_agrees_with_the_summary(trained: tuple[Shape, str, Path, str]) -> None:
    import json

    _, _, run, _ = trained
    summary = json.loads((run / "summary.json").read_text())
    found = inlay.open(run, device="cpu").evaluate()
    assert found["tuned"] == pytest.approx(summary["metrics"]["tuned"], rel=1e-5)
    assert found["base"] == pytest.approx(summary["metrics"]["base"], rel=1e-5)
