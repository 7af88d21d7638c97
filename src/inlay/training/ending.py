"""How a run ends: what is kept of it and told, whatever stopped it."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DiskFailed, DoesNotFit, InlayError
from ..formats import peft
from ..formats.files import replace_folder, write_json, write_text
from ..formats.places import PLACES, places
from ..machine import as_far_as_possible, file_problem, out_of_memory, said_of
from ..report import write_report
from .checkpoint import About, Checkpoint, anew, data_fingerprint, read_summary, remove_checkpoint
from .journal import Journal
from .keeper import Keeper
from .prepared import Prepared
from .resolved import resolved_yaml
from .run_state import RunState, versions
from .settings import RunSettings, all_values


class Ending(RunState):
    """The part of a run that writes its files, as far as they can be written."""

    def __init__(
        self,
        run: Prepared,
        asked: RunSettings[Any],
        journal: Journal,
        command: Sequence[str],
        *,
        checkpoint: Checkpoint | None,
        resumable: bool,
    ):
        super().__init__(run, command, checkpoint.about if checkpoint else None)
        self.asked, self.journal, self.resumable = asked, journal, resumable
        self.checkpoint = checkpoint  # to go on from; until that is done, the folder stays as it was
        self.run_yaml = (run.folder / "run.yaml").read_text(encoding="utf-8")
        self.keeper = Keeper(run.folder, asked.checkpoint_minutes, journal, self._about)

    def file(self, name: str) -> Path:
        """A path in the run's folder. Raises OSError if that was removed: it is not made again in passing."""
        self.journal.check_folder()
        return self.run.folder / name

    def save_adapter(self) -> None:
        run = self.run
        assert self.adapter is not None
        provenance = {
            "model": run.task.base.name,
            "task": run.task.name,
            **run.task.provenance(),
            "data": asdict(run.settings.data),
            "seed": run.settings.seed,
            "max_length": run.max_length,
            "dtype": str(run.dtype).removeprefix("torch."),
            "quantize": run.settings.quantize,
            PLACES: places({"model": run.task.base.name, "data": run.settings.data.path}, run.folder / "adapter"),
        }
        adapter = self.adapter
        whole = {"provenance": provenance, "plain": run.settings.plain, "tokenizer": run.task.tokenizer}
        replace_folder(self.file("adapter"), lambda folder: adapter.save(folder, **whole))

    def write_summary(self, status: str, reason: str | None) -> dict[str, Any]:
        """The summary comes last: with it the run is over."""
        summary = self.summary(status, reason)
        path = self.file("summary.json")
        try:
            write_report(self.run.folder, summary)
        except Exception as problem:  # the run has come to what it has come to nonetheless
            self.journal.tell("note", text=_without_report(self.run.folder, problem))
        write_json(path, summary)
        if status == "finished":
            metrics = {name: summary["metrics"][name] for name in ("split", "base", "tuned", "test")}
            cost = {name: summary[name] for name in ("best_step", "train_seconds", "peak_memory_bytes")}
            self.journal.tell(
                "finished", folder=str(self.run.folder), score=self.run.task.main_score, **metrics, **cost
            )
        return summary

    def stop(self, said: BaseException) -> BaseException:
        """Keep what there is, and tell of it as far as it can be written; returns the error that says all of it."""
        after = f"stopped after step {self.progress.step}"
        match said:
            case KeyboardInterrupt():
                status, reason = "interrupted", after
            case DiskFailed():
                status, reason = "failed", f"{after}: {said}"
            case InlayError():
                status, reason = "failed", str(said)
            case _:
                status, reason = "failed", f"{type(said).__name__}: {said}"
        with as_far_as_possible():
            self._put_back()
        if not self.journal.has_its_folder:
            reason += "; nothing could be kept"
        else:
            reason += self._what_is_kept()
            match said:
                case KeyboardInterrupt() | DiskFailed():
                    reason += self._how_to_go_on("" if status == "interrupted" else "see to that, then ")
                case InlayError() if not isinstance(said, DoesNotFit):
                    with as_far_as_possible():
                        remove_checkpoint(self.run.folder)  # from which it would fail again
        self.journal.tell(status, text=reason)
        try:
            self.write_summary(status, reason)
        except OSError as problem:
            self.journal.tell("note", text=f"summary.json could not be written: {said_of(problem)}")
            self._withdraw()
        return DiskFailed(reason) if isinstance(said, DiskFailed) else said

    def _withdraw(self) -> None:
        """A run whose last file has its name, but maybe not on the disk, is not finished: it says that it failed."""
        with suppress(OSError, CheckpointError):
            if read_summary(self.run.folder).get("status") == "finished":
                (self.run.folder / "summary.json").unlink()

    def _put_back(self) -> None:
        """If the folder was removed under the run, make it again, with what a resumed run begins with."""
        folder = self.run.folder
        if not self.journal.has_its_folder and not folder.exists():
            self.journal.begin(folder)
        if not self.journal.has_its_folder:  # it is another's, or nowhere
            return
        for name, text in {"run.yaml": self.run_yaml, "resolved.yaml": resolved_yaml(self.run)}.items():
            if not (folder / name).is_file():
                write_text(folder / name, text)
        if self.training is not None and self.progress.best_step and not self._has_adapter:
            with self.training.at(self.progress.best_state):
                self.save_adapter()

    @property
    def _has_adapter(self) -> bool:
        return (self.run.folder / "adapter" / peft.TENSORS).is_file()

    def _what_is_kept(self) -> str:
        if self.progress.best is None:
            return "; nothing was evaluated yet, so no adapter is kept"
        of_step = f"the adapter of step {self.progress.best_step}, the best so far,"
        return f"; {of_step} is kept" if self._has_adapter else f"; {of_step} could not be kept"

    def _how_to_go_on(self, first: str) -> str:
        folder = self.run.folder
        if not self.resumable:
            return ""
        if self.keeper.keep():
            return f"; {first}go on with: inlay resume {shlex.quote(str(folder))}"
        return f"; there is nothing to go on from: {first}begin anew with {anew(folder)}"

    def _about(self) -> About:
        run, adapter = self.run, self.adapter
        assert adapter is not None
        decided = {"device": run.device.type, "dtype": str(run.dtype).removeprefix("torch.")}
        return About(
            settings=all_values(replace(self.asked, **decided)),
            asked=self.run_yaml,
            data=self._data,
            base=adapter.base_fingerprint,
            versions=versions(),
            command=list(self.command),
            train_seconds=self.train_seconds,
            wall_seconds=self.wall_seconds,
            peak_memory_bytes=self.peak_memory_bytes,
        )

    @cached_property
    def _data(self) -> str:
        return data_fingerprint(self.run.task, self.run.text)


def of_the_run(problem: BaseException) -> BaseException:
    """What the machine refuses once a run has begun is an error of the run; anything else stays what it is."""
    if isinstance(problem, InlayError):
        return problem
    if (text := out_of_memory(problem)) is not None:
        return DoesNotFit(text)
    if (found := file_problem(problem)) is not None:
        return DiskFailed(said_of(found))
    return problem


def _without_report(folder: Path, problem: Exception) -> str:
    found = file_problem(problem)
    why = said_of(found) if found else " ".join(f"{type(problem).__name__}: {problem}".split())
    return f"no report was written ({why}); make it later with: inlay eval {shlex.quote(str(folder))} --report"
