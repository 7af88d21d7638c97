"""Source tasks: what a multitask prompt learns before its target.   https://arxiv.org/abs/2303.02861

For each source a run of prompt tuning alone makes a teacher. Then one prompt learns all sources together, each with
its own part, from the labels and from the teachers. A batch has rows of two or more tasks, as many of each, so that a
large data set does not drown a small one. The classifier's head has the labels of all tasks side by side.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ..attached.adapter import attach
from ..bases.attention import choose_attention
from ..bases.base import load_classifier
from ..bases.loading import load_onto
from ..batches.batch import Batch, Order, pad
from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import DataError
from ..formats.files import write_json
from ..inference.opened import open_adapter
from ..methods.prompts.multitask import MultitaskPrompt
from ..methods.prompts.prompt import PromptTuning
from ..methods.prompts.task_prompt import TaskPrompt
from ..models.recompute import Recomputing, chosen
from ..models.sharding import attaching
from ..models.sites import Sites
from ..models.tokenizer import Tokenizer
from ..tasks.classify import Classify, log_probabilities
from ..tasks.metric import Scores, scores_of
from ..tasks.outcomes import LabelProbabilities
from .distillation import Lesson, TaughtLoss, lessons
from .guard import Scored
from .journal import Journal
from .loop import Observer, StepEvent, Training, fit
from .prepared import Prepared, prepare_run
from .schedule import make_plan
from .settings import RunSettings
from .time_left import TimeLeft

_STEP_EVENTS = 100  # in the metrics of the sources, at most


@dataclass(frozen=True)
class SourceTask:
    name: str
    run: Prepared  # of its teacher
    labels: slice  # its own, among those of all tasks

    @property
    def classify(self) -> Classify:
        assert isinstance(self.run.task, Classify)
        return self.run.task


def without_sources(settings: RunSettings[Method]) -> RunSettings[Method]:
    """Return the settings of the target's run alone."""
    if not isinstance(settings.method, MultitaskPrompt):
        return settings
    return dataclasses.replace(settings, method=dataclasses.replace(settings.method, sources=()))


def source_tasks(settings: RunSettings[Method], folder: Path) -> list[SourceTask]:
    """Check the sources that the settings name; nothing is loaded or written. Most methods have none."""
    tasks: list[SourceTask] = []
    if not isinstance(settings.method, MultitaskPrompt):
        return tasks
    for source in settings.method.sources:
        name = Path(source.removeprefix("builtin:")).name
        if any(name == task.name for task in tasks):
            raise DataError(f"method.sources has two data sets called {name}; rename the folder of one")
        teacher = dataclasses.replace(
            settings,
            data=DataSettings(path=source),
            method=PromptTuning(tokens=settings.method.tokens),
            out=str(folder / "sources" / "teachers" / name),
            epochs=None,  # those asked for are the target's, which may have a few rows only
            learning_rate=None,
            forgetting=False,  # what is measured and held is the target's run
            retain=None,
            retain_weight=0.0,
            forget_at_most=None,
            fail_below_baseline=False,
        )
        run = prepare_run(teacher, Journal(lambda _: None))
        if not isinstance(run.task, Classify):
            raise DataError(f"method.sources has {source}, whose rows are for the task {run.task.name}; give labels")
        start = tasks[-1].labels.stop if tasks else 0
        tasks.append(SourceTask(name, run, slice(start, start + len(run.task.labels))))
    return tasks


def learn_sources(
    run: Prepared, journal: Journal, *, tasks: Sequence[SourceTask], train: Callable[..., object]
) -> Prepared:
    """Give the target's run a start in what its sources share, which is left in the folder `sources`.

    Most methods have no sources, and the run stays as it is.
    """
    if not tasks:
        return run
    folder = run.folder / "sources"
    folder.mkdir()
    own = Journal(journal.watcher)
    with own.opened(folder):
        for number, task in enumerate(tasks, 1):
            own.record("note", text=f"source {number} of {len(tasks)}: a prompt for {task.name} alone")
            train(task.run.settings, journal.watcher, resumable=False)
        own.record("note", text=f"one prompt for {', '.join(task.name for task in tasks)}, taught by those")
        _Student(run, tasks, folder).learn(own)
    method = dataclasses.replace(run.settings.method, source=str(folder))
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, method=method))


class _Student:
    """One prompt that learns all sources together."""

    def __init__(self, run: Prepared, tasks: Sequence[SourceTask], folder: Path):
        settings, asked = run.settings, run.settings.method
        assert isinstance(asked, MultitaskPrompt)
        self.run, self.tasks, self.folder, self.tokenizer = run, tasks, folder, run.task.tokenizer
        self.tokens = {split: [task.classify.tokens[split] for task in tasks] for split in ("train", "valid")}
        self.sizes = [len(tokens.rows) for tokens in self.tokens["train"]]
        labels = tuple(f"{task.name}: {label}" for task in tasks for label in task.classify.labels)
        rows = [self._lessons(task, len(labels)) for task in tasks]
        config = run.task.base.classifier_config(labels, self.tokenizer.pad_token_id)
        loaded = load_onto(
            run.device,
            lambda take: load_classifier(run.task.base, config, run.dtype, take),
            settings.seed,
            run.packed_for,
            run.streamed,
            run.shares_base,
        )
        choose_attention(loaded.model, settings.attention, run.device, run.dtype)
        method = MultitaskPrompt(tokens=asked.tokens, rank=asked.rank, tasks=len(tasks))
        with attaching(loaded.model):
            self.adapter = attach(loaded.model, method, heads=loaded.heads, part=self.run.part.name)
        Recomputing(chosen(Sites(loaded.model, loaded.heads, self.run.part.name), run.recomputed))
        (self.prompt,) = (delta for delta in self.adapter.deltas.values() if isinstance(delta, TaskPrompt))
        own_KL = torch.zeros(len(tasks), len(labels), dtype=torch.bool)
        for own_L, task in zip(own_KL, tasks, strict=True):
            own_L[task.labels] = True
        self.loss = TaughtLoss(self.prompt, own_KL, asked.distillation)
        self.batches = _batches(self.tokenizer, rows, self.sizes, settings)
        alone = dataclasses.replace(settings, epochs=None, learning_rate=None)
        self.plan = make_plan(sum(self.sizes), alone, run.task)

    def learn(self, journal: Journal) -> None:
        training = Training.begin(self.adapter, self.plan, self.run.settings, self.run.device, self.run.dtype)
        watch = _StudentObserver(self, journal)
        fit(training, self.loss, self.batches, self.plan, self.run.settings, watch)
        self.save()
        found = {task.name: scores for task, scores in zip(self.tasks, self._scores(), strict=True)}
        write_json(self.folder / "summary.json", {"valid": found, "steps": self.plan.steps})
        for name, scores in found.items():
            journal.record("note", text=f"{name} with the shared prompt: accuracy {scores['accuracy']:.4f} on valid")

    def _lessons(self, task: SourceTask, labels: int) -> list["_TaughtRow"]:
        """Return the task's training rows with what its teacher says of them."""
        teacher = open_adapter(task.run.folder, device=str(self.run.device))
        tokens, number = task.classify.tokens["train"], self.tasks.index(task)
        taught = lessons(teacher.model, self.tokenizer, tokens.rows, task.labels, labels)
        return [
            _TaughtRow(row | {"labels": task.labels.start + label}, number, lesson)
            for row, label, lesson in zip(tokens.rows, tokens.labels, taught, strict=True)
        ]

    def _scores(self) -> list[Scores]:
        found = []
        for number, (task, tokens) in enumerate(zip(self.tasks, self.tokens["valid"], strict=True)):
            self.prompt.task = number
            all_NL = log_probabilities(self.adapter.model, self.tokenizer, tokens.rows)
            own_NL = all_NL[:, task.labels].log_softmax(dim=-1)
            found.append(scores_of(LabelProbabilities(own_NL, torch.tensor(tokens.labels))))
        return found

    def mean_scores(self) -> Scores:
        """Average over the tasks: one counts as much as another, however many rows it has."""
        all_scores = self._scores()
        return {name: sum(scores[name] for scores in all_scores) / len(all_scores) for name in all_scores[0]}

    def save(self) -> None:
        sources = [task.classify.data.source for task in self.tasks]
        about = {"model": self.run.task.base.name, "task": "sources", "data": sources, "seed": self.run.settings.seed}
        self.adapter.save(self.folder / "adapter", provenance=about)


class _StudentObserver(Observer):
    """The journal of the prompt that all sources share."""

    def __init__(self, student: _Student, journal: Journal):
        self.student, self.journal = student, journal
        self.left = TimeLeft(student.plan.steps, student.plan.evaluate_after)

    def evaluate(self, step: int) -> Scored:
        return Scored(self.student.mean_scores())

    def on_evaluation(self, step: int, scores: Scores, *, best: bool) -> None:
        epoch = step / self.student.plan.steps_per_epoch
        self.journal.record("evaluate", step=step, epoch=epoch, split="sources", **scores, best=best)

    def on_step(self, event: StepEvent) -> None:
        steps = self.student.plan.steps
        self.left.after(event.step)
        if event.step % max(1, steps // _STEP_EVENTS) == 0:
            self.journal.record("step", **event.facts(steps, self.student.run.device, self.left))

    def on_best(self) -> None:
        self.student.save()


class TaskBatches(Order):
    """Batches of two or more of the tasks, as many rows of each. Rows are numbered through; each task's come in turn,
    shuffled anew when all have been."""

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int):
        super().__init__(sum(sizes), batch_size, seed)
        self.sizes = sizes

    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        decks, start = [], 0
        for size in self.sizes:
            decks.append(_deck(start, size, generator))
            start += size
        for _ in range(len(self)):
            count = int(torch.randint(2, len(decks) + 1, (), generator=generator))
            chosen = torch.randperm(len(decks), generator=generator)[:count].tolist()
            yield [next(decks[chosen[i % count]]) for i in range(self.batch_size)]


def _deck(start: int, size: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from (start + i for i in torch.randperm(size, generator=generator).tolist())


@dataclass(frozen=True)
class _TaughtRow:
    """A row of one of the tasks, with its teacher's view of it."""

    tokens: Mapping[str, list[int] | int]  # with its label, among those of all tasks
    task: int
    lesson: Lesson


def _batches(
    tokenizer: Tokenizer,
    rows: list[list[_TaughtRow]],
    sizes: list[int],
    settings: RunSettings[Method],
) -> DataLoader[_TaughtRow]:
    def collate(chosen: list[_TaughtRow]) -> Batch:
        return pad(tokenizer, [row.tokens for row in chosen]) | {
            "tasks": torch.tensor([row.task for row in chosen]),
            "probabilities": torch.stack([row.lesson.probabilities_L for row in chosen]),
            "states": torch.stack([row.lesson.state_D for row in chosen]),
        }

    order = TaskBatches(sizes, settings.batch_size, settings.seed)
    every = [row for of_task in rows for row in of_task]
    return DataLoader(every, batch_sampler=order, collate_fn=collate)  # pyright: ignore[reportArgumentType]
