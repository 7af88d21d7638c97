"""One run, from what was asked to the files that show what came of it."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from accelerate import Accelerator
from torch import nn

from .. import __version__
from ..core.adapter import Adapter, join, prepare
from ..errors import InlayError
from ..formats import peft
from ..formats.files import write_json, write_text
from ..report import write_report
from .batches import Batch
from .estimate import Estimate, estimate
from .journal import Journal, Watcher
from .loop import Outcome, StepEvent, fit
from .memory import memory_bytes, peak_memory_bytes, reset_peak_memory
from .prepared import Prepared, prepare_run
from .resolved import resolved_yaml
from .settings import RunSettings, as_asked
from .shared_base import NoSharing
from .source_tasks import SourceTask, learn_sources, source_tasks, without_sources
from .task import Scores

_STEP_EVENTS = 400  # in a run's metrics, at most


def train(
    settings: RunSettings[Any],
    watcher: Watcher = lambda _: None,
    command: Sequence[str] = (),
    *,
    bases: NoSharing | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """Train one adapter and write its run's folder; returns the summary.

    `bases` lends the model, which is loaded if there is none. With `start`, the folder of an adapter by the same method
    on the same base, training goes on from its tensors, with new heads.

    Raises InvalidRequest, having written nothing, for settings or data that cannot work; TrainingFailed, having written
    what there is, if the training does not work out. KeyboardInterrupt passes through after the same.
    """
    journal = Journal(watcher)
    run = prepare_run(without_sources(settings), journal)
    sources = source_tasks(settings, run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    journal.open(run.folder)
    write_text(run.folder / "run.yaml", yaml.safe_dump(as_asked(settings), sort_keys=False, allow_unicode=True))
    return _Run(run, sources, journal, command, bases or NoSharing(), start).go()


class _Run:
    """The part of a run that computes: its state is what the summary needs, so that a failure can still be told."""

    def __init__(
        self,
        run: Prepared,
        sources: list[SourceTask],
        journal: Journal,
        command: Sequence[str],
        bases: NoSharing,
        start: Path | None,
    ):
        self.run, self.sources, self.journal, self.command = run, sources, journal, command
        self.bases, self.start = bases, start
        self.began = time.perf_counter()
        self.adapter: Adapter | None = None
        self.base_scores: Scores | None = None
        self.tuned: Scores | None = None
        self.test: Scores | None = None
        self.best_step = 0
        self.last: StepEvent | None = None
        self.fit_began: float | None = None
        self.fit_ended: float | None = None
        self.estimate: Estimate | None = None
        self.total_parameters = 0

    def go(self) -> dict[str, Any]:
        reset_peak_memory(self.run.device)
        try:
            if self.sources:
                self.run = learn_sources(self.run, self.sources, self.journal)
            write_text(self.run.folder / "resolved.yaml", resolved_yaml(self.run))
            model = self._load()
            of_base = self._evaluate_base(model)
            self._attach(model)
            outcome = self._fit()
            self.fit_ended = time.perf_counter()
            self._finish(outcome, of_base)
        except KeyboardInterrupt:
            self._stop("interrupted", "stopped by the user" + self._what_is_kept())
            raise
        except torch.OutOfMemoryError as problem:
            self._stop("failed", str(problem))
            raise
        except InlayError as problem:
            self._stop("failed", str(problem) + self._what_is_kept())
            raise
        summary = self._write_summary("finished", None)
        assert self.adapter is not None
        self.bases.take_back(self.adapter)
        return summary | {"folder": str(self.run.folder)}

    def _load(self) -> nn.Module:
        run = self.run
        loaded = self.bases.lend(run)
        model, self.heads, self.total_parameters = loaded.model, loaded.heads, loaded.total_parameters
        self.journal.record(
            "model",
            model=run.task.base.name,
            **{"class": type(model).__name__},
            total_parameters=self.total_parameters,
            dtype=str(run.dtype).removeprefix("torch."),
            quantize=run.settings.quantize,
            device=str(run.device),
        )
        return model

    def _evaluate_base(self, model: nn.Module) -> Any:
        began = time.perf_counter()
        found = self.run.task.evaluate(model, "valid")
        self.evaluation_seconds = time.perf_counter() - began
        self.base_scores, predictions = self.run.task.complete(model, "valid", *found)
        self._record_evaluation(0, self.base_scores, best=False)
        return predictions

    def _attach(self, model: nn.Module) -> None:
        run = self.run
        self.adapter = prepare(model, run.settings.method, heads=self.heads)
        join(self.adapter)
        run.settings.method.initialize_from_data(self.adapter, self._first_batches())
        if self.start is not None:
            peft.start_from(self.adapter, self.start)
        for text in run.task.ready(model):
            self.journal.record("note", text=text)
        self.estimate = estimate(self.adapter, run.plan, run.settings, run.task, self.evaluation_seconds)
        self.journal.record(
            "method",
            method=run.settings.method.name,
            trainable_parameters=self.trainable_parameters,
            total_parameters=self.total_parameters,
            learning_rate=run.plan.learning_rate,
        )
        self.journal.record("plan", steps=run.plan.steps, epochs=run.plan.epochs, **asdict(self.estimate))

    def _first_batches(self) -> Iterator[Batch]:
        """Training batches where the model is, for a method that looks at data before it starts."""
        settings = self.run.settings
        for batch in self.run.task.batches(settings.batch_size, settings.seed):
            yield {key: value.to(self.run.device) for key, value in batch.items()}

    def _fit(self) -> Outcome:
        run = self.run
        assert self.adapter is not None
        accelerator = Accelerator(cpu=run.device.type == "cpu")
        self.fit_began = time.perf_counter()
        return fit(
            self.adapter,
            run.task,
            run.task.batches(run.settings.batch_size, run.settings.seed),
            run.plan,
            run.settings,
            accelerator,
            evaluate=self._evaluate,
            on_step=self._on_step,
            on_best=self._on_best,
        )

    def _evaluate(self, step: int) -> Scores:
        assert self.adapter is not None
        scores, _ = self.run.task.evaluate(self.adapter.model, "valid")
        settled = self.run.settings.method.settled(step, self.run.plan.steps)
        better = settled and scores.better_than(self.tuned)
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
        self.journal.record(
            "step",
            **{k: v for k, v in asdict(event).items() if k != "tokens"},
            steps=steps,
            tokens_per_second=event.tokens / event.seconds,
            memory_bytes=memory_bytes(self.run.device),
            seconds_left=self.train_seconds / event.step * (steps - event.step),
        )

    def _on_best(self, step: int) -> None:
        self._save_adapter()

    def _save_adapter(self) -> None:
        run = self.run
        assert self.adapter is not None
        provenance = {
            "model": run.task.base.name,
            "task": run.task.kind,
            **run.task.provenance(),
            "data": asdict(run.settings.data),
            "seed": run.settings.seed,
            "max_length": run.max_length,
            "dtype": str(run.dtype).removeprefix("torch."),
            "quantize": run.settings.quantize,
        }
        peft.save(self.adapter, run.folder / "adapter", provenance)

    def _finish(self, outcome: Outcome, of_base: Any) -> None:
        run = self.run
        assert self.adapter is not None
        if outcome.stopped_early:
            self.journal.record(
                "note",
                text=f"stopped after step {outcome.steps}: {run.settings.patience} evaluations without a better one",
            )
        self.tuned, of_tuned = self._final_scores(self.adapter.model, "valid")
        if "test" in run.task.data.splits:
            self.test, _ = self._final_scores(self.adapter.model, "test")
        run.task.write_predictions(run.folder / "predictions.jsonl", of_tuned, of_base)
        self._save_adapter()
        run.task.tokenizer.save_pretrained(run.folder / "adapter")

    def _final_scores(self, model: nn.Module, split: str) -> tuple[Scores, Any]:
        return self.run.task.complete(model, split, *self.run.task.evaluate(model, split))

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
    def train_seconds(self) -> float:
        """From the first step to the last evaluation, or until now."""
        return 0.0 if self.fit_began is None else (self.fit_ended or time.perf_counter()) - self.fit_began

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
            "task": run.task.kind,
            "method": run.settings.method.name,
            "model": run.task.base.name,
            "data": run.task.data.source,
            "labels": list(getattr(run.task.data, "labels", ())),
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "adapter_bytes": tensors.stat().st_size if tensors.is_file() else 0,
            "train_seconds": round(self.train_seconds, 3),
            "wall_seconds": round(time.perf_counter() - self.began, 3),
            "peak_memory_bytes": peak,
            "tokens_per_second": round(last.tokens / last.seconds, 1) if last else 0.0,
            "steps": last.step if last else 0,
            "best_step": self.best_step,
            "metrics": {
                "split": "valid",
                "rows": len(run.task.lengths("valid")),
                "base": self.base_scores.as_dict() if self.base_scores else None,
                "tuned": self.tuned.as_dict() if self.tuned else None,
                "test": self.test.as_dict() if self.test else None,
            },
            "decided": run.settings.method.decided(self.adapter) if self.adapter else {},
            "forgetting": None,
            "plan": plan,
            "versions": versions(),
            "device": str(run.device),
            "dtype": str(run.dtype).removeprefix("torch."),
            "quantize": run.settings.quantize,
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
