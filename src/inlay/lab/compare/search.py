"""Learning rates, searched for each method with an equal number of trials.

They lie between a tenth and ten times the rate that the method has without a search. That is the first; then half a
decade and a quarter below and above it; then Optuna's TPE proposes them by what was found. Left to itself it would draw
ten at random: of four rates, one is far off too often (simulated on parabolas of the logarithm, the fixed ones lose a
third as much). A trial is a whole run with seed 0, judged on valid; nothing here looks at test. What is proposed
follows from what was found before, so the methods take turns: one rate each, then the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .runner import Runner
from .settings import CompareSettings, Contender
from .table import main_metric
from .trial import Budget, Trial, run_settings, slug

_FIRST = (1.0, 10**-0.5, 10**0.5, 10**-0.25, 10**0.25)  # times the usual rate
_WIDTH = 10.0  # the rates reach from the usual one divided by this to it times this


@dataclass(frozen=True, kw_only=True)
class TriedRate:
    label: str
    learning_rate: float
    score: float | None  # None: the run failed
    reason: str | None = None


@dataclass
class Search:
    comparison: CompareSettings
    folder: Path
    budget: Budget
    usual: Mapping[str, float]  # the rate of each contender that nothing is searched for
    tried: list[TriedRate] = field(default_factory=list)

    def run(self, contenders: list[Contender], runner: Runner) -> dict[str, float]:
        """Return the best rate of each contender, by label; its own if all its trials fail. Raises SettingsError if the
        folder holds trials with other settings.
        """
        import optuna  # pyright: ignore[reportMissingImports]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        studies = {
            c.label: optuna.create_study(
                sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=len(_FIRST)),
                direction="maximize",
            )
            for c in contenders
        }
        for c in contenders:
            for factor in _FIRST:
                studies[c.label].enqueue_trial({"learning_rate": self.usual[c.label] * factor})
        for number in range(self.comparison.search):
            asked = {c.label: studies[c.label].ask() for c in contenders}
            trials = {c.label: self._trial(c, number, asked[c.label]) for c in contenders}
            for trial in trials.values():
                trial.check_same_settings()
            runner.run(trials.values())
            for label, trial in trials.items():
                found = self._judged(trial, runner.failures.get(trial.name))
                self.tried.append(found)
                if found.score is None:
                    studies[label].tell(asked[label], state=optuna.trial.TrialState.FAIL)
                else:
                    studies[label].tell(asked[label], found.score)
        return {c.label: self._best(c) for c in contenders}

    def _trial(self, contender: Contender, number: int, asked: Any) -> Trial:
        own = self.usual[contender.label]
        rate = float(asked.suggest_float("learning_rate", own / _WIDTH, own * _WIDTH, log=True))
        out = str(self.folder / "search" / f"{slug(contender.label)}-rate-{number + 1}")  # no other trial's name
        settings = run_settings(self.comparison, contender, out=out, budget=self.budget, learning_rate=rate)
        return Trial(label=contender.label, settings=settings, searches=True)

    def _judged(self, trial: Trial, reason: str | None) -> TriedRate:
        rate = trial.settings.learning_rate
        assert rate is not None
        summary = trial.summary()
        if reason is not None or summary is None:
            return TriedRate(label=trial.label, learning_rate=rate, score=None, reason=reason)
        metric, valid = main_metric(summary), summary["metrics"]["tuned"]
        assert valid is not None  # of a run that is finished
        return TriedRate(label=trial.label, learning_rate=rate, score=metric.sign * valid[metric.name])

    def _best(self, contender: Contender) -> float:
        scored = [t for t in self.tried if t.label == contender.label and t.score is not None]
        return max(scored, key=lambda t: t.score or 0.0).learning_rate if scored else self.usual[contender.label]
