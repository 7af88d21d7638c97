"""One run, from what was asked to the files that show what came of it."""

import math
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import nn

from ..attached.adapter import plan_attach
from ..bases.shared_base import NoSharing
from ..core.state import commit
from ..errors import TrainingFailed
from ..forgetting.measurement import Measurement
from ..forgetting.retaining import Retaining
from ..forgetting.sample import affordable_tokens
from ..formats.files import check_free, held, remove_unfinished, write_text
from ..hub import offline
from ..machine import refusals
from ..methods import loading
from ..models.fingerprint import fingerprint
from ..models.sites import Sites
from ..tasks.batches import Batch
from ..tasks.metric import Scores
from ..tasks.task import Evaluation, Task
from .checkpoint import Checkpoint, check_is_run, read_checkpoint, remove_checkpoint
from .ending import Ending, of_the_run
from .estimate import estimate
from .journal import Journal, Watcher
from .loop import StepEvent, Training, fit
from .memory import memory_bytes, reset_peak_memory
from .prepared import Prepared, prepare_run
from .resolved import resolved_yaml
from .run_state import versions
from .score_parts import write_parts
from .settings import RunSettings, all_values, as_asked, of_values
from .source_tasks import SourceTask, learn_sources, source_tasks, without_sources

_STEP_EVENTS = 400  # in a run's metrics, at most


@refusals()
def train(
    settings: RunSettings[Any],
    watcher: Watcher = lambda _: None,
    command: Sequence[str] = (),
    *,
    resumable: bool = True,
    bases: NoSharing | None = None,
    start: Path | None = None,
    task: Task | None = None,
) -> dict[str, Any]:
    """Train one adapter and write its run's folder; returns the summary.

    `bases` lends the model, which is loaded if there is none; `task` has read the data, which are read if there is
    none. With `start`, the folder of an adapter by the same method on the same base, training goes on from its tensors,
    with new heads.

    Raises InvalidRequest, having written nothing, for settings or data that cannot work; TrainingFailed, having written
    what there is, if the training does not work out. KeyboardInterrupt passes through after the same, and after the
    checkpoint that `resume` goes on from; a run that is part of another is not `resumable` by itself.
    """
    journal = Journal(watcher)
    run = prepare_run(without_sources(settings), journal, task=task)
    sources = source_tasks(settings, run.folder)
    with held(run.folder):
        check_free(run.folder, "--out")  # still: another process may have been faster
        parts: dict[str, Any] = {"sources": sources, "resumable": resumable, "bases": bases, "start": start}
        return begun(run, settings, journal, command, **parts)


@refusals()
def resume(
    folder: Path, watcher: Watcher = lambda _: None, *, fetch: bool = False, task: Task | None = None
) -> dict[str, Any]:
    """Finish the interrupted run in `folder` as if nothing had happened; returns its summary.

    A base and data that its files name are taken from this machine, and from a hub only with `fetch`; or from `task`,
    which has read both.

    Raises CheckpointError or another InvalidRequest, which leave it as it was, if it cannot go on; else as `train`.
    """
    check_is_run(folder)
    with held(folder):
        return gone_on(folder, Journal(watcher), fetch=fetch, task=task)


def begun(
    run: Prepared, settings: RunSettings[Any], journal: Journal, command: Sequence[str], **parts: Any
) -> dict[str, Any]:
    """In a folder that is held, and has no run."""
    remove_unfinished(run.folder)
    path = run.folder / "run.yaml"
    anew = path.exists()
    try:
        write_text(path, yaml.safe_dump(as_asked(settings), sort_keys=False, allow_unicode=True))
    except OSError:  # it may be there nonetheless, and with it the folder is that of a run, and not free
        if not anew:
            path.unlink(missing_ok=True)
        raise
    with journal.opened(run.folder, new=True):
        return _Run(run, settings, journal, command, **parts).go()


def gone_on(
    folder: Path,
    journal: Journal,
    *,
    fetch: bool = False,
    named: RunSettings[Any] | None = None,
    task: Task | None = None,
) -> dict[str, Any]:
    """Finish the run from the checkpoint in a folder that is held. A hub is asked with `fetch`, or if what the
    checkpoint names is what the user has `named`."""
    checkpoint = read_checkpoint(folder)
    settings = of_values(checkpoint.about.settings)
    fetch = fetch or (named is not None and _names(settings) == _names(named))
    run = prepare_run(without_sources(settings), journal, folder, fetch=fetch, task=task)
    checkpoint.check(folder, run.task, run.text, run.plan)
    with journal.opened(folder), offline(not fetch):  # a method may read the base's tokenizer
        remove_unfinished(folder)
        if checkpoint.skipped is not None:
            step = checkpoint.progress["step"]
            journal.record("note", text=f"{checkpoint.skipped}; going on from the one before it, of step {step}")
        own = versions()
        others = [f"{k} {v}, not {own.get(k)}" for k, v in checkpoint.about.versions.items() if own.get(k) != v]
        if others:
            journal.record("note", text=f"begun with {', '.join(others)}: what follows may differ in the last digits")
        return _Run(run, settings, journal, checkpoint.about.command, checkpoint=checkpoint).go()


def _names(settings: RunSettings[Any]) -> dict[str, Any]:
    """All but what a run decides, where it is not asked for, and where its folder was."""
    return {name: value for name, value in all_values(settings).items() if name not in ("out", "device", "dtype")}


class _Run(Ending):
    """The part of a run that computes; whatever stops it, its state can still be told."""

    def __init__(
        self,
        run: Prepared,
        asked: RunSettings[Any],
        journal: Journal,
        command: Sequence[str],
        *,
        sources: Sequence[SourceTask] = (),
        checkpoint: Checkpoint | None = None,
        resumable: bool = True,
        bases: NoSharing | None = None,
        start: Path | None = None,
    ):
        super().__init__(run, asked, journal, command, checkpoint=checkpoint, resumable=resumable)
        self.sources = sources
        self.bases, self.start = bases or NoSharing(), start
        self.of_best: Evaluation | None = None  # on valid, if this process made it

    def go(self) -> dict[str, Any]:
        reset_peak_memory(self.run.device)
        with self.keeper.interrupts:
            try:
                if self.sources:
                    self.run = learn_sources(self.run, self.sources, self.journal)
                if self.checkpoint is None:
                    write_text(self.run.folder / "resolved.yaml", resolved_yaml(self.run))
                model = self._load()
                of_base = self._evaluate_base(model)
                self._remember_base(model)
                self._attach(model)
                self._fit()
                self.fit_ended = time.perf_counter()
                self._finish(of_base)
                summary = self.write_summary("finished", None)
            except (KeyboardInterrupt, Exception) as problem:
                said = of_the_run(problem)
                if self.checkpoint is None:
                    with self.keeper.interrupts.deferred():
                        said = self.stop(said)
                if said is problem:
                    raise
                raise said from problem
            with suppress(OSError):  # it is of no use any more, and does no harm
                remove_checkpoint(self.run.folder)
        assert self.adapter is not None
        self.bases.take_back(self.adapter)
        return summary | {"folder": str(self.run.folder)}

    def _load(self) -> nn.Module:
        run = self.run
        loaded = self.bases.lend(run)
        model, self.heads, self.total_parameters = loaded.model, loaded.heads, loaded.total_parameters
        if self.checkpoint is not None:
            self.checkpoint.check_base(run.folder, fingerprint(Sites(model, self.heads)))
        self.journal.record(
            "model",
            model=run.task.base.name,
            **{"class": type(model).__name__},
            total_parameters=self.total_parameters,
            dtype=str(run.dtype).removeprefix("torch."),
            quantize=run.settings.quantize,
            device=str(run.device),
            threads=torch.get_num_threads() if run.device.type == "cpu" else None,
        )
        return model

    def _evaluate_base(self, model: nn.Module) -> Any:
        began = time.perf_counter()
        found = self._evaluated(model, "valid", "before any training")
        self.evaluation_seconds = time.perf_counter() - began
        found = self._complete(model, "valid", found)
        self.base_scores = found.scores
        self._record_evaluation(0, found.scores, best=False)
        return found.predictions

    def _remember_base(self, model: nn.Module) -> None:
        """What is needed of the base to measure and to hold back forgetting, before anything changes it."""
        task, text, settings = self.run.task, self.run.text, self.run.settings
        if settings.forgetting:
            assert text is not None
            trained = sum(task.lengths("train")) * self.run.plan.steps / self.run.plan.steps_per_epoch
            self.measurement = Measurement(task, model, text, affordable_tokens(trained))
        if settings.retain_weight:
            assert text is not None
            self.objective = Retaining(task, task.held(model, text), settings.retain_weight)

    def _attach(self, model: nn.Module) -> None:
        run = self.run
        self.adapter = plan_attach(model, run.settings.method, heads=self.heads, part=run.part.name)
        commit(self.adapter)
        if self.checkpoint is None:
            run.settings.method.initialize_from_data(self.adapter, self._first_batches())
            if self.start is not None:
                loading.start_from(self.adapter, self.start)
        for text in run.task.ready(model):
            self.journal.record("note", text=text)
        self.estimate = estimate(
            self.adapter, run.plan, run.settings, run.task, self.objective, self.evaluation_seconds
        )
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

    def _fit(self) -> None:
        run = self.run
        assert self.adapter is not None
        accelerator = Accelerator(cpu=run.device.type == "cpu")
        training = Training.begin(self.adapter, run.plan, run.settings, accelerator)
        self.fit_began = time.perf_counter()
        if self.checkpoint is not None:
            self._go_on(training, self.checkpoint)
        self.training = training
        self.keeper.training = training if self.resumable else None
        batches = run.task.batches(run.settings.batch_size, run.settings.seed)
        callbacks = (self._evaluate, self._on_step, self._on_best, self.keeper.whole_step)
        fit(training, self.objective, batches, run.plan, run.settings, *callbacks)

    def _go_on(self, training: Training, checkpoint: Checkpoint) -> None:
        """Whatever the folder holds of steps after the checkpoint is written again."""
        checkpoint.restore(training, self.run.task.main_score)
        checkpoint.keep(self.run.folder)
        assert self.fit_began is not None
        self.fit_began -= checkpoint.about.train_seconds
        progress = training.progress
        self.journal.record("resume", step=progress.step, steps=self.run.plan.steps, seconds=self.train_seconds)
        if progress.best_step:
            with training.at(progress.best_state):
                self.save_adapter()
        self.checkpoint = None

    def _evaluate(self, step: int) -> Scores:
        assert self.adapter is not None
        found = self.run.task.evaluate(self.adapter.model, "valid")
        best = self.run.settings.method.may_be_best(step, self.run.plan.steps) and self.objective.is_better(
            found.scores, self.progress.best
        )
        if best:
            self.of_best = found
        self._record_evaluation(step, found.scores, best=best)
        return found.scores

    def _on_step(self, event: StepEvent) -> None:
        steps = self.run.plan.steps
        every = max(1, steps // _STEP_EVENTS)
        if event.step % every == 0 or event.step in (1, steps):
            self.journal.record(
                "step",
                **{k: v for k, v in asdict(event).items() if k != "tokens"},
                steps=steps,
                tokens_per_second=event.tokens / event.seconds,
                memory_bytes=memory_bytes(self.run.device),
                seconds_left=self.train_seconds / event.step * (steps - event.step),
            )
        self.keeper.between_steps()

    def _on_best(self, step: int) -> None:
        self.save_adapter()

    def _finish(self, of_base: Any) -> None:
        run, steps = self.run, self.progress.step
        assert self.adapter is not None
        if steps < run.plan.steps:
            self.journal.record(
                "note", text=f"stopped after step {steps}: {run.settings.patience} evaluations without a better one"
            )
        self.save_adapter()
        model, task = self.adapter.model, run.task
        found = {"valid": self._complete(model, "valid", self.of_best or self._evaluated(model, "valid"))}
        if "test" in task.data.splits:
            found["test"] = self._complete(model, "test", self._evaluated(model, "test"))
        self.final = found["valid"].scores
        self.test = found["test"].scores if "test" in found else None
        self.journal.check_folder()
        write_parts(run.folder, {split: each.parts for split, each in found.items()})
        if self.measurement is not None:
            self.forgetting = self.measurement.of(self.adapter.model)
            self.journal.record("forgetting", **self.forgetting)
        run.task.write_predictions(self.file("predictions.jsonl"), found["valid"].predictions, of_base)

    def _evaluated(self, model: nn.Module, split: str, when: str = "after the training") -> Evaluation:
        found = self.run.task.evaluate(model, split)
        if not math.isfinite(found.scores["loss"]):
            raise TrainingFailed(
                f"the loss on {split} is {found.scores['loss']} {when}; try --dtype float32, and look at the rows "
                f"with: inlay data {shlex.quote(self.run.settings.data.path)}"
            )
        return found

    def _complete(self, model: nn.Module, split: str, found: Evaluation) -> Evaluation:
        """Add the texts that the model writes. A model that cannot write some has learned nonetheless."""
        try:
            return self.run.task.complete(model, split, found)
        except Exception as problem:
            reason = " ".join(str(problem).split()) or type(problem).__name__
            self.journal.record(
                "note",
                text=f"no texts were written for {split}, so scores and report are without them, as generating failed: "
                f"{reason}",
            )
            return found

    def _record_evaluation(self, step: int, scores: Scores, best: bool) -> None:
        epoch = step / self.run.plan.steps_per_epoch
        self.journal.record("evaluate", step=step, epoch=epoch, split="valid", **scores, best=best)
