"""How a run ends that is stopped, or that has learned nothing: what is kept of it and told."""

import shlex
from contextlib import suppress
from dataclasses import dataclass

from ..errors import CheckpointError, DiskFailed, DoesNotFit, InlayError, InvalidRequest, ProcessLost, TrainingFailed
from ..formats import peft
from ..formats.summary import RunSummary
from ..machine import as_far_as_possible, file_problem, out_of_memory, said_of
from ..tasks.naive import warning_of
from .checkpoint import anew, read_summary, remove_checkpoint
from .keeper import Keeper
from .run_output import RunOutput
from .run_state import RunState


@dataclass(frozen=True)
class Ending:
    """The end of a run that does not finish."""

    output: RunOutput
    keeper: Keeper
    resumable: bool

    def stop(self, said: BaseException) -> BaseException:
        """Keep what there is, and tell of it as far as it can be written; returns the error that says all of it."""
        folder, journal = self.output.run.folder, self.output.journal
        after = f"stopped after step {self.output.state.progress.step}"
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
            self.output.put_back()
        if not journal.has_its_folder:
            reason += "; nothing could be kept"
        else:
            reason += self._what_is_kept()
            match said:
                case KeyboardInterrupt() | DiskFailed() | ProcessLost():
                    reason += self._how_to_go_on("" if status == "interrupted" else "see to that, then ")
                case InlayError() if not isinstance(said, DoesNotFit):
                    with as_far_as_possible():
                        remove_checkpoint(folder)  # from which it would fail again
        journal.tell(status, text=reason)
        try:
            self.output.write_summary(status, reason)
        except OSError as problem:
            journal.tell("note", text=f"summary.json could not be written: {said_of(problem)}")
            self._withdraw()
        return DiskFailed(reason) if isinstance(said, DiskFailed) else said

    def _withdraw(self) -> None:
        """Let a run not pass for finished whose last file has its name, but maybe not on the disk."""
        folder = self.output.run.folder
        with suppress(OSError, CheckpointError):
            summary = read_summary(folder)
            if summary is not None and summary.get("status") == "finished":
                (folder / "summary.json").unlink()

    def _what_is_kept(self) -> str:
        """Say which adapter is in the folder."""
        state = self.output.state
        if state.kept is None:
            why = "nothing was evaluated yet" if state.progress.best is None else "no step forgot so little"
            return f"; {why}, so no adapter is kept"
        step = f"step {state.kept.step}" if state.kept.step else "the start"
        of_step = f"the adapter of {step}, the best so far,"
        return f"; {of_step} is kept" if self.output.has_adapter else f"; {of_step} could not be kept"

    def _how_to_go_on(self, first: str) -> str:
        """Write a checkpoint and say how to go on from it, once what `first` says is done."""
        folder = self.output.run.folder
        if not self.resumable:
            return ""
        if self.keeper.keep():
            return f"; {first}go on with: inlay resume {shlex.quote(str(folder))}"
        return f"; there is nothing to go on from: {first}begin anew with {anew(folder)}"


def is_refusal(said: BaseException, state: RunState) -> bool:
    """Tell whether the request was wrong and nothing has been trained yet, so that there is nothing to keep."""
    trained = state.training is not None or any(state.run.folder.rglob(peft.TENSORS))
    return isinstance(said, InvalidRequest) and not trained


def check_beaten(summary: RunSummary) -> None:
    """Raise TrainingFailed for a finished run that is not above its baseline."""
    if (warning := warning_of(summary)) is not None:
        raise TrainingFailed(f"{summary['folder']} is finished, but {warning}")


def as_run_error(problem: BaseException) -> BaseException:
    """Turn what the machine refuses once a run has begun into an error of the run; anything else stays what it is."""
    if isinstance(problem, InlayError):
        return problem
    if (text := out_of_memory(problem)) is not None:
        return DoesNotFit(text)
    if (found := file_problem(problem)) is not None:
        return DiskFailed(said_of(found))
    return problem
