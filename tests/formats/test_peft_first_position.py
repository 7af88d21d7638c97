"""A prompt before a classifier whose head reads the first position: PEFT gives it the prompt's, here it is the text's.

What a file says is computed, both ways; a prefix has no such position.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.errors import CheckpointError
from inlay.formats import peft as format_

from ..methods.prompt_models import CLASSIFIERS, FIRST_READ, made
from ..shapes import disturb
from .test_refusals import edit_config

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own

P = 4
classifiers = pytest.mark.parametrize("name", CLASSIFIERS)
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt": ("PromptTuningConfig", {}),
    "p-tuning": ("PromptEncoderConfig", {"encoder_hidden_size": 8}),
    "multitask-prompt": ("MultitaskPromptTuningConfig", {"num_tasks": 1}),
}
methods = pytest.mark.parametrize("method", METHODS)


def inputs() -> dict[str, Any]:
    ids_BT = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


def tasks(method: str) -> dict[str, Any]:
    return {"task_ids": torch.zeros(2, dtype=torch.long)} if method == "multitask-prompt" else {}


@classifiers
@methods
def test_a_file_of_peft_computes_what_it_computes_there(name: str, method: str, tmp_path: Path) -> None:
    kind, settings = METHODS[method]
    config = getattr(peft, kind)(task_type="SEQ_CLS", num_virtual_tokens=P, **settings)
    theirs = peft.get_peft_model(made(CLASSIFIERS[name]), config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p) * p.requires_grad)
    theirs.save_pretrained(tmp_path / "theirs")
    model = made(CLASSIFIERS[name])
    adapter = inlay.load(model, tmp_path / "theirs")
    y = model(**inputs()).logits
    torch.testing.assert_close(y, theirs(**inputs(), **tasks(method)).logits, atol=1e-5, rtol=1e-5)
    adapter.save(tmp_path / "ours")
    again = made(CLASSIFIERS[name])
    inlay.load(again, tmp_path / "ours")
    assert torch.equal(again(**inputs()).logits, y)


@classifiers
@methods
@pytest.mark.parametrize("first", ["text", "prompt"])
def test_a_file_of_ours_says_which_it_is(name: str, method: str, first: str, tmp_path: Path) -> None:
    model = made(CLASSIFIERS[name])
    adapter = inlay.attach(model, inlay.METHODS[method](tokens=P, first_position=first))
    disturb(adapter, 0.3)
    adapter.save(tmp_path)
    y = model(**inputs()).logits
    again = made(CLASSIFIERS[name])
    inlay.load(again, tmp_path)
    assert torch.equal(again(**inputs()).logits, y)
    kind = json.loads((tmp_path / format_.CONFIG).read_text())["peft_type"]
    assert kind.startswith("INLAY_") == (first == "text" and name in FIRST_READ)
    if not kind.startswith("INLAY_"):
        theirs = peft.PeftModel.from_pretrained(made(CLASSIFIERS[name]), str(tmp_path)).eval()
        torch.testing.assert_close(theirs(**inputs(), **tasks(method)).logits, y, atol=1e-5, rtol=1e-5)


def test_files_of_ours_from_before_the_choice_mean_the_text_s(tmp_path: Path) -> None:
    model = made(CLASSIFIERS["roberta"])
    disturb(inlay.attach(model, inlay.PromptTuning(tokens=P)), 0.3)
    inlay.adapters(model)["default"].save(tmp_path)
    edit_config(tmp_path, peft_type="PROMPT_TUNING", first_position=...)
    again = made(CLASSIFIERS["roberta"])
    inlay.load(again, tmp_path)
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)


def test_a_head_that_reads_all_positions_is_not_peft_s(tmp_path: Path) -> None:
    import transformers as t

    def build() -> Any:
        return t.ModernBertForSequenceClassification(
            t.ModernBertConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                vocab_size=60,
                classifier_pooling="mean",
                pad_token_id=0,
            )
        )

    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P)
    peft.get_peft_model(made(build), config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="first_position is prompt, but the head of ModernBert"):
        inlay.load(made(build), tmp_path)
    inlay.attach(model := made(build), inlay.PromptTuning(tokens=P))
    inlay.adapters(model)["default"].save(tmp_path)
    assert json.loads((tmp_path / format_.CONFIG).read_text())["peft_type"] == "INLAY_PROMPT_TUNING"
