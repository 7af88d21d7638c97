"""A run while it computes, top to bottom: the base evaluated, the adapter attached, trained, saved, evaluated, told."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .. import processes
from ..attached.adapter import Adapter, plan_attach
from ..core.method import Method
from ..core.state import commit
from ..cost.busy import processor_share, told_of_share
from ..devices import has_tf32, tf32
from ..forgetting.measurement import Measurement
from ..forgetting.retaining import Retaining
from ..forgetting.sample import affordable_tokens
from ..formats.files import write_text
from ..formats.summary import RunSummary
from ..models.fingerprint import fingerprint
from ..models.sharding import attaching, held_bytes
from ..models.sites import Sites
from ..tasks.evaluation import Evaluation
from ..tasks.metric import Scores
from ..tasks.never_given import never_given_text
from .adapter_start import begin
from .budget import EVERY_TOKEN, ForgettingBudget
from .checkpoint import Checkpoint, RunIdentity, remove_checkpoint
from .checkpoint_fit import shrunk_of
from .division import Division
from .ending import Ending, as_run_error, check_beaten, is_refusal
from .estimate import Estimate, estimate
from .forecast import Forecast, after_all, exceeded, fitted, forecast, free_memory_bytes
from .guard import Guard, Scored
from .journal import Journal
from .keeper import Keeper
from .long_row import long_row_note
from .loop import Observer, StepEvent, Training, fit
from .memory import Ceiling, reset_peak_memory
from .on_record import add_to_record
from .prepared import Prepared
from .resolved import resolved_yaml
from .run_output import RunOutput
from .run_state import RunState
from .score_parts import write_parts
from .scoring import after_training, evaluated, texts_note, texts_of, with_texts
from .settings import RunSettings
from .shared_base import NoSharing
from .shrinking import Shrunk
from .together import check_alike, told_of_processes

_STEP_EVENTS = 400  # in a run's metrics, at most


class ActiveRun(Observer):
    """A run in a folder that it holds. Whatever stops it, its state can still be told."""

    def __init__(
        self,
        run: Prepared,
        asked: RunSettings[Method],
        journal: Journal,
        command: Sequence[str] = (),
        *,
        before: Callable[[Prepared, Journal], Prepared] = lambda run, _: run,
        checkpoint: Checkpoint | None = None,
        resumable: bool = True,
        bases: NoSharing | None = None,
        start: Path | None = None,
    ):
        self.state = RunState(run, asked, command, checkpoint.identity if checkpoint else None)
        self.journal, self.output = journal, RunOutput(self.state, journal)
        self.keeper = Keeper(run.folder, asked.checkpoint_minutes, journal, self._identity)
        self.checkpoint = checkpoint  # to go on from; until that is done, the folder stays as it was
        self.before, self.resumable = before, resumable
        self.bases, self.start = bases or NoSharing(), start
        self.of_base: Evaluation | None = None  # on valid
        self.of_start: Evaluation | None = None  # on valid, where a new head has learned before the first step
        self.of_best: Evaluation | None = None  # on valid, if this process made it
        self.evaluated: Evaluation | None = None  # last, on valid
        self.budget: ForgettingBudget | None = None

    @property
    def run(self) -> Prepared:
        return self.state.run

    def _identity(self) -> RunIdentity:
        return self.state.identity(self.output.run_yaml)

    @property
    def adapter(self) -> Adapter:
        assert self.state.adapter is not None
        return self.state.adapter

    def finish(self) -> RunSummary:
        """Do all that is left to do, and write it; returns the summary."""
        reset_peak_memory(self.run.device)
        with self.keeper.interrupts, tf32(self.run.device, self.run.settings.tf32):
            try:
                self.state.run = self.before(self.run, self.journal)
                self._forecast()
                self._note(told_of_processes(self.run.settings))
                if self.checkpoint is None:
                    write_text(self.run.folder / "resolved.yaml", resolved_yaml(self.run))
                model = self._load()
                of_base = self._evaluate_base(model)
                self._remember_base(model)
                self._attach(model)
                self._fit()
                self._keep_inside()
                self.state.fit_ended = time.perf_counter()
                self._finish(of_base)
                summary = self.output.write_summary("finished", None)
                if processes.count() == 1:
                    add_to_record(self.state, summary["peak_memory_bytes"])  # before the machine is measured for it
            except (KeyboardInterrupt, Exception) as problem:
                with self.keeper.interrupts.deferred():
                    said = processes.first_failure(as_run_error(problem))
                    ends = self.checkpoint is None and not is_refusal(said, self.state)
                    if ends and processes.is_first():
                        said = Ending(self.output, self.keeper, self.resumable).stop(said)
                if said is problem:
                    raise
                raise said from problem
            with suppress(OSError):  # it is of no use any more, and does no harm
                remove_checkpoint(self.run.folder)
        self.division.undo()
        self.bases.take_back(self.adapter)
        finished: RunSummary = {**summary, "folder": str(self.run.folder)}
        if self.state.asked.fail_below_baseline:
            check_beaten(finished)
        return finished

    def _forecast(self) -> None:
        """Tell what the run takes, and choose what makes it fit; one that goes on keeps what was chosen."""
        run = self.run
        free = min(processes.gathered(free_memory_bytes(run.device, processes.local_count())))
        tell = partial(forecast, run, free, may_choose=self.checkpoint is None)
        self.state.forecast = told = processes.from_first(tell)
        self.state.run = fitted(self.run, told)
        if told.note is not None:
            self.journal.record("note", text=" ".join(filter(None, (told.told if self.run.chosen else "", told.note))))

    def _load(self) -> nn.Module:
        run = self.run
        loaded = self.bases.lend(run)
        model, self.heads, self.state.total_parameters = loaded.model, loaded.heads, loaded.total_parameters
        if self.checkpoint is not None:
            self.checkpoint.check_base(run.folder, fingerprint(Sites(model, self.heads)))
        self.journal.record(
            "model",
            model=run.task.base.name,
            **{"class": type(model).__name__},
            total_parameters=self.state.total_parameters,
            dtype=str(run.dtype).removeprefix("torch."),
            quantize=run.settings.quantize,
            stream=run.settings.stream,
            shard=run.shares_base,
            **({"held_bytes": max(processes.gathered(held_bytes(model)))} if run.shares_base else {}),
            device=str(run.device),
            attention=run.attention,
            tf32=run.settings.tf32 and has_tf32(run.device),
            threads=torch.get_num_threads() if run.device.type == "cpu" else None,
        )
        return model

    def _evaluate_base(self, model: nn.Module) -> object:
        self.state.stages.enter("base")
        began = time.perf_counter()
        found = evaluated(self.run, model, "valid", "before any training")
        self.evaluation_seconds = time.perf_counter() - began
        texts = texts_of(self.run, "valid")
        self._note(texts_note(self.run, again=self.checkpoint is not None))
        began = time.perf_counter()
        self.of_base = found = with_texts(self.run, self.journal, model, "valid", found)
        self.state.text_seconds = (time.perf_counter() - began) / texts if texts else None
        self.state.base_scores = found.scores
        by, more = self.run.task.main_score, dict[str, str | float]()
        if self.run.task.base_is_random:
            more["base_is_random"] = True
        if (naive := self.run.task.naive("valid", found.scores)) is not None:
            self.state.naive["valid"] = naive
            if naive.scores[by] != found.scores[by]:  # else it is the base itself
                more |= {"score": by, "baseline": naive.told, "baseline_score": naive.scores[by]}
        self._record_evaluation(0, found.scores, best=False, **more)
        return found.predictions

    def _remember_base(self, model: nn.Module) -> None:
        """Keep what is needed of the base to measure and to hold back forgetting, before anything changes it."""
        task, text, settings = self.run.task, self.run.text, self.run.settings
        if settings.forgetting:
            assert text is not None
            trained = sum(task.lengths("train")) * self.run.plan.steps / self.run.plan.steps_per_epoch
            tokens = affordable_tokens(trained)
            if settings.forget_at_most is not None:
                tokens = EVERY_TOKEN
                text, deciding = text.halves()
                began, baseline = time.perf_counter(), task.baseline(model, deciding, tokens)
                self.budget = ForgettingBudget(settings.forget_at_most, baseline, time.perf_counter() - began)
            self.state.measurement = Measurement(task, model, text, tokens)
        if settings.retain_weight:
            assert text is not None
            self.state.objective = Retaining(task, task.held(model, text), settings.retain_weight)

    def _attach(self, model: nn.Module) -> None:
        run = self.run
        assert (told := self.state.forecast) is not None
        self.state.stages.enter("attach")
        with attaching(model):
            adapter = plan_attach(model, run.settings.method, heads=self.heads, part=run.part.name)
            commit(adapter)
        self.state.adapter = adapter
        if self.checkpoint is None:
            self._note(told_of_head := begin(run, adapter, self.start))
            if told_of_head is not None:
                self.evaluated = self.of_start = evaluated(run, adapter.model, "valid", "before the first step")
                self.state.start_scores = self.of_start.scores
                self._record_evaluation(0, self.of_start.scores, best=True, start=True)
        shrunk = shrunk_of(self.checkpoint.progress) if self.checkpoint is not None else ()
        self.division = Division(run, adapter, Sites(model, self.heads, run.part.name), shrunk, self.journal)
        # A way of attention that was asked for is kept to; rows of several texts have one of their own.
        ready = run.task.ready(model) if run.settings.attention == "auto" else ()
        sizes = run.settings.batch_size, self.division.micro_batch_size
        for text in (*ready, long_row_note(run.task, *sizes, run.settings.seed)):
            self._note(text)
        check_alike(self.state)
        self.state.stages.enter("trial")
        self.state.estimate = self.division.tried(partial(self._estimate, told))
        if self.budget is not None:
            more = self.budget.planned_seconds(len(run.plan.evaluate_after), self.evaluation_seconds)
            self.state.estimate = replace(self.state.estimate, seconds=self.state.estimate.seconds + more)
        self.journal.record(
            "method",
            method=run.settings.method.name,
            trainable_parameters=self.state.trainable_parameters,
            total_parameters=self.state.total_parameters,
            learning_rate=run.plan.learning_rate,
        )
        facts = (
            {"steps": run.plan.steps, "epochs": run.plan.epochs}
            | self.state.estimate.facts()
            | after_training(self.state)
        )
        self.journal.record("plan", **facts)
        if run.device.type == "cpu" and processes.count() == 1:
            self._note(told_of_share(processor_share()))
        self._note(exceeded(run, self.state.estimate.memory_bytes, when=" before its first step", then="it goes on"))
        self.state.stages.enter("training", 0 if self.checkpoint is None else self.checkpoint.progress["step"])

    def _estimate(self, told: Forecast, size: int) -> Estimate:
        run = self.run
        settings, way = replace(run.settings, micro_batch_size=size), replace(told.way, micro_batch_size=size)
        known = self.evaluation_seconds, way, told.memory_bytes
        return estimate(self.adapter, run.plan, settings, run.task, self.state.objective, *known)

    def shrink(self, step: int, why: str) -> Shrunk:
        return self.division.shrink(step, why)

    def _fit(self) -> None:
        run = self.run
        training = Training.begin(self.adapter, run.plan, run.settings, run.device, run.dtype)
        self.state.fit_began = time.perf_counter()
        if self.checkpoint is not None:
            self._go_on(training, self.checkpoint)
        training.progress = replace(training.progress, shrunk=self.division.shrunk)
        self.state.training = training
        self.keeper.training = training if self.resumable and processes.is_first() else None
        batches = run.task.batches(run.settings.batch_size, run.settings.seed)
        assert (told := self.state.estimate) is not None
        self.left, self.ceiling = told.time_left(run.plan), Ceiling(told.memory_bytes, run.device)
        fit(training, self.state.objective, batches, run.plan, run.settings, self)

    def _keep_inside(self) -> None:
        """Put the adapter where it forgets no more than it may, if that was asked for."""
        training = self.state.training
        self.state.stages.enter("end", self.state.progress.step)
        if self.budget is None or training is None:
            return
        model = self.adapter.model
        by = self.run.task.main_score
        self.state.budget = self.budget.choose(training, lambda: evaluated(self.run, model, "valid").scores, by)
        self.of_best = None

    def _go_on(self, training: Training, checkpoint: Checkpoint) -> None:
        """Put the training where the checkpoint is; what the folder holds of later steps is written again."""
        checkpoint.restore(training, self.run.task.main_score)
        checkpoint.keep(self.run.folder)
        assert self.state.fit_began is not None
        self.state.fit_began -= checkpoint.identity.train_seconds
        self.state.training, progress = training, training.progress
        self.journal.withdraw(progress.has_told)
        self.journal.record("resume", step=progress.step, steps=self.run.plan.steps, seconds=self.state.train_seconds)
        if (kept := self.state.kept) is not None:
            with training.at(kept.parameters):
                self.output.save_adapter(self.adapter)
        self.checkpoint = None

    def evaluate(self, step: int) -> Scored:
        self.state.stages.enter("evaluation", step)
        found = self.run.task.evaluate(self.adapter.model, "valid")
        self.state.stages.enter("training", step)
        assert self.of_base is not None
        self.evaluated = found
        naive = self.state.naive.get("valid")
        naive_loss = naive.scores.get("loss", math.inf) if naive else math.inf
        return Scored(found.scores, self.of_base.scores["loss"], found.same_answer(self.of_base), naive_loss)

    def on_step(self, event: StepEvent) -> None:
        steps = self.run.plan.steps
        self.ceiling.after_step()
        self.left.after(event.step)
        if event.step % max(1, steps // _STEP_EVENTS) == 0 or event.step in (1, steps):
            self.journal.record("step", **event.facts(steps, self.run.device, self.left))
        self.keeper.between_steps()

    def on_return(self, guard: Guard, learning_rate: float) -> None:
        last = guard.returns[-1]
        self.journal.record("back", step=last.step, to=last.to, why=last.why, learning_rate=learning_rate)

    def on_evaluation(self, step: int, scores: Scores, *, best: bool) -> None:
        self._record_evaluation(step, scores, best=best)

    @property
    def has_budget(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.budget is not None

    def stays_inside(self, step: int) -> bool:
        assert self.budget is not None
        found = self.budget.spent(self.adapter.model)
        inside = self.budget.allows(found)
        told = {name: found[name] for name in ("measure", "value", "interval")}
        self.journal.record("spent", step=step, **told, most=self.budget.most, inside=inside)
        return inside

    @property
    def start_scores(self) -> Scores | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of_start and self.of_start.scores

    def on_best(self) -> None:
        self.of_best = self.evaluated
        self.output.save_adapter(self.adapter)

    def undivided(self) -> AbstractContextManager[None]:
        return self.keeper.interrupts.undivided()

    def whole_step(self) -> AbstractContextManager[None]:
        return self.keeper.whole_step()

    def _finish(self, of_base: object) -> None:
        """Save, evaluate and measure the best adapter, which is in place."""
        run, steps = self.run, self.state.progress.step
        if steps < run.plan.steps:
            text = f"stopped after step {steps}: {run.settings.patience} evaluations without a better one"
            self._note(text, step=steps)
        self._note(self.state.told_of_start, step=steps)
        self.output.save_adapter(self.adapter)
        model, task = self.adapter.model, run.task
        complete = partial(with_texts, run, self.journal, model)
        found = {"valid": complete("valid", self.of_best or evaluated(run, model, "valid"))}
        if "test" in task.data.splits:
            found["test"] = complete("test", evaluated(run, model, "test"))
        self.state.final = found["valid"].scores
        self.state.gain = found["valid"].gain(None if task.base_is_random else self.of_base)
        self.state.test = found["test"].scores if "test" in found else None
        if (naive := task.naive("test") if "test" in found else None) is not None:
            self.state.naive["test"] = naive
        self.state.never_given = task.never_given("valid", found["valid"])
        self._note(never_given_text(self.state.never_given, "no row of valid"))
        self.state.same = {split: same for split, of in found.items() if (same := task.one_answer(split, of))}
        self.journal.check_folder()
        write_parts(run.folder, {split: each.parts for split, each in found.items()})
        if self.state.measurement is not None:
            self.state.forgetting = forgetting = self.state.measurement.of(model)
            self.journal.record("forgetting", **forgetting)
            if self.state.budget is not None:
                self.state.budget = {**self.state.budget, "checked": forgetting["value"]}
                self.journal.record("budget", **self.state.budget)
        self.state.peak_of_others = most = max(processes.gathered(self.state.peak_memory_bytes))
        told = self.state.forecast and self.state.forecast.memory_bytes
        self._note(exceeded(run, most, then=after_all(most, told)))
        run.task.write_predictions(self.output.path("predictions.jsonl"), found["valid"].predictions, of_base)

    def _note(self, text: str | None, **more: int) -> None:
        if text:
            self.journal.record("note", text=text, **more)

    def _record_evaluation(self, step: int, scores: Scores, best: bool, **more: str | float | bool) -> None:
        epoch = step / self.run.plan.steps_per_epoch
        self.journal.record("evaluate", step=step, epoch=epoch, split="valid", **scores, best=best, **more)
