"""What the runs that are interrupted begin with."""

from pathlib import Path

import pytest

from inlay.training import run_output

from ...shapes import BERT, SHAPES, Shape
from ...tiny_models import save_tiny_model, write_rows
from .runs import DROPOUT


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the runs."""
    monkeypatch.setattr(run_output, "write_report", lambda *_: None)


@pytest.fixture(scope="module")
def dropping_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT that draws random numbers while it trains."""
    config = type(BERT)(**BERT.to_dict() | {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT})
    shape = Shape("bert", config, SHAPES["bert"].model_class, SHAPES["bert"].classifier_class)
    return save_tiny_model(shape, tmp_path_factory.mktemp("dropping-bert"))


@pytest.fixture(scope="module")
def few_reviews(tmp_path_factory: pytest.TempPathFactory, reviews_folder: str) -> str:
    """48 rows to learn, three steps of 16 an epoch."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 48), ("valid", 12)):
        lines = (Path(reviews_folder) / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    return str(folder)


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("completions")
    rows = [
        {"prompt": f"{the} {noun} {was}", "completion": f"is so very {word}"}
        for the in ("the", "a")
        for was in ("was", "is", "so")
        for noun, word in {"film": "great", "plot": "poor", "cast": "fine", "bad": "bad"}.items()
    ]
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "valid.jsonl", rows[::3])
    return str(folder)
