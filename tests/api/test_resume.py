"""inlay.resume: a run that was interrupted in a notebook goes on there."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import inlay
from inlay.training.keeper import Keeper

from .test_notebook import QUICK, ROWS


@pytest.mark.parametrize("kind", ["name", "object"])
def test_an_interrupted_run_goes_on_to_the_result_it_would_have_had(
    kind: str, tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tiny_bert
    given: dict[str, Any] = {}
    if kind == "object":
        model = transformers.AutoModel.from_pretrained(tiny_bert)
        with torch.no_grad():
            model.embeddings.word_embeddings.weight.add_(0.01)  # so that no files have these weights
        given = {"tokenizer": transformers.AutoTokenizer.from_pretrained(tiny_bert)}
    whole = inlay.train(model, ROWS, out=tmp_path / "whole", **given, **QUICK)

    between = Keeper.between_steps

    def interrupted(keeper: Keeper) -> None:
        between(keeper)
        if keeper.training and keeper.training.progress.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Keeper, "between_steps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inlay.train(model, ROWS, out=tmp_path / "run", **given, **QUICK)
    events: list[dict[str, Any]] = []
    if kind == "object":
        with pytest.raises(inlay.InlayError, match="given as a Python object, a BertModel"):
            inlay.resume(tmp_path / "run")
        given |= {"model": model}
    run = inlay.resume(str(tmp_path / "run"), progress=events.append, **given)

    assert next(event["step"] for event in events if event["event"] == "step") == 3
    assert run.summary["metrics"] == whole.summary["metrics"]
    one, other = (load_file(each.folder / "adapter" / "adapter_model.safetensors") for each in (run, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.trained is not None  # nothing is to be loaded for what comes now
    assert inlay.adapters(run.model) == {"default": run.adapter}
    assert run.predict("good 1") == whole.predict("good 1")
    with pytest.raises(inlay.InlayError, match="is finished"):
        inlay.resume(tmp_path / "run", **given)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(inlay.InlayError, match=r"not the folder of a run, which has a run\.yaml; no such folder"):
        inlay.resume(tmp_path / "nothing")
