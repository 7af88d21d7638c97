"""A run from its settings to its files, on a small model and data."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import inlay
from inlay.data import formats as formats_module
from inlay.data.classification import load_classification
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError, TrainingFailed
from inlay.formats.files import held
from inlay.stats import Shares
from inlay.tasks import classify as classify_module
from inlay.tasks.classify import Classify
from inlay.training.run import train
from inlay.training.score_parts import read_parts
from inlay.training.settings import RunSettings

from ..counted import counted_calls
from ..shapes import SHAPES, needed

CONTRACT_FIELDS = {
    *("status", "task", "method", "model", "trainable_parameters", "total_parameters", "adapter_bytes"),
    *("train_seconds", "peak_memory_bytes", "tokens_per_second", "metrics", "forgetting", "plan"),
}
CUT = ("adalora", "dynamic-rank")  # a rank is cut between the evaluations


def settings(model: str, data: str, out: Path, method: str = "lora", **changes: Any) -> RunSettings[Any]:
    wanted = {"epochs": 4, "learning_rate": 5e-3, "dtype": "float32"} | changes
    return RunSettings(
        model=model,
        data=DataSettings(path=data),
        method=inlay.METHODS[method](**needed(method, SHAPES["bert"])),
        out=str(out),
        **wanted,
    )


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_refused_leaves_nothing(
    there: bool, tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong comes up at the data, when the base was loaded and evaluated; the same command runs once it is
    mended."""

    def refuse(*_: object) -> None:
        raise SettingsError("no such start")

    out = tmp_path / "runs" / "one"
    if there:
        out.mkdir(parents=True)
    asked = settings(tiny_bert, reviews_folder, out, epochs=0.1, forgetting=False)
    told: list[dict[str, Any]] = []
    with monkeypatch.context() as context:
        context.setattr(inlay.LoRA, "initialize_from_data", refuse)
        with pytest.raises(SettingsError, match="no such start"):
            train(asked, told.append)
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "one"] if there else [])
    assert "model" in (event["event"] for event in told)
    assert "failed" not in (event["event"] for event in told)
    assert train(asked)["status"] == "finished"


@pytest.mark.parametrize("ends", [False, True])
def test_a_run_whose_name_another_has_taken_meanwhile_takes_the_next(
    ends: bool, tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several that are started in the same second all find the first name free."""
    monkeypatch.chdir(tmp_path)
    taken = Path("runs", f"{Path(reviews_folder).name}-lora")
    with ExitStack() as other:

        def faster(event: dict[str, Any]) -> None:
            if event["event"] == "data":
                other.enter_context(held(taken))
                (taken / "run.yaml").touch()
                if ends:
                    other.close()

        asked = replace(settings(tiny_bert, reviews_folder, tmp_path, epochs=0.1, forgetting=False), out=None)
        summary = train(asked, faster)
    assert summary.get("folder") == f"{taken}-2"
    assert json.loads(Path(f"{taken}-2", "summary.json").read_text())["status"] == "finished"
    assert [path.name for path in taken.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("method", inlay.METHODS)
def test_every_method_learns_and_leaves_the_files_that_the_contract_names(
    method: str, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    out = tmp_path / "run"
    summary = train(settings(tiny_bert, reviews_folder, out, method, epochs=8, learning_rate=1e-2), events.append)
    files = {p.name for p in out.iterdir()}
    assert files == {
        *("run.yaml", "resolved.yaml", "metrics.jsonl", "log.txt", "summary.json", "report.html", "adapter"),
        *("predictions.jsonl", "score_parts.json"),
    }
    assert {"adapter_config.json", "adapter_model.safetensors", "provenance.json", "tokenizer.json"} <= {
        p.name for p in (out / "adapter").iterdir()
    }
    written = json.loads((out / "summary.json").read_text())
    assert written.keys() >= CONTRACT_FIELDS
    assert written["metrics"]["base"].keys() == written["metrics"]["tuned"].keys() == {"loss", "accuracy", "macro_f1"}
    assert written["plan"].keys() == {"memory_bytes", "seconds", "tensors"}
    assert sum(written["tensors"].values()) == pytest.approx(sum(written["plan"]["tensors"].values()), rel=0.01)
    assert written["plan"]["memory_bytes"] > 0
    assert written["plan"]["seconds"] > 0
    assert written["status"] == "finished"
    assert written["adapter_bytes"] == (out / "adapter" / "adapter_model.safetensors").stat().st_size
    assert written["tokens_per_second"] > 0 < written["train_seconds"]
    if method not in ("prompt", "multitask-prompt"):  # at no rate: whichever seed is lucky is below by 1e-5
        assert written["metrics"]["tuned"]["loss"] < written["metrics"]["base"]["loss"]
    for split, scores in (("valid", written["metrics"]["tuned"]), ("test", written["metrics"]["test"])):
        parts = read_parts(out, split)
        assert isinstance(parts, Shares)
        assert parts.right_N.double().mean().item() == pytest.approx(scores["accuracy"])
    if method in ("full", "lora"):  # a random base holds too little for the smallest methods
        assert written["metrics"]["tuned"]["accuracy"] >= 0.9
        assert summary["metrics"]["test"]["accuracy"] >= 0.9
    assert [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] == events
    the_best_is_saved(summary, events, out)


def the_best_is_saved(summary: dict[str, Any], events: list[dict[str, Any]], out: Path) -> None:
    evaluations = [e for e in events if e["event"] == "evaluate" and e["step"] > 0]
    best = max(evaluations, key=lambda e: (e["accuracy"], -e["loss"]))
    assert summary["best_step"] == best["step"]
    assert summary["metrics"]["tuned"] == {k: best[k] for k in ("loss", "accuracy", "macro_f1")}
    assert [e["step"] for e in evaluations if e["best"]][-1] == best["step"]
    found = inlay.open(out, device="cpu").evaluate()["tuned"]
    assert found == pytest.approx(summary["metrics"]["tuned"], rel=1e-5)


def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(tiny_bert, reviews_folder, tmp_path / name, seed=seed, epochs=1))
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses.append([e["loss"] for e in lines if "loss" in e])
    assert losses[0] == losses[1] != losses[2]
    assert (tmp_path / "a" / "adapter" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_a_run_reads_and_tokenizes_its_data_once(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = counted_calls(monkeypatch, formats_module, "open_source")
    tokenized = counted_calls(monkeypatch, classify_module, "tokenize_split")
    run = settings(tiny_bert, reviews_folder, tmp_path / "run", epochs=1, forgetting=False)
    summary = train(run)
    assert opened == [reviews_folder]
    assert len(tokenized) == len(load_classification(run.data).splits) == (3 if summary["metrics"]["test"] else 2)


def test_micro_batches_give_the_same_training(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    found = []
    for size in (None, 4):
        out = tmp_path / str(size)
        # two epochs of 8 rows a step, in float64-like agreement only if every row counts the same
        found.append(train(settings(tiny_bert, reviews_folder, out, epochs=1, batch_size=8, micro_batch_size=size)))
    a, b = (f["metrics"]["tuned"]["loss"] for f in found)
    assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full", *CUT])
def test_the_best_adapter_is_the_one_that_is_saved(
    method: str, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    """At a learning rate at which later steps make it worse."""
    events: list[dict[str, Any]] = []
    asked = settings(tiny_bert, reviews_folder, tmp_path / "r", method, learning_rate=1e-1, patience=0, guard=False)
    summary = train(asked, events.append)
    the_best_is_saved(summary, events, tmp_path / "r")
    assert summary["best_step"] < summary["steps"]


def test_training_stops_early_when_nothing_gets_better(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    asked = settings(tiny_bert, reviews_folder, tmp_path / "r", learning_rate=1e-7, patience=2, epochs=10)
    summary = train(asked)
    assert summary["steps"] < 80
    assert "2 evaluations without a better one" in (tmp_path / "r" / "log.txt").read_text()


def test_a_run_that_diverges_fails_with_what_there_is(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"step \d+: loss is .* at learning rate .*; try --learning-rate"):
        train(settings(tiny_bert, reviews_folder, tmp_path / "r", "full", learning_rate=1e30, clip=1e30))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary.keys() >= CONTRACT_FIELDS
    assert "loss is" in summary["reason"]
    assert "failed" in (tmp_path / "r" / "report.html").read_text().lower()


def test_an_adapter_that_changes_nothing_is_a_failure(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="nothing was learned"):
        train(settings(tiny_bert, reviews_folder, tmp_path / "r", learning_rate=1e-60, epochs=1))


def test_a_module_that_the_model_bypasses_is_a_failure(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Classify.load

    def with_unused_layer(*args: Any) -> Any:
        model, heads = load(*args)
        model.bert.unused = torch.nn.Linear(4, 4)
        return model, heads

    monkeypatch.setattr(Classify, "load", with_unused_layer)
    with pytest.raises(TrainingFailed, match=r"2 of the adapter's parameters get no gradient, such as bert\.unused"):
        train(settings(tiny_bert, reviews_folder, tmp_path / "r"))


def test_an_interrupted_run_keeps_its_best_adapter(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings(tiny_bert, reviews_folder, tmp_path / "r"), interrupt)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert f"step {summary['best_step']}" in summary["reason"]
    assert (tmp_path / "r" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "r" / "report.html").is_file()


def test_a_run_does_not_write_into_a_folder_that_holds_something(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SettingsError, match="is not empty"):
        train(settings(tiny_bert, reviews_folder, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_what_was_asked_and_what_was_decided_are_both_written(
    tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    train(settings(tiny_bert, reviews_folder, tmp_path / "r", epochs=1, learning_rate=None))
    asked = yaml.safe_load((tmp_path / "r" / "run.yaml").read_text())
    assert asked["method"] == {"name": "lora"}
    assert asked["epochs"] == 1
    assert "learning_rate" not in asked
    text = (tmp_path / "r" / "resolved.yaml").read_text()
    resolved = yaml.safe_load(text)
    assert resolved["learning_rate"] > inlay.LoRA.learning_rate.reading  # of so few steps and so small a model
    assert "of lora for reading, times 2 for a width of 32 and 1 for 8 steps" in text
    assert resolved["method"]["rank"] == 16
    assert resolved["data"]["format"] == "labelled-text"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"micro_batch_size": 5}, "which micro_batch_size 5 does not divide"),
        ({"max_length": 1000}, "max_length is 1000; the model has room for 64 tokens"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_impossible_settings_are_refused(
    changes: dict[str, Any], message: str, tiny_bert: str, reviews_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(settings(tiny_bert, reviews_folder, tmp_path / "r", **changes))
    assert not (tmp_path / "r").exists()
