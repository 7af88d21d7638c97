"""Learning rates searched for each method with an equal number of trials."""

import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inlay.compare.search import Search
from inlay.compare.settings import Comparison
from inlay.compare.trial import Budget, Trial
from inlay.data.settings import DataSettings

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
    """Proposes what was enqueued, then the range's ends and what lies between."""

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
            if number < len(self.fixed):
                return self.fixed[number]
            return low * (high / low) ** ((0.0, 1.0, 0.25, 0.75)[(number - 1) % 4])

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
        samplers=SimpleNamespace(TPESampler=lambda seed: seed),
        trial=SimpleNamespace(TrialState=SimpleNamespace(FAIL="fail")),
        create_study=create_study,
    )
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    return made


def search(folder: Path, runner: Runner) -> tuple[Search, dict[str, float]]:
    comparison = Comparison(model="builtin:minilm", data=DataSettings(path="builtin:tickets"), search=4)
    looking = Search(comparison, folder, Budget(1, 64))
    return looking, looking.run([contender("lora"), contender("bitfit"), contender("full")], runner)  # type: ignore[arg-type]


def test_every_method_has_as_many_trials_and_its_own_rate_first(tmp_path: Path, studies: list[Study]) -> None:
    runner = Runner()
    looking, best = search(tmp_path, runner)
    assert Counter(tried.label for tried in looking.tried) == {"lora": 4, "bitfit": 4, "full": 4}
    for label in best:
        own = contender(label).method.learning_rate
        rates = [tried.learning_rate for tried in looking.tried if tried.label == label]
        assert rates[0] == own
        assert all(own / 10 <= rate <= own * 10 for rate in rates)
    assert best["lora"] == pytest.approx(1e-3)
    assert best["full"] == pytest.approx(5e-4)  # the nearest to 1e-3 that was tried
    assert {trial.seed for trial in runner.ran} == {0}
    assert len({trial.folder for trial in runner.ran}) == 12
    failed = [tried for tried in looking.tried if tried.score is None]
    assert {tried.reason for tried in failed} == {"loss is not finite"}
    assert [told for study in studies for told in study.told].count("fail") == len(failed) > 0


def test_with_optuna(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the search needs Optuna")
    first, best = search(tmp_path / "a", Runner())
    again, _ = search(tmp_path / "b", Runner())
    assert [tried.learning_rate for tried in first.tried] == [tried.learning_rate for tried in again.tried]
    assert best["lora"] <= 5e-3
