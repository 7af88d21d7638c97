"""A run that may forget so much keeps what stays inside, by passages that do not check it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import inlay
from inlay.cli import main
from inlay.errors import DataError, SettingsError, TrainingFailed
from inlay.forgetting.passages import general_text
from inlay.show.budget import Chosen, Spent, budget_table, chosen_text, spent_text
from inlay.tasks import linear_head
from inlay.tasks.metric import METRICS
from inlay.training import budget as budget_module
from inlay.training.budget import SCALES, ForgettingBudget
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..tiny_models import write_rows
from ..training.resume.runs import check, short, steps
from .test_geometry import sayable

LARGE = 1e6  # nats: everything is inside


@pytest.fixture
def asked(tiny_llama: str, completions: str, retain: str, tmp_path: Path) -> RunSettings[Any]:
    changes: dict[str, Any] = {"method": inlay.LoRA(rank=4, dropout=0.2), "retain": retain, "samples": 0}
    return short(tiny_llama, completions, tmp_path / "run", **changes)


def events(run: RunSettings[Any], name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, Path(run.out or "", "metrics.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == name]


def test_what_is_kept_stays_inside_and_scores_best(asked: RunSettings[Any]) -> None:
    free = train(replace(asked, forget_at_most=LARGE, out=f"{asked.out}-free"))
    tried = free["budget"]["tried"]
    assert [each["scale"] for each in tried[: len(SCALES)]] == list(SCALES)
    assert free["budget"]["score"] == min(each["score"] for each in tried)
    bound = sorted(each["interval"][1] for each in tried)[len(tried) // 2]  # half of them forget more
    tight = train(replace(asked, forget_at_most=bound))
    found = tight["budget"]
    inside = [each for each in found["tried"] if each["interval"][1] <= bound]
    assert 0 < len(inside) < len(found["tried"])
    assert [each["score"] is None for each in found["tried"]] == [each not in inside for each in found["tried"]]
    assert found["score"] == min(each["score"] for each in inside)
    assert tight["metrics"]["tuned"]["loss"] == pytest.approx(found["score"], rel=1e-6)
    assert tight["best_step"] == found["step"]
    assert found["checked"] == tight["forgetting"]["value"]
    opened = inlay.open(asked.out or "").evaluate(split="valid")
    assert opened["tuned"]["loss"] == pytest.approx(found["score"], rel=1e-5)  # the files are of that scale
    page, log = (Path(asked.out or "", name).read_text() for name in ("report.html", "log.txt"))
    assert "side its budget of" in page
    assert "What was tried to stay inside" in page
    assert f"side {bound:g} nats per token: ".casefold() in log.casefold()
    assert f"outside {bound:g}" in log


def test_the_budget_changes_no_step_of_the_training(asked: RunSettings[Any]) -> None:
    train(replace(asked, out=f"{asked.out}-without"))
    train(replace(asked, forget_at_most=LARGE))
    assert steps(Path(asked.out or "")) == steps(Path(f"{asked.out}-without"))


def test_the_passages_that_check_chose_nothing(retain: str) -> None:
    text = general_text(retain, 64)
    checking, deciding = text.halves()
    assert checking.measured + deciding.measured == text.measured
    assert abs(len(checking.measured) - len(deciding.measured)) <= 1
    assert checking.kept == text.kept
    builtin = general_text(None, 512).halves()
    assert [len({p.domain for p in half.measured}) for half in builtin] == [12, 12]


@pytest.mark.parametrize("at", [{"event": "step", "step": 5}, {"event": "spent", "step": 6}, {"event": "evaluate"}])
@pytest.mark.parametrize("guard", [True, False])
def test_a_run_with_a_budget_goes_on_exactly(
    at: dict[str, Any], guard: bool, asked: RunSettings[Any], tmp_path: Path
) -> None:
    at = at if "step" in at else at | {"step": 9}
    check(replace(asked, forget_at_most=0.02, guard=guard), tmp_path, **at)
    found = json.loads((tmp_path / "whole" / "summary.json").read_text())["budget"]
    assert {each["score"] is None for each in found["tried"]} == {True, False}


def test_a_classifier_keeps_its_head_whole(
    tiny_bert: str, reviews_folder: str, retain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[tuple[float, dict[str, torch.Tensor], Any]] = []
    scaled = budget_module._scaled

    def watched(training: Any, done: Any, scale: float) -> Any:
        found = scaled(training, done, scale)
        put.append((scale, dict(found), done))
        return found

    monkeypatch.setattr(budget_module, "_scaled", watched)
    settings = short(tiny_bert, reviews_folder, tmp_path / "run", retain=retain, forget_at_most=0.99)
    assert train(settings)["budget"]["measure"] == "geometry"
    (parameters, done) = next((parameters, done) for scale, parameters, done in put if scale == 0.5)
    head = {name for name in parameters if name.startswith("classifier")}
    assert head
    for name, p in parameters.items():
        trained = done.best_state[name]
        expected = trained if name in head else (done.start.parameters[name] + trained) / 2
        assert torch.allclose(p, expected, atol=1e-7), name


def test_only_the_step_of_a_soft_prompt_is_chosen(asked: RunSettings[Any]) -> None:
    settings = replace(asked, method=inlay.PromptTuning(tokens=4), forget_at_most=LARGE)
    assert {each["scale"] for each in train(settings)["budget"]["tried"]} == {1.0}


def test_a_run_of_which_nothing_stays_inside_has_failed(
    asked: RunSettings[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForgettingBudget, "allows", lambda *_: False)
    settings = replace(asked, forget_at_most=1e-9)
    with pytest.raises(TrainingFailed, match=r"nothing stays inside --forget-at-most 1e-09 nats per token: step"):
        train(settings)
    summary = json.loads(Path(asked.out or "", "summary.json").read_text())
    assert (summary["status"], summary["budget"]) == ("failed", None)
    assert "no step forgot so little, so no adapter is kept" in summary["reason"]
    assert not Path(asked.out or "", "adapter").exists()


@pytest.mark.parametrize(("losses", "expected"), [((0.5, 0.4, 0.3), (6, 1.0)), ((0.5, 0.5, 0.5), (9, 0.75))])
def test_at_equal_scores_the_lower_loss_is_kept_and_else_the_larger_scale(
    monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], expected: tuple[int, float]
) -> None:
    forgot = {(9, 1.0): 0.5, (9, 0.75): 0.3, (9, 0.5): 0.2, (6, 1.0): 0.35}
    scores = dict(zip([*forgot][1:], losses, strict=True))

    class Training:
        adapter = type("A", (), {"model": None})
        at = (0, 0.0)

        def put(self, value: tuple[int, float]) -> None:
            self.at = value

    class Deciding:
        def compare(self, _: object) -> dict[str, Any]:
            value = forgot[training.at]
            return {"measure": "loss", "value": value, "interval": [0, value], "passages": 3}

    training: Any = Training()
    monkeypatch.setattr(budget_module, "_candidates", lambda _: [*forgot])
    monkeypatch.setattr(budget_module, "_parameters", lambda _, step, scale: (step, scale))
    deciding: Any = Deciding()
    found = ForgettingBudget(0.4, deciding).choose(
        training, lambda: {"accuracy": 0.9, "loss": scores[training.at]}, "accuracy"
    )
    assert (found["step"], found["scale"]) == training.at == expected
    assert [each["score"] for each in found["tried"]] == [None, 0.9, 0.9, 0.9]


def test_a_budget_that_can_do_nothing_is_refused(
    asked: RunSettings[Any], tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match="leave out --forget-at-most or --no-forgetting"):
        replace(asked, forget_at_most=0.1, forgetting=False, retain=None)
    with pytest.raises(SettingsError, match="1 - CKA, is 1 where nothing is left"):
        train(short(tiny_bert, reviews_folder, tmp_path / "none", forget_at_most=1.0))
    few = write_rows(tmp_path / "few.jsonl", [{"text": p.text} for p in sayable(48).measured])
    with pytest.raises(DataError, match="--forget-at-most needs 48 passages that are measured"):
        train(replace(asked, retain=few, forget_at_most=0.1))
    command = ["train", asked.model, asked.data.path, "--no-forgetting", "--forget-at-most", "0.1"]
    assert main([*command, "--out", str(tmp_path / "none")]) == 2
    assert "forget_at_most is 0.1, but forgetting is not measured" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_it_takes_is_planned() -> None:
    deciding: Any = None
    assert ForgettingBudget(0.1, deciding, seconds=1.0).planned_seconds(6, 2.0) == 6 + len(SCALES) * (1 + 2)


def test_what_is_forgotten_can_be_told_from_a_small_budget() -> None:
    told: Spent = {"step": 4, "value": 1.2e-4, "interval": [0.0, 2.13e-4], "most": 2e-4, "inside": False}
    assert spent_text(told) == "forgets 0.00012 (95 % up to 0.00021), outside 0.0002"
    told = {"step": 4, "value": -0.5123, "interval": [-0.52, 0.0321], "most": 0.1, "inside": True, "measure": "loss"}
    assert spent_text(told) == "forgets -0.512 (95 % up to 0.032) nats per token, inside 0.1"


def chosen(measure: Literal["loss", "geometry"], checked: float, scale: float) -> Chosen:
    return {
        "step": 4, "scale": scale, "value": 0.01, "interval": [0.0, 0.019], "score": 0.875, "most": 0.02,
        "measure": measure, "passages": 84, "checked": checked, "tried": [],
    }  # fmt: skip


def test_the_log_says_whether_the_budget_holds_and_what_it_is_of() -> None:
    assert chosen_text(chosen("loss", 0.0085, 0.625)) == (
        "inside 0.02 nats per token: 0.0085 on the passages that check; step 4 with 62.5 % of its change forgets 0.010 "
        "(95 % up to 0.019) on the 84 passages that chose it"
    )
    said = chosen_text(chosen("geometry", 0.03, 1))
    assert said.startswith("OUTSIDE 0.02 of 1 - CKA (0: unchanged, 1: unrelated), by embeddings alone: 0.030 on")
    assert "; step 4 forgets 0.010" in said


def test_the_page_has_the_scores_with_their_unit() -> None:
    found = chosen("loss", 0.0085, 0.625)
    table = budget_table({**found, "tried": [found]}, "accuracy", METRICS["accuracy"].text)
    assert [column.name for column in table.columns][1] == "share of its change"
    assert table.rows == [["4", "62.5 %", "0.010", "0.019", "87.5 %"]]


def test_the_start_of_a_fitted_head_is_kept_if_no_step_stays_inside(
    tiny_bert: str, reviews_folder: str, retain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor any that is scaled down. A head alone forgets nothing."""
    monkeypatch.setattr(linear_head, "_MOVED", 0.0)  # so that it is fitted to the features of a random model
    settings = short(tiny_bert, reviews_folder, tmp_path / "run", learning_rate=0.3, retain=retain, forget_at_most=1e-6)
    summary = train(settings)
    assert (summary["best_step"], summary["budget"]["step"]) == (0, 0)
    assert summary["forgetting"]["value"] <= 1e-6
    monkeypatch.setattr(linear_head, "_MOVED", 1.0)
    with pytest.raises(TrainingFailed, match="nothing stays inside"):
        train(replace(settings, out=f"{settings.out}-random"))
