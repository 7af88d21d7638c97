"""One run, from what was asked to the files that show what came of it."""

import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from .. import __version__
from ..core.adapter import Adapter, join, prepare
from ..data.classification import ClassificationData, load_classification
from ..errors import InlayError, SettingsError
from ..formats import peft
from ..formats.files import write_json, write_text
from ..report import write_report
from .base import Base, computes_in_bfloat16, empty_classifier, find_base, load_classifier, pick_device
from .batches import Tokens, tokenize_split, training_batches
from .estimate import Estimate, estimate
from .journal import Journal, Watcher
from .loop import Outcome, Plan, StepEvent, fit, make_plan
from .memory import memory_bytes, peak_memory_bytes
from .predictions import write_predictions
from .resolved import resolved_yaml
from .scores import Scores, evaluate
from .settings import RunSettings, as_asked

_STEP_EVENTS = 400  # in a run's metrics, at most


@dataclass(frozen=True)
class Prepared:
    """A run that is known to make sense: settings and data are checked, and nothing is loaded or written yet."""

    settings: RunSettings[Any]
    base: Base
    data: ClassificationData
    config: Any
    tokenizer: Any
    tokens: dict[str, Tokens]
    plan: Plan
    device: torch.device
    dtype: torch.dtype
    max_length: int
    folder: Path


def train(settings: RunSettings[Any], watcher: Watcher = lambda _: None, command: Sequence[str] = ()) -> dict[str, Any]:
    """Train one adapter and write its run's folder; returns the summary.

    Raises InvalidRequest, having written nothing, for settings or data that cannot work; TrainingFailed, having written
    what there is, if the training does not work out. KeyboardInterrupt passes through after the same.
    """
    journal = Journal(watcher)
    run = prepare_run(settings, journal)
    run.folder.mkdir(parents=True, exist_ok=True)
    journal.open(run.folder)
    write_text(run.folder / "run.yaml", yaml.safe_dump(as_asked(settings), sort_keys=False, allow_unicode=True))
    write_text(run.folder / "resolved.yaml", resolved_yaml(run))
    return _Run(run, journal, command).go()


def prepare_run(settings: RunSettings[Any], journal: Journal) -> Prepared:
    """Every check that needs no weights."""
    folder = _free_folder(settings)
    device = pick_device(settings.device)
    base = find_base(settings.model)
    data = load_classification(settings.data)
    tokenizer = base.tokenizer()
    config = base.classifier_config(data.labels, tokenizer.pad_token_id)
    prepare(empty_classifier(config), settings.method)
    max_length = _max_length(settings, config, tokenizer)
    tokens = {split: tokenize_split(tokenizer, rows, max_length) for split, rows in data.splits.items()}
    journal.record(
        "data",
        source=data.source,
        rows={split: len(rows) for split, rows in data.splits.items()},
        labels=list(data.labels),
        valid_from=data.valid_from,
        ignored_columns=list(data.ignored_columns),
        max_length=max_length,
        cut=sum(t.cut for t in tokens.values()),
    )
    wanted = settings.dtype if settings.dtype != "auto" else "bfloat16" if computes_in_bfloat16(device) else "float32"
    plan = make_plan(len(tokens["train"].rows), settings)
    return Prepared(
        settings, base, data, config, tokenizer, tokens, plan, device, getattr(torch, wanted), max_length, folder
    )


class _Run:
    """The part of a run that computes: its state is what the summary needs, so that a failure can still be told."""

    def __init__(self, run: Prepared, journal: Journal, command: Sequence[str]):
        self.run, self.journal, self.command = run, journal, command
        self.began = time.perf_counter()
        self.adapter: Adapter | None = None
        self.base_scores: Scores | None = None
        self.tuned: Scores | None = None
        self.test: Scores | None = None
        self.best_step = 0
        self.last: StepEvent | None = None
        self.estimate: Estimate | None = None
        self.total_parameters = 0

    def go(self) -> dict[str, Any]:
        try:
            model = self._load()
            base_log_probabilities = self._evaluate_base(model)
            self._attach(model)
            outcome = self._fit()
            self._finish(outcome, base_log_probabilities)
        except KeyboardInterrupt:
            self._stop("interrupted", "stopped by the user" + self._what_is_kept())
            raise
        except torch.OutOfMemoryError as problem:
            self._stop("failed", str(problem))
            raise
        except InlayError as problem:
            self._stop("failed", str(problem) + self._what_is_kept())
            raise
        return self._write_summary("finished", None) | {"folder": str(self.run.folder)}

    def _load(self) -> nn.Module:
        run = self.run
        set_seed(run.settings.seed)
        model, self.heads = load_classifier(run.base, run.config, run.dtype)
        model.to(run.device)  # pyright: ignore[reportArgumentType]
        self.total_parameters = sum(p.numel() for p in model.parameters())
        self.journal.record(
            "model",
            model=run.base.name,
            **{"class": type(model).__name__},
            total_parameters=self.total_parameters,
            dtype=str(run.dtype).removeprefix("torch."),
            device=str(run.device),
        )
        return model

    def _evaluate_base(self, model: nn.Module) -> torch.Tensor:
        began = time.perf_counter()
        self.base_scores, log_probabilities = evaluate(model, self.run.tokenizer, self.run.tokens["valid"])
        self.evaluation_seconds = time.perf_counter() - began
        self._record_evaluation(0, self.base_scores, best=False)
        return log_probabilities

    def _attach(self, model: nn.Module) -> None:
        run = self.run
        self.adapter = prepare(model, run.settings.method, heads=self.heads)
        join(self.adapter)
        trained = self.trainable_parameters
        lengths = sorted(run.tokens["train"].lengths, reverse=True)
        self.estimate = estimate(
            run.plan,
            train_tokens=sum(lengths),
            evaluation_tokens=sum(run.tokens["valid"].lengths),
            evaluation_seconds=self.evaluation_seconds,
            trained_share=min(1.0, trained / self.total_parameters),
            trained_parameters=trained,
            longest_batch_tokens=lengths[0] * (run.settings.micro_batch_size or run.settings.batch_size),
            config=run.config,
            bytes_per_value=run.dtype.itemsize,
            memory_now=memory_bytes(run.device),
        )
        self.journal.record(
            "method",
            method=run.settings.method.name,
            trainable_parameters=trained,
            total_parameters=self.total_parameters,
            learning_rate=run.plan.learning_rate,
        )
        self.journal.record("plan", steps=run.plan.steps, epochs=run.plan.epochs, **asdict(self.estimate))

    def _fit(self) -> Outcome:
        run = self.run
        assert self.adapter is not None
        batches = training_batches(run.tokenizer, run.tokens["train"], run.settings.batch_size, run.settings.seed)
        accelerator = Accelerator(cpu=run.device.type == "cpu")
        return fit(
            self.adapter,
            batches,
            run.plan,
            run.settings,
            accelerator,
            evaluate=self._evaluate,
            on_step=self._on_step,
            on_best=self._on_best,
        )

    def _evaluate(self, step: int) -> Scores:
        assert self.adapter is not None
        scores, _ = evaluate(self.adapter.model, self.run.tokenizer, self.run.tokens["valid"])
        better = scores.better_than(self.tuned)
        self._record_evaluation(step, scores, better)
        if better:
            self.tuned, self.best_step = scores, step
        return scores

    def _on_step(self, event: StepEvent) -> None:
        steps = self.run.plan.steps
        self.last = event
        every = max(1, steps // _STEP_EVENTS)
        if event.step % every and event.step not in (1, steps):
            return
        elapsed = time.perf_counter() - self.began_fit if event.step > 1 else event.seconds
        if event.step == 1:
            self.began_fit = time.perf_counter() - event.seconds
        self.journal.record(
            "step",
            **{k: v for k, v in asdict(event).items() if k != "tokens"},
            steps=steps,
            tokens_per_second=event.tokens / event.seconds,
            memory_bytes=memory_bytes(self.run.device),
            seconds_left=elapsed / event.step * (steps - event.step),
        )

    def _on_best(self, step: int) -> None:
        self._save_adapter()

    def _save_adapter(self) -> None:
        run = self.run
        assert self.adapter is not None
        provenance = {
            "model": run.base.name,
            "task": "classify",
            "labels": list(run.data.labels),
            "columns": run.data.columns,
            "data": asdict(run.settings.data),
            "seed": run.settings.seed,
            "max_length": run.max_length,
            "dtype": str(run.dtype).removeprefix("torch."),
        }
        peft.save(self.adapter, run.folder / "adapter", provenance)

    def _finish(self, outcome: Outcome, base_log_probabilities: torch.Tensor) -> None:
        run = self.run
        assert self.adapter is not None
        if outcome.stopped_early:
            self.journal.record(
                "note",
                text=f"stopped after step {outcome.steps}: {run.settings.patience} evaluations without a better one",
            )
        self.tuned, log_probabilities = evaluate(self.adapter.model, run.tokenizer, run.tokens["valid"])
        if "test" in run.tokens:
            self.test, _ = evaluate(self.adapter.model, run.tokenizer, run.tokens["test"])
        write_predictions(
            run.folder / "predictions.jsonl",
            run.data.splits["valid"],
            run.data.labels,
            log_probabilities,
            base_log_probabilities,
        )
        self._save_adapter()
        run.tokenizer.save_pretrained(run.folder / "adapter")

    def _stop(self, status: str, reason: str) -> None:
        self.journal.record(status, text=reason)
        self._write_summary(status, reason)

    def _what_is_kept(self) -> str:
        if self.tuned is None:
            return "; nothing was evaluated yet, so no adapter is kept"
        return f"; the adapter of step {self.best_step}, the best so far, is kept"

    def _record_evaluation(self, step: int, scores: Scores, best: bool) -> None:
        epoch = step / self.run.plan.steps_per_epoch
        self.journal.record("evaluate", step=step, epoch=epoch, split="valid", **scores.as_dict(), best=best)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.adapter.parameters()) if self.adapter else 0

    def _write_summary(self, status: str, reason: str | None) -> dict[str, Any]:
        run, last = self.run, self.last
        tensors = run.folder / "adapter" / peft.TENSORS
        peak = peak_memory_bytes(run.device)
        plan = {"memory_bytes": None, "seconds": None} if self.estimate is None else asdict(self.estimate)
        summary = {
            "status": status,
            "reason": reason,
            "task": "classify",
            "method": run.settings.method.name,
            "model": run.base.name,
            "data": run.data.source,
            "labels": list(run.data.labels),
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "adapter_bytes": tensors.stat().st_size if tensors.is_file() else 0,
            "train_seconds": round(last.seconds, 3) if last else 0.0,
            "wall_seconds": round(time.perf_counter() - self.began, 3),
            "peak_memory_bytes": peak,
            "tokens_per_second": round(last.tokens / last.seconds, 1) if last else 0.0,
            "steps": last.step if last else 0,
            "best_step": self.best_step,
            "metrics": {
                "split": "valid",
                "rows": len(run.tokens["valid"].rows),
                "base": self.base_scores.as_dict() if self.base_scores else None,
                "tuned": self.tuned.as_dict() if self.tuned else None,
                "test": self.test.as_dict() if self.test else None,
            },
            "forgetting": None,
            "plan": plan,
            "versions": versions(),
            "device": str(run.device),
            "dtype": str(run.dtype).removeprefix("torch."),
            "seed": run.settings.seed,
            "command": shlex.join(self.command),
        }
        write_json(run.folder / "summary.json", summary)
        write_report(run.folder)
        if status == "finished":
            assert self.base_scores is not None
            assert self.tuned is not None
            self.journal.record(
                "finished",
                folder=str(run.folder),
                split="valid",
                base=self.base_scores.as_dict(),
                tuned=self.tuned.as_dict(),
                test=self.test.as_dict() if self.test else None,
                best_step=self.best_step,
                train_seconds=summary["train_seconds"],
                peak_memory_bytes=peak,
            )
        return summary


def versions() -> dict[str, str]:
    return {
        "inlay": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def _free_folder(settings: RunSettings[Any]) -> Path:
    if settings.out is not None:
        folder = Path(settings.out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SettingsError(f"--out {folder} exists and is not empty; name another folder, so that nothing is lost")
        return folder
    data = re.sub(r"\W+", "-", Path(settings.data.path.removeprefix("builtin:")).name.split(".")[0]).strip("-")
    stem = f"{data or 'run'}-{settings.method.name}"
    numbered = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(folder for folder in numbered if not folder.exists())


def _max_length(settings: RunSettings[Any], config: Any, tokenizer: Any) -> int:
    """Positions for the text: what the model has, less what the method takes."""
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    room = min(positions, tokenizer.model_max_length) - settings.method.virtual_tokens
    if settings.max_length is not None and settings.max_length > room:
        raise SettingsError(f"max_length is {settings.max_length}; the model has room for {room} tokens of text")
    if room < 8:
        raise SettingsError(f"{settings.method.name} leaves {room} of the model's {positions} positions to the text")
    return settings.max_length or min(room, 512)
