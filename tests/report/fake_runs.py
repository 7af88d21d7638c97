"""Run folders written by code: as a finished, a failed or a killed run leaves them."""

import json
import math
import random
from pathlib import Path
from typing import Any

TICKET_LABELS = "account billing cancel complaint delivery invoice password refund status upgrade".split()
HOSTILE_TEXTS = [
    "<script>alert('x')</script> & \"quotes\" </td></table>",
    "אני רוצה החזר כספי עבור ההזמנה שלי (מספר 4417)",
    "my parcel 📦 never came 😡😡 {{ 7 * 7 }} {% raw %}",
    "$x^2$ costs $5 and \\frac{1}{2}",
    "a lone surrogate \ud83d, a bell \x07 and a line\u2028separator",
    "unbroken" * 40,
    "see https://example.org/a?b=1&c=2",
]
TEXTS = [
    "I was charged twice for the same order last week, please give me the second payment back",
    "How do I move my subscription to the larger plan without losing my discount?",
    "The courier says it was delivered, but nothing arrived here",
    "please close everything, I no longer need it",
    "Where can I see what the invoice of March was for?",
    "password link does nothing",
]
RESOLVED = "method: lora            # asked\nlearning_rate: 3.0e-4   # ten times full fine-tuning's; <1 B parameters\n"


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "status": "finished",
        "reason": None,
        "task": "classify",
        "method": "lora",
        "model": "builtin:minilm",
        "data": "builtin:tickets",
        "labels": TICKET_LABELS,
        "trainable_parameters": 1_183_498,
        "total_parameters": 23_896_714,
        "adapter_bytes": 4_744_272,
        "train_seconds": 83.2,
        "wall_seconds": 101.7,
        "peak_memory_bytes": 642_908_160,
        "tokens_per_second": 2143.7,
        "steps": 150,
        "best_step": 125,
        "metrics": {
            "split": "valid",
            "rows": 180,
            "base": {"loss": 2.3391, "accuracy": 0.1, "macro_f1": 0.0182},
            "tuned": {"loss": 0.4127, "accuracy": 0.8778, "macro_f1": 0.8689},
            "test": {"loss": 0.4502, "accuracy": 0.8611, "macro_f1": 0.8577},
        },
        "forgetting": None,
        "plan": {"memory_bytes": 611_000_000, "seconds": 91.0},
        "planned_steps": 150,
        "versions": {"inlay": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
        "device": "cpu",
        "dtype": "bfloat16",
        "seed": 0,
        "command": "inlay train builtin:minilm builtin:tickets --method lora --out runs/tickets-lora",
    } | changes


def write_run(
    run: Path,
    summary: dict[str, Any],
    events: list[dict[str, Any]] | None = None,
    predictions: list[dict[str, Any]] | None = None,
) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "run.yaml").write_text(f"model: {summary['model']}\ndata: {summary['data']}\nmethod: {summary['method']}\n")
    (run / "resolved.yaml").write_text(RESOLVED)
    for name, rows in ("metrics.jsonl", events), ("predictions.jsonl", predictions):
        if rows is not None:
            (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def prediction(label: str, predicted: str, **changes: Any) -> dict[str, Any]:
    row = {"text": "where is it?", "pair": None, "label": label, "predicted": predicted, "base_predicted": None}
    return row | {"probability": 0.8, "label_probability": 0.8 if label == predicted else 0.1} | changes


def learning(steps: int, labels: int, evaluations: int = 13, top: float = 0.87, seed: int = 0) -> list[dict[str, Any]]:
    """A run that learns: loss falls from that of guessing, with noise; the evaluation turns up a little at the end."""
    noise, start = random.Random(seed), math.log(labels)
    events: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    every = max(1, steps // (evaluations - 1))
    for step in range(steps + 1):
        learned = 1 - math.exp(-5 * step / steps)
        if step:
            rate = 3e-4 * min(1, step / (0.05 * steps)) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            loss = (start - (start - 0.2) * learned) * math.exp(noise.gauss(0, 0.18))
            norm = (0.6 + 2.5 * (1 - learned)) * math.exp(noise.gauss(0, 0.25))
            events.append(
                {"event": "step", "step": step, "epoch": 3 * step / steps, "loss": loss, "learning_rate": rate}
                | {"gradient_norm": norm, "tokens_per_second": 2150 + noise.gauss(0, 90), "seconds": 0.55 * step}
                | {"memory_bytes": int(642_908_160 * min(1, 0.93 + step / steps / 5))}
            )
        if step % every == 0:
            loss = start - (start - 0.4) * learned + 0.06 * max(0, step / steps - 0.8)
            accuracy = 1 / labels + (top - 1 / labels) * learned
            scores = {"loss": loss, "accuracy": accuracy, "macro_f1": accuracy - 0.01}
            events.append({"event": "evaluate", "step": step, "epoch": 3 * step / steps, "split": "valid"} | scores)
            lowest = min((e["loss"] for e in events[:-1] if e["event"] == "evaluate"), default=math.inf)
            events[-1]["best"] = loss < lowest
    return events


def best_step(events: list[dict[str, Any]]) -> int:
    return [event["step"] for event in events if event.get("best")][-1]


def accuracy_of(rows: list[dict[str, Any]]) -> float:
    return sum(row["label"] == row["predicted"] for row in rows) / len(rows)


def guesses(labels: list[str], rows: int, accuracy: float, seed: int = 0) -> list[dict[str, Any]]:
    """Predictions with that accuracy; mistakes prefer the next label, texts include hostile ones."""
    noise, texts = random.Random(seed), TEXTS + HOSTILE_TEXTS
    result = []
    for i in range(rows):
        label = labels[i % len(labels)]
        near = labels[(i + 1) % len(labels)]
        right = noise.random() < accuracy
        predicted = label if right else near if noise.random() < 0.6 or len(labels) == 2 else noise.choice(labels)
        probability = 0.35 + 0.64 * noise.random() ** (0.5 if right else 1.5)
        result.append(
            {"text": texts[i % len(texts)], "pair": None, "label": label, "predicted": predicted}
            | {"probability": probability, "base_predicted": labels[0]}
            | {
                "label_probability": probability
                if predicted == label
                else min(probability, 1 - probability) * noise.random()
            }
        )
    return result


def tickets(run: Path) -> Path:
    events, rows = learning(150, 10), guesses(TICKET_LABELS, 180, 0.9)
    found = summary(best_step=best_step(events))
    found["metrics"]["tuned"]["accuracy"] = accuracy_of(rows)
    return write_run(run, found, events, rows)


def two_labels(run: Path) -> Path:
    """Without a test split, a plan or a gain that can be told from none; with pairs of texts."""
    scores = {"base": {"loss": 0.71, "accuracy": 0.5, "macro_f1": 0.3333}, "test": None}
    rows = [row | {"pair": "is this the same question?"} for row in guesses(["different", "same"], 40, 0.55, seed=3)]
    scores["tuned"] = {"loss": 0.66, "accuracy": accuracy_of(rows), "macro_f1": 0.548}
    found = summary(
        data="pairs.jsonl",
        labels=["different", "same"],
        metrics={"split": "valid", "rows": 40} | scores,
        plan={"memory_bytes": None, "seconds": None},
        best_step=20,
        steps=30,
    )
    return write_run(run, found, learning(30, 2, evaluations=4, top=0.55), rows)


def many_labels(run: Path) -> Path:
    words = (
        "card transfer refund exchange_rate_for_cash_withdrawal pin top_up verify_my_identity fee pending lost".split()
    )
    labels = [f"{word}_{number}" for number in range(8) for word in words][:76] + ["ภาษาไทย 🙂 & <b>"]
    scores = {"base": {"loss": 4.35, "accuracy": 0.013, "macro_f1": 0.0003}, "test": None}
    scores["tuned"] = {"loss": 0.9, "accuracy": 0.79, "macro_f1": 0.78}
    found = summary(labels=labels, metrics={"split": "valid", "rows": 770} | scores, best_step=300, steps=300)
    return write_run(run, found, learning(300, 77, top=0.79), guesses(labels, 770, 0.79))


def failed(run: Path) -> Path:
    """Loss not finite at step 37; no metrics, no predictions, the log's last line cut."""
    nothing = dict.fromkeys("adapter_bytes train_seconds tokens_per_second best_step labels".split())
    found = summary(
        status="failed",
        reason="loss is not finite at step 37 (rows 412, 988); the learning rate 5e-3 is 25 times the default for lora",
        metrics={"split": "valid", "rows": 180, "base": None, "tuned": None, "test": None},
        **nothing,
    )
    events = [e for e in learning(150, 10) if e["step"] < 37 and e["event"] != "evaluate"]
    events.append(events[-1] | {"step": 37, "loss": math.nan, "gradient_norm": math.inf})
    write_run(run, found, events)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event":"step","step":38,"lo')
    return run


def failed_at_once(run: Path) -> Path:
    """Before anything was known but what was asked."""
    asked = {name: summary()[name] for name in ("task", "method", "model", "data", "command")}
    return write_run(run, asked | {"status": "failed", "reason": None, "metrics": None, "plan": None})


def interrupted(run: Path) -> Path:
    events = [e for e in learning(150, 10) if e["step"] <= 80]
    reason = "stopped after step 80; go on with: inlay resume runs/tickets-lora"
    return write_run(run, summary(status="interrupted", reason=reason, steps=80, best_step=best_step(events)), events)


RUNS = {build.__name__: build for build in (tickets, two_labels, many_labels, failed, failed_at_once, interrupted)}
