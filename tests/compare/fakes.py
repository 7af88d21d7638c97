"""Comparisons whose runs are written by code: what reports, tables and advice are made from."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import inlay
from inlay.data.settings import DataSettings
from inlay.lab.compare.advice import advise
from inlay.lab.compare.result import ComparisonResult
from inlay.lab.compare.search import TriedRate
from inlay.lab.compare.sequence import sequences
from inlay.lab.compare.settings import CompareSettings, Contender
from inlay.lab.compare.table import MethodTable, make_table, sequence_rows
from inlay.lab.compare.trial import EARLIER, Budget, Trial, plain_trials
from inlay.methods.peak_rate import rates_of
from inlay.stats import Means, Shares
from inlay.training.score_parts import write_parts

from ..report.fake_runs import HOSTILE_TEXTS, guesses, learning, summary, write_run

LABELS = ["abbreviation", "description", "entity", "human", "location", "number"]
BUDGET = Budget(3, 128)
COSTS = {  # trained parameters, seconds, bytes of memory, forgetting
    "bitfit": (28_400, 60.0, 683 << 20, 0.004),
    "pfeiffer": (115_000, 55.0, 759 << 20, 0.011),
    "lora": (678_000, 74.0, 1040 << 20, 0.018),
    "prefix": (94_500, 92.0, 702 << 20, 0.002),
    "full": (22_700_000, 130.0, 1200 << 20, 0.095),
}


def contender(label: str, method: str | None = None) -> Contender:
    return Contender(label=label, method=inlay.METHODS[method or label.partition(":")[0]](), quantize="none")


def accuracies(mean: float, deviation: float, seeds: int = 3, seed: int = 0) -> list[float]:
    noise = random.Random(seed)
    return [min(1.0, noise.gauss(mean, deviation)) for _ in range(seeds)]


def table_of(folder: Path, scores: dict[str, Sequence[float]], rows: int = 500) -> MethodTable:
    """Of runs with these accuracies on test, one for each seed."""
    return comparison_of(folder, scores, rows=rows).table


def comparison_of(
    folder: Path,
    scores: dict[str, Sequence[float]],
    *,
    rows: int = 500,
    failures: dict[str, str] | None = None,
    forgetting: bool = True,
    then: tuple[str, ...] = (),
    write: Callable[[Trial, float, int, bool], None] | None = None,
) -> ComparisonResult:
    """`failures` has reasons by the names of trials."""
    contenders = [contender(label) for label in scores]
    seeds = max(map(len, scores.values()))
    comparison = CompareSettings(
        model="builtin:minilm", data=DataSettings(path="data/trec"), seeds=seeds, then=then, methods=tuple(scores)
    )
    trials = plain_trials(comparison, contenders, folder, {}, BUDGET)
    failures = failures or {}
    for trial in trials:
        if trial.name not in failures and trial.seed < len(scores[trial.label]):
            (write or write_classifier)(trial, scores[trial.label][trial.seed], rows, forgetting)
    chains = sequences(comparison, contenders, trials, folder, [BUDGET] * len(then))
    for chain in chains:
        for stage in chain.stages[1:]:
            write_classifier(stage, 0.85, rows, forgetting)
            lost = 0.0 if chain.way == "apart" else 0.3 if chain.label == "full" else 0.1
            kept = [{"accuracy": scores[stage.label][stage.seed] - lost} for _ in stage.earlier]
            (stage.folder / EARLIER).write_text(json.dumps(kept))
    table = make_table(contenders, trials, failures)
    return ComparisonResult(
        comparison=comparison,
        contenders=tuple(contenders),
        folder=folder,
        table=table,
        advice=advise(table),
        sequences=tuple(sequence_rows(chains, failures)) if then else (),
        tried=(
            TriedRate(label="lora", learning_rate=1e-3, score=0.94),
            TriedRate(label="lora", learning_rate=8e-3, score=None, reason="loss is not finite"),
        ),
        notes=("prefix trains for 10 epochs by default; here it has 3 like the others.",),
        command="inlay compare builtin:minilm data/trec --seeds 3",
    )


def write_classifier(
    trial: Trial, accuracy: float, rows: int, forgetting: bool, majority: float = 0.276, ends_at: float | None = None
) -> None:
    """`ends_at` is the score on valid to which the learning curve falls."""
    parameters, seconds, memory, forgot = COSTS.get(trial.label, (1000, 10.0, 500 << 20, 0.01))
    noise = random.Random(trial.name)
    shares = {"valid": majority, "test": majority}
    events = learning(60, len(LABELS), evaluations=7, top=accuracy - 0.02, seed=trial.seed)
    events.insert(0, {"event": "data", "rows": {"train": 4868, "valid": 40, "test": rows}, "majority": shares})
    if ends_at is not None:
        last = [event for event in events if event["event"] == "evaluate"][-1]
        last["accuracy"] = ends_at
    events.append({"event": "method", "learning_rate": rates_of(trial.settings.method).reading})
    predictions = guesses(LABELS, 40, accuracy, seed=hash_of(trial.name))
    scores = {"loss": 2 * (1 - accuracy), "accuracy": accuracy, "macro_f1": accuracy - 0.01}
    found = summary(
        method=trial.settings.method.name,
        data="data/trec",
        labels=LABELS,
        trainable_parameters=parameters,
        adapter_bytes=4 * parameters,
        train_seconds=seconds * (1 + 0.05 * noise.random()),
        peak_memory_bytes=int(memory * (1 + 0.03 * noise.random())),
        seed=trial.seed,
        metrics={"split": "valid", "rows": 40, "base": scores, "tuned": scores, "test": scores},
        forgetting=_forgetting(forgot * (0.8 + 0.4 * noise.random())) if forgetting else None,
    )
    write_run(trial.folder, found, events, predictions)
    right = [i < round(accuracy * rows) for i in range(rows)]
    noise.shuffle(right)
    write_parts(trial.folder, {"test": Shares(torch.tensor(right))})


def write_language_model(trial: Trial, loss: float, rows: int, forgetting: bool, batches: int = 20) -> None:
    parameters, seconds, memory, forgot = COSTS[trial.label]
    events: list[dict[str, Any]] = [{"event": "data", "rows": {"train": 42_000, "valid": rows}}]
    for step in range(5):
        now = {"step": step * 50, "epoch": step / 4, "split": "valid", "loss": loss + 3 * 0.5**step}
        events.append({"event": "evaluate", **now})
    texts = [
        {"prompt": f"name: {text}", "references": ["The Vaults is a pub."], "text": text, "base_text": "once upon"}
        for text in [*HOSTILE_TEXTS, "The Vaults is a pub", ""]
    ]
    scores = {"loss": loss, "perplexity": 2.7**loss, "bleu": 60 - 10 * loss, "rouge_l": 0.6, "exact_match": 0.05}
    found = summary(
        task="causal",
        method=trial.settings.method.name,
        labels=[],
        trainable_parameters=parameters,
        train_seconds=seconds,
        peak_memory_bytes=memory,
        seed=trial.seed,
        metrics={"split": "valid", "rows": rows, "base": scores | {"loss": 4.0}, "tuned": scores, "test": None},
        forgetting=_forgetting(forgot) | {"measure": "loss"} if forgetting else None,
    )
    write_run(trial.folder, found, events, texts)
    if batches:
        noise = random.Random(trial.name)
        losses = torch.tensor([noise.gauss(loss, 0.05) for _ in range(batches)], dtype=torch.float64)
        write_parts(trial.folder, {"valid": Means(losses - losses.mean() + loss, torch.full((batches,), 100.0))})


def hash_of(name: str) -> int:
    return sum(name.encode())


def _forgetting(value: float) -> dict[str, Any]:
    return {"measure": "geometry", "value": value, "interval": [value - 0.001, value + 0.001], "passages": 200}
