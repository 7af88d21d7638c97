"""A run that holds its model uses that: what it scores, analyses and writes is what a run that was opened does."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.tasks.task import Task

from ..shapes import SHAPES, method
from ..tiny_models import save_tiny_model
from .test_notebook import QUICK, ROWS

WORDS = ("the film was good", "a bad plot", "so so", "the ending", "what a film", "never again")

PROMPTS = [
    {"prompt": f"the {noun} {number} was", "completion": f"so {word}"}
    for number in range(20)
    for noun, word in (("film", "good"), ("plot", "bad"))
]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the weights of a folder were loaded."""
    counted: Counter[str] = Counter()
    load = Task.load

    def counting(task: Task, *how: Any) -> Any:
        counted[task.base.path] += 1
        return load(task, *how)

    monkeypatch.setattr(Task, "load", counting)
    return counted


def found(run: inlay.Run, out: Path) -> dict[str, Any]:
    """Everything that a run tells."""
    rank = run.rank().result.as_dict()
    del rank["seconds"]
    merged = run.merge(out)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    facts = {key: merged[key] for key in ("class", "total_parameters", "dtype", "method", "hosts", "texts", "bytes")}
    return {
        "scores": run.evaluate(),
        "rank": rank,
        "merged": facts,
        "files": files,
        "says": run.predict("the plot was"),
    }


@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_the_base_is_not_loaded_again_and_the_results_are_the_same(
    kind: str, tiny_bert: str, tmp_path: Path, loads: Counter[str]
) -> None:
    model, rows = tiny_bert, ROWS
    if kind == "writer":
        model, rows = save_tiny_model(SHAPES["llama"], tmp_path / "base"), PROMPTS
    run = inlay.train(model, rows, inlay.LoRA(rank=2), out=tmp_path / "run", **QUICK | {"learning_rate": 1e-2})
    assert loads.pop(model) == 1
    in_memory = found(run, tmp_path / "merged")
    assert dict(loads) == {merged: 1 for merged in loads}  # what was written, read to be compared
    assert model not in loads
    assert in_memory == found(run, tmp_path / "merged again")  # nothing of it has changed the run
    assert model not in loads

    opened = inlay.open(tmp_path / "run")
    assert in_memory["says"] == opened.predict("the plot was")
    assert loads.pop(model) == 1
    again = found(opened, tmp_path / "merged by another")
    assert model not in loads
    assert again == in_memory


def test_a_model_that_serves_something_else_by_now_is_left_to_it(
    tiny_bert: str, tmp_path: Path, loads: Counter[str]
) -> None:
    run = inlay.train(tiny_bert, ROWS, inlay.LoRA(rank=2), out=tmp_path / "run", **QUICK)
    before = run.evaluate()
    loads.clear()
    other = inlay.attach(run.model, inlay.LoRA(rank=2), name="other")
    assert run.evaluate() == before
    inlay.activate(run.model, "default")  # as it was, but for the other's tensors, which are not to be saved
    assert run.merge(tmp_path / "merged")["hosts"] == len(run.adapter.hosts_of_method)
    assert loads[tiny_bert] == 2
    assert list(inlay.adapters(run.model)) == ["default", "other"]
    other.detach()
    run.evaluate()
    assert loads[tiny_bert] == 2


def test_another_form_in_the_files_is_analysed_as_it_is_there(
    tiny_bert: str, tmp_path: Path, loads: Counter[str]
) -> None:
    """PiSSA's files have a plain LoRA of twice its rank."""
    method = inlay.LoRA(rank=2, initialization="pissa")
    run = inlay.train(tiny_bert, ROWS, method, out=tmp_path / "run", **QUICK)
    rank = run.rank(curve=False).result
    assert rank.trainable == inlay.open(run.folder).rank(curve=False).result.trainable
    assert rank.trainable > run.summary["trainable_parameters"]


@pytest.mark.parametrize("name", ["norm", "prefix"])
def test_threads_that_ask_one_run_get_the_answers_of_one(name: str, tmp_path: Path) -> None:
    """Both methods put tensors into the model for a call, where another thread's call would find or lose them."""
    save_tiny_model(SHAPES["bert"], tmp_path / "base")
    chosen = method(name, SHAPES["bert"])
    inlay.train(tmp_path / "base", ROWS, chosen, **QUICK | {"learning_rate": 0.1}, out=tmp_path / "run")
    run = inlay.open(tmp_path / "run")
    alone = [run.predict(text) for text in WORDS]
    with ThreadPoolExecutor(6) as threads:
        for _ in range(5):
            assert list(threads.map(run.predict, WORDS)) == alone
