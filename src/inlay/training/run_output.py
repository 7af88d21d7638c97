"""What a run writes into its folder beside what its journal tells: the adapter, the summary and the report."""

import shlex
from dataclasses import asdict
from pathlib import Path

from .. import processes
from ..attached.adapter import Adapter
from ..formats import peft
from ..formats.files import replace_folder, write_json, write_text
from ..formats.places import PLACES, places
from ..formats.run_files import read_run
from ..formats.summary import Summary
from ..machine import file_problem, said_of
from ..models.tokenizer import cut_in_files
from ..report import write_report
from .journal import Journal
from .prepared import Prepared
from .resolved import resolved_yaml
from .run_state import RunState


class RunOutput:
    """The folder of a run that is under way, which has its run.yaml already."""

    def __init__(self, state: RunState, journal: Journal):
        self.state, self.journal = state, journal
        self.run_yaml = self.path("run.yaml").read_text(encoding="utf-8")

    @property
    def run(self) -> Prepared:
        return self.state.run

    def path(self, name: str) -> Path:
        """Name a file of the folder. Raises OSError if that was removed: it is not made again in passing."""
        self.journal.check_folder()
        return self.run.folder / name

    @property
    def has_adapter(self) -> bool:
        return (self.run.folder / "adapter" / peft.TENSORS).is_file()

    def save_adapter(self, adapter: Adapter) -> None:
        """Write the adapter as it is, with what is needed to use it."""
        run = self.run
        provenance = {
            "model": run.task.base.name,
            "task": run.task.name,
            **run.task.provenance(),
            "data": asdict(run.settings.data),
            "seed": run.settings.seed,
            "max_length": run.max_length,
            "dtype": str(run.dtype).removeprefix("torch."),
            "quantize": run.settings.quantize,
            **({"stream": True} if run.settings.stream else {}),
            PLACES: places({"model": run.task.base.name, "data": run.settings.data.path}, run.folder / "adapter"),
        }
        cut_in_files(run.task.tokenizer, None if run.task.writes else run.max_length)
        whole = {"provenance": provenance, "plain": run.settings.plain, "tokenizer": run.task.tokenizer}
        replace_folder(self.path("adapter"), lambda folder: adapter.save(folder, **whole))

    def write_summary(self, status: str, reason: str | None) -> Summary:
        """Write the report and, last, the summary: with it the run is over."""
        summary = self.state.summary(status, reason)
        path, unclear = self.path("summary.json"), None
        try:
            if processes.is_first():
                predictions = read_run(self.run.folder, summary).predictions
                unclear = self.run.task.page(summary, predictions).verdict.unclear
                write_report(self.run.folder, summary)
        except Exception as problem:  # the run has come to what it has come to nonetheless
            self.journal.tell("note", text=_without_report(self.run.folder, problem))
        write_json(path, summary)
        if status == "finished":
            told = ("best_step", "train_seconds", "peak_memory_bytes", "processes", "steps", "raised_peak")
            self.journal.tell(
                "finished",
                folder=str(self.run.folder),
                score=self.run.task.main_score,
                **summary["metrics"],
                baseline=summary["baseline"],
                unclear=unclear,
                planned_steps=summary["planned_steps"],
                **{name: summary[name] for name in told},
            )
        return summary

    def put_back(self) -> None:
        """Make the folder again if it was removed under the run, with what a resumed run begins with."""
        folder, training, kept = self.run.folder, self.state.training, self.state.kept
        if not self.journal.has_its_folder and not folder.exists():
            self.journal.begin(folder)
        if not self.journal.has_its_folder:  # it is another's, or nowhere
            return
        for name, text in {"run.yaml": self.run_yaml, "resolved.yaml": resolved_yaml(self.run)}.items():
            if not (folder / name).is_file():
                write_text(folder / name, text)
        if training is not None and kept is not None and not self.has_adapter:
            with training.at(kept.parameters):
                self.save_adapter(training.adapter)


def _without_report(folder: Path, problem: Exception) -> str:
    found = file_problem(problem)
    why = said_of(found) if found else " ".join(f"{type(problem).__name__}: {problem}".split())
    return f"no report was written ({why}); make it later with: inlay eval {shlex.quote(str(folder))} --report"
