"""The source tasks of a multitask prompt: what it is taught, and that a target starts from it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import inlay
from inlay.errors import CheckpointError, InvalidRequest, SettingsError
from inlay.formats import peft
from inlay.methods.prompts.task_prompt import TaskPrompt
from inlay.training.distillation import TaughtLoss, lessons
from inlay.training.run import train
from inlay.training.source_tasks import TaskBatches

from ..shapes import ROWS, SHAPES, Shape, disturb
from ..tiny_models import write_reviews
from .test_run import settings


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another data set: the reviews with three labels, one of them rare."""
    folder = Path(write_reviews(tmp_path_factory.mktemp("others")))
    for path in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[::5]:
            row["label"] = "unsure"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(folder)


def run(model: str, data: str, out: Path, **method: Any) -> dict[str, Any]:
    wanted = settings(model, data, out, "multitask-prompt", epochs=2, learning_rate=1e-2)
    return train(replace(wanted, method=inlay.MultitaskPrompt(tokens=4, **method)))


@pytest.fixture(scope="module")
def finished(tiny_bert: str, reviews_folder: str, other_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("multitask") / "run"
    run(tiny_bert, reviews_folder, out, sources=(reviews_folder, other_folder))
    return out


def test_the_sources_leave_their_teachers_and_one_adapter(finished: Path) -> None:
    teachers = sorted((finished / "sources" / "teachers").iterdir())
    assert len(teachers) == 2
    for teacher in teachers:
        assert json.loads((teacher / "summary.json").read_text())["method"] == "prompt"
    tensors = peft.read_tensors(finished / "sources" / "adapter")
    assert tensors["prefix_task_cols"].shape == (2, 4, 1)
    (head,) = [t for key, t in tensors.items() if key.endswith("classifier.weight")]
    assert len(head) == 2 + 3
    found = json.loads((finished / "sources" / "summary.json").read_text())["valid"]
    assert found.keys() == {teacher.name for teacher in teachers}
    lines = (finished / "sources" / "metrics.jsonl").read_text().splitlines()
    assert {"note", "evaluate", "step"} == {json.loads(line)["event"] for line in lines}


def test_the_target_starts_from_the_shared_prompt_and_the_mean_of_the_parts(finished: Path) -> None:
    source = finished / "sources"
    shared = peft.read_tensors(source / "adapter")
    assert str(source) in (finished / "resolved.yaml").read_text()
    model = SHAPES["bert"].model()  # the very base of the run
    adapter = inlay.attach(model, inlay.MultitaskPrompt(tokens=4, source=str(source)))
    with pytest.raises(SettingsError, match=r"method\.tokens"):
        inlay.attach(model, inlay.MultitaskPrompt(tokens=5, source=str(source)), "b")
    (prompt,) = (d for d in adapter.deltas.values() if isinstance(d, TaskPrompt))
    assert torch.equal(prompt.prompt_embeddings, shared["prompt_embeddings"])
    assert torch.equal(prompt.prefix_task_cols[0], shared["prefix_task_cols"].mean(0))
    assert torch.equal(prompt.prefix_task_rows[0], shared["prefix_task_rows"].mean(0))
    assert not torch.equal(prompt.prefix_task_rows[0], torch.ones(1, 32))


def test_a_later_run_starts_from_the_same_sources(
    finished: Path, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    summary = run(tiny_bert, reviews_folder, tmp_path / "again", source=str(finished / "sources"))
    first = json.loads((finished / "summary.json").read_text())
    assert summary["metrics"] == first["metrics"]


def test_a_source_of_another_base_or_method_is_refused(finished: Path) -> None:
    model = SHAPES["bert"].model()
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    with pytest.raises(CheckpointError, match="fingerprint"):
        inlay.attach(model, inlay.MultitaskPrompt(tokens=4, source=str(finished / "sources")))
    (teacher, _) = sorted((finished / "sources" / "teachers").iterdir())
    with pytest.raises(CheckpointError, match="PROMPT_TUNING"):
        inlay.attach(SHAPES["bert"].model(), inlay.MultitaskPrompt(tokens=4, source=str(teacher)))


def test_wrong_sources_are_refused_before_anything_is_written(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    for sources in ((reviews_folder, "nowhere"), (reviews_folder, reviews_folder)):
        with pytest.raises(InvalidRequest):
            run(tiny_bert, reviews_folder, tmp_path / "run", sources=sources)
        assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match="two or more"):
        inlay.MultitaskPrompt(sources=(reviews_folder,))
    with pytest.raises(SettingsError, match="both given"):
        inlay.MultitaskPrompt(sources=("a", "b"), source="c")
    with pytest.raises(SettingsError, match=r"attach with method\.source"):
        inlay.attach(SHAPES["bert"].model(), inlay.MultitaskPrompt(sources=("a", "b")))


def test_a_batch_has_two_or_more_tasks_as_many_rows_of_each_and_all_rows_come() -> None:
    sizes, seen = (3, 50, 20), set()
    order = TaskBatches(sizes, 12, seed=0)
    tasks = [0] * 3 + [1] * 50 + [2] * 20
    kinds = set()
    for epoch in range(12):
        order.set_epoch(epoch)
        batches = list(order)
        assert len(batches) == len(order) == 7
        for batch in batches:
            counts = torch.bincount(torch.tensor([tasks[i] for i in batch]), minlength=3)
            present = counts[counts > 0].tolist()
            assert len(batch) == 12
            assert len(present) >= 2
            assert max(present) == min(present)
            kinds.add(tuple(sorted(present)))
            seen.update(batch)
    assert seen == set(range(73))
    assert kinds == {(6, 6), (4, 4, 4)}


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_the_loss_is_that_of_each_task_alone(name: str) -> None:
    """Written out: a model, a row and a task at a time, in float64."""
    shape: Shape = SHAPES[name]
    model = shape.classifier().double()
    adapter = inlay.attach(model, inlay.MultitaskPrompt(tokens=4, tasks=2))
    disturb(adapter, 0.5)
    for p in adapter.parameters():
        p.data = p.data.double()
    model.eval()
    (prompt,) = (d for d in adapter.deltas.values() if isinstance(d, TaskPrompt))
    inputs = shape.inputs()
    inputs.pop("decoder_input_ids", None)
    own = (slice(0, 1), slice(1, 3))
    tasks = torch.tensor([i % 2 for i in range(ROWS)])
    labels = torch.tensor([0 if k == 0 else 2 for k in tasks.tolist()])
    own_KL = torch.tensor([[True, False, False], [False, True, True]])
    taught = torch.zeros(ROWS, 3, dtype=torch.double)
    for i, k in enumerate(tasks.tolist()):
        taught[i, own[k]] = torch.rand(own[k].stop - own[k].start, dtype=torch.double).softmax(0)
    states = torch.randn(ROWS, model.config.hidden_size, dtype=torch.double)
    batch = inputs | {"labels": labels, "tasks": tasks, "probabilities": taught, "states": states}
    found = TaughtLoss(prompt, own_KL, 0.7).loss(model, batch)

    expected = []
    for i, k in enumerate(tasks.tolist()):
        prompt.task = k
        output = model(**{key: value[i : i + 1] for key, value in inputs.items()}, output_hidden_states=True)
        log_probabilities = output.logits[0, own[k]].log_softmax(0)
        state = output.hidden_states[-1][0][inputs["attention_mask"][i].bool()].mean(0)
        loss = -log_probabilities[labels[i] - own[k].start]
        kl = F.kl_div(log_probabilities, taught[i, own[k]], reduction="sum")
        expected.append(loss + 0.7 * (kl + (state - states[i]).square().mean()))
    torch.testing.assert_close(found.double(), torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


def test_lessons_are_the_teachers_own_words() -> None:
    class Tokenizer:
        def pad(self, rows: Any, **_: Any) -> dict[str, torch.Tensor]:
            width = max(len(row["input_ids"]) for row in rows)
            return {
                key: torch.tensor([row[key] + [0] * (width - len(row[key])) for row in rows])
                for key in ("input_ids", "attention_mask")
            }

    model = SHAPES["bert"].classifier().eval()
    rows = [{"input_ids": list(range(1, n)), "attention_mask": [1] * (n - 1)} for n in (4, 9, 6)]
    found = lessons(model, Tokenizer(), rows, slice(2, 5), 6)
    for row, lesson in zip(rows, found, strict=True):
        output = model(torch.tensor([row["input_ids"]]), output_hidden_states=True)
        expected = F.pad(output.logits[0].softmax(0), (2, 1))
        torch.testing.assert_close(lesson.probabilities_L, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(lesson.state_D, output.hidden_states[-1][0].mean(0), atol=1e-5, rtol=1e-5)
