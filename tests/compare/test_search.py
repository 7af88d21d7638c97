"""Learning rates searched for each method with an equal number of trials."""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.lab.compare.events import sentence
from inlay.lab.compare.runner import Runner as RealRunner
from inlay.lab.compare.search import Search
from inlay.lab.compare.settings import CompareSettings
from inlay.lab.compare.trial import Budget, Trial, plain_trials
from inlay.training.settings import non_default

from .fakes import contender, write_classifier


class Runner:
    """Best at a rate of 1e-3; rates above 5e-3 fail."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.ran: list[Trial] = []

    def run(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            self.ran.append(trial)
            rate = trial.settings.learning_rate
            assert rate is not None
            if rate > 5e-3:
                self.failures[trial.name] = "loss is not finite"
            else:
                write_classifier(trial, 0.95 - 0.1 * abs(math.log10(rate / 1e-3)), 100, False)


class Study:
    """Proposes what was enqueued."""

    def __init__(self) -> None:
        self.fixed: list[float] = []
        self.told: list[Any] = []
        self.asked = 0

    def enqueue_trial(self, parameters: dict[str, float]) -> None:
        self.fixed.append(parameters["learning_rate"])

    def ask(self) -> Any:
        number, self.asked = self.asked, self.asked + 1

        def suggest_float(name: str, low: float, high: float, log: bool) -> float:
            assert (name, log) == ("learning_rate", True)
            return self.fixed[number]

        return SimpleNamespace(suggest_float=suggest_float)

    def tell(self, trial: Any, value: float | None = None, state: Any = None) -> None:
        self.told.append(state or value)


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    made: list[Study] = []

    def create_study(sampler: Any, direction: str) -> Study:
        assert direction == "maximize"
        made.append(Study())
        return made[-1]

    optuna = SimpleNamespace(
        logging=SimpleNamespace(set_verbosity=lambda _: None, WARNING=30),
        samplers=SimpleNamespace(TPESampler=lambda seed, n_startup_trials: seed),
        trial=SimpleNamespace(TrialState=SimpleNamespace(FAIL="fail")),
        create_study=create_study,
    )
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    return made


LABELS = ("lora", "bitfit", "full")
USUAL = {"lora": 1e-3, "bitfit": 3e-3, "full": 5e-5}
COMPARISON = CompareSettings(model="builtin:minilm", data=DataSettings(path="builtin:tickets"), search=4, seeds=6)


def search(folder: Path, runner: Runner, epochs: float = 1, rates: int = 4) -> tuple[Search, dict[str, float]]:
    looking = Search(replace(COMPARISON, search=rates), folder, Budget(epochs, 64), USUAL)
    return looking, looking.run([contender(label) for label in LABELS], runner)  # type: ignore[arg-type]


def test_every_method_has_as_many_trials_and_its_own_rate_first(tmp_path: Path, studies: list[Study]) -> None:
    runner = Runner()
    looking, best = search(tmp_path, runner)
    assert Counter(tried.label for tried in looking.tried) == {"lora": 4, "bitfit": 4, "full": 4}
    for label in best:
        own = USUAL[label]
        rates = [tried.learning_rate for tried in looking.tried if tried.label == label]
        assert rates == pytest.approx([own, own * 10**-0.5, own * 10**0.5, own * 10**-0.25])
    assert best["lora"] == pytest.approx(1e-3)
    assert best["full"] == pytest.approx(5e-5 * 10**0.5)  # the nearest to 1e-3 that was tried
    assert {trial.seed for trial in runner.ran} == {0}
    assert len({trial.folder for trial in runner.ran}) == 12
    failed = [tried for tried in looking.tried if tried.score is None]
    assert {tried.reason for tried in failed} == {"loss is not finite"}
    assert [told for study in studies for told in study.told].count("fail") == len(failed) > 0


def test_what_only_tries_a_rate_has_no_other_trials_name_and_shows_its_score_on_valid(
    tmp_path: Path, studies: list[Study]
) -> None:
    runner = Runner()
    search(tmp_path, runner)
    of_seeds = plain_trials(COMPARISON, [contender(label) for label in LABELS], tmp_path, {}, Budget(1, 64))
    assert not {trial.name for trial in runner.ran} & {trial.name for trial in of_seeds}

    events: list[dict[str, Any]] = []
    there: Any = SimpleNamespace(close=lambda: None)
    tried = runner.ran[0]
    RealRunner(there, events.append, total=9).run([tried])
    assert events[0]["metrics"]["test"] is None
    shown = sentence(events[0])
    assert shown is not None
    assert "1/9  lora-rate-1 (0.001) accuracy" in shown
    assert "on valid" in shown


def test_trials_with_other_settings_are_refused(tmp_path: Path, studies: list[Study]) -> None:
    runner = Runner()
    search(tmp_path, runner)
    for trial in runner.ran:
        trial.folder.mkdir(parents=True, exist_ok=True)  # of one that failed
        (trial.folder / "run.yaml").write_text(yaml.safe_dump(non_default(trial.settings)))
    with pytest.raises(SettingsError, match=r"lora-rate-1 holds a run with other settings \(epochs was 1, is 2\)"):
        search(tmp_path, Runner(), epochs=2)


def test_with_optuna(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the search needs Optuna")
    first, best = search(tmp_path / "a", Runner(), rates=8)
    again, _ = search(tmp_path / "b", Runner(), rates=8)
    assert [tried.learning_rate for tried in first.tried] == [tried.learning_rate for tried in again.tried]
    assert best["lora"] == pytest.approx(1e-3, rel=0.2)
    for label in LABELS:
        own = USUAL[label]
        rates = [tried.learning_rate for tried in first.tried if tried.label == label]
        assert len(set(rates)) == len(rates) == 8
        assert all(own / 10 <= rate <= own * 10 for rate in rates)
