"""What is known of a run, however far it has come."""

import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
import transformers

from .. import __version__, processes
from ..attached.adapter import Adapter
from ..batches.objective import Objective
from ..core.method import Method
from ..forgetting.measurement import Measurement
from ..formats import peft
from ..formats.summary import GainOverBase, PlannedCost, Summary
from ..launch import take_command_begin
from ..show.budget import Chosen
from ..show.forgetting import Forgetting
from ..show.units import counted
from ..tasks.metric import Scores
from ..tasks.naive import Judgement, NaiveBaseline
from .checkpoint import RunIdentity, data_fingerprint
from .estimate import Estimate
from .forecast import Forecast
from .guard import Safe
from .loop import Training
from .memory import beside_bytes, device_memory, peak_memory_bytes
from .prepared import Prepared
from .progress import Progress
from .settings import RunSettings, to_dict
from .stages import Stages

_FEW_STEPS = 30  # by which a rate cannot be judged
_RUNS = itertools.count()  # of this process


class RunState:
    """A run as it stands. Time and memory include what `earlier` tells of the processes before an interruption."""

    def __init__(self, run: Prepared, asked: RunSettings[Method], command: Sequence[str], earlier: RunIdentity | None):
        self.run, self.asked, self.command, self.earlier = run, asked, command, earlier
        self.is_first = next(_RUNS) == 0  # before it, the process had read no library late, and freed nothing
        self.began = take_command_begin() - (earlier.wall_seconds if earlier else 0)
        self.fit_began: float | None = None
        self.fit_ended: float | None = None
        self.peak_of_others = 0  # the most that a process which shares the run took, in bytes
        self.stages = Stages(partial(peak_memory_bytes, run.device))
        self.beside_at_start = beside_bytes(run.device)
        self.total_parameters = 0
        self.adapter: Adapter | None = None
        self.forecast: Forecast | None = None
        self.estimate: Estimate | None = None
        self.training: Training | None = None
        self.base_scores: Scores | None = None
        self.start_scores: Scores | None = earlier.start if earlier else None  # of a new head, before the first step
        self.text_seconds: float | None = None  # what a text took that the base wrote
        self.final: Scores | None = None
        self.test: Scores | None = None
        self.gain: GainOverBase | None = None  # on valid, over the base
        self.naive: dict[str, NaiveBaseline] = {}  # by split
        self.same: dict[str, str] = {}  # the one answer that every row got, by the splits where that is so
        self.never_given: dict[str, int] = {}  # the rows of valid by their answers, of answers that none was given
        self.objective: Objective = run.task
        self.measurement: Measurement | None = None
        self.forgetting: Forgetting | None = None
        self.budget: Chosen | None = None

    @property
    def progress(self) -> Progress:
        return self.training.progress if self.training else Progress()

    @property
    def kept(self) -> Safe | None:
        """The step whose adapter is kept so far; None if there is none."""
        progress = self.progress
        if self.asked.forget_at_most is not None:
            return progress.inside
        return None if progress.best is None else Safe(progress.best_step, progress.best, progress.best_state)

    @property
    def tuned(self) -> Scores | None:
        return self.final or (self.kept.scores if self.kept else None)

    @property
    def best_step(self) -> int:
        """The step that is kept; 0 if it is the start, or there is none."""
        return self.budget["step"] if self.budget else self.kept.step if self.kept else 0

    @property
    def judgement(self) -> Judgement:
        """The tuned model beside its baseline, as far as the run has come."""
        tuned = {"valid": self.tuned, "test": self.test}
        known = {split: scores for split, scores in tuned.items() if scores}
        by = self.run.task.main_score
        return Judgement(by=by, naive=self.naive, tuned=known, same=self.same, rows=self._rows)

    @property
    def told_of_start(self) -> str | None:
        """What is to be said if the training has not come to anything better than it began with."""
        if self.kept is None or self.best_step or not self.progress.step:
            return None
        what = "the adapter is kept as it began, with its new head alone fitted"
        return f"no step scored better on valid than the start, so {what}. {self._advice}"

    @property
    def _rows(self) -> dict[str, int]:
        """The number of rows of each split that is scored."""
        return {split: count for split, count in self.run.task.rows.items() if split in ("valid", "test")}

    @property
    def _advice(self) -> str:
        """What to try if the model has learned nothing."""
        rate, progress = self.run.plan.learning_rate, self.progress
        was = f"(this was {rate:g})"
        if (share := progress.guard.share) < 1:
            change = f"Higher learning rates collapsed: try --learning-rate {share * rate:.1g} from the start {was}"
        elif (steps := self.run.plan.steps) < _FEW_STEPS:
            change = f"{counted(steps, 'step')} can teach little: try more --epochs"
        elif progress.best_step == progress.step or progress.guard.hardly_fell:
            so_far = "It was still getting better" if progress.best_step == progress.step else "The loss hardly fell"
            change = f"{so_far}: try more --epochs, or a higher --learning-rate, such as {3 * rate:.1g} {was}"
        else:
            change = f"Try a lower --learning-rate, such as {rate / 3:.1g} {was}"
        return f"{change}, or another base model."

    @property
    def train_seconds(self) -> float:
        """The time from the first step to the last evaluation, or until now."""
        return 0.0 if self.fit_began is None else (self.fit_ended or time.perf_counter()) - self.fit_began

    @property
    def wall_seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def peak_memory_bytes(self) -> int:
        earlier = self.earlier.peak_memory_bytes if self.earlier else 0
        return max(peak_memory_bytes(self.run.device), earlier, self.peak_of_others)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.adapter.parameters()) if self.adapter else 0

    def identity(self, run_yaml: str) -> RunIdentity:
        """Return what a checkpoint of now says of the run, whose folder has this run.yaml."""
        run, adapter = self.run, self.adapter
        assert adapter is not None
        decided = {
            "device": str(run.device),
            "dtype": str(run.dtype).removeprefix("torch."),
            "learning_rate": run.plan.learning_rate,
            **{name: getattr(run.settings, name) for name in run.chosen},
        }
        return RunIdentity(
            settings=to_dict(replace(self.asked, **decided)),
            asked=run_yaml,
            data=self.data,
            base=adapter.base_fingerprint,
            versions=versions(),
            command=list(self.command),
            train_seconds=self.train_seconds,
            wall_seconds=self.wall_seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            start=self.start_scores,
        )

    @cached_property
    def data(self) -> str:
        """The fingerprint of the data."""
        return data_fingerprint(self.run.task, self.run.text)

    def summary(self, status: str, reason: str | None) -> Summary:
        """Return what summary.json says."""
        run, progress = self.run, self.progress
        tensors = run.folder / "adapter" / peft.TENSORS
        planned = self.estimate
        self.stages.look()
        plan: PlannedCost = {
            "seconds": None if planned is None else planned.seconds,
            "memory_bytes": None if planned is None else planned.memory_bytes,
            "tensors": dict(told.cost.step.memory) if (told := self.forecast) and told.cost else None,
        }
        return {
            "status": status,
            "reason": reason,
            "task": run.task.name,
            "method": run.settings.method.name,
            "model": run.task.base.name,
            "data": run.task.data.source,
            "labels": list(run.task.labels),
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "adapter_bytes": tensors.stat().st_size if tensors.is_file() else 0,
            "train_seconds": round(self.train_seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
            "raised_peak": self.stages.raised,
            "tensors": None if planned is None else dict(planned.step.memory),
            "device_memory": device_memory(run.device, self.beside_at_start),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else 0.0,
            "steps": progress.step,
            "planned_steps": run.plan.steps,
            "longest_row": None if run.task.packs else max(run.task.lengths("train")),
            "best_step": self.best_step,
            "never_given": self.never_given,
            "went_back": [
                {"step": each.step, "to": each.to, "share": each.share, "why": each.why}
                for each in progress.guard.returns
            ],
            "divided": [
                {"step": each.step, "micro_batch_size": each.micro_batch_size, "recomputes": each.recomputes}
                for each in progress.shrunk
            ],
            "metrics": {
                "split": "valid",
                "rows": self._rows["valid"],
                "test_rows": self._rows.get("test"),
                "base": self.base_scores,
                "base_is_random": run.task.base_is_random,
                "start": self.start_scores,
                "tuned": self.tuned,
                "test": self.test,
                "gain": self.gain,
            },
            "baseline": self.judgement.as_dict(self._advice),
            "coverage": run.reach,
            "decided": run.settings.method.findings(self.adapter) if self.adapter else {},
            "forgetting": self.forgetting,
            "budget": self.budget,
            "plan": plan,
            "versions": versions(),
            "device": str(run.device),
            "processes": processes.count(),
            "dtype": str(run.dtype).removeprefix("torch."),
            "quantize": run.settings.quantize,
            "stream": run.settings.stream,
            "shard": run.shares_base,
            "seed": run.settings.seed,
            "command": shlex.join(self.command),
        }


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "inlay": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }
