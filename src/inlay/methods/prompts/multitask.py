"""Multitask prompt tuning.   https://arxiv.org/abs/2303.02861

Every U_k V_k starts as ones, so that the tasks start from P itself, which starts from tokens of the vocabulary.
(Hugging Face PEFT starts the products near zero, and with them the prompts.) The paper's first stage, in which several
tasks learn P together, is training/source_tasks.py; the second starts a target from P and from the mean of the U_k and
of the V_k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import nn

from ...core.attachment import Attachment
from ...core.delta import Delta
from ...core.method import ParameterGroup, Rates
from ...errors import CheckpointError, SettingsError
from ...formats.peft_config import PeftConfig
from ...formats.peft_format import format_of
from ...models.sites import Sites
from ...ranges import COUNT, RANK, RATIO, WEIGHT, Range
from .input_prompt import KNOWN, InputPrompt, PromptFormat
from .starts import own_start
from .task_prompt import PARTS, TaskPrompt, shared_start


class MultitaskFormat(PromptFormat["MultitaskPrompt"]):
    def config(self, method: "MultitaskPrompt", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "num_tasks": method.tasks,
            "num_ranks": method.rank,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_task": method.task,  # PEFT takes the task from each call, and reads this for a start
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        submodules = config.get("num_transformer_submodules") or 1 + (config.get("task_type") == "SEQ_2_SEQ_LM")
        if submodules != 1:
            raise CheckpointError(
                f"adapter_config.json: num_transformer_submodules is {submodules}: a prompt of the decoder too, which "
                "is not known here"
            )
        task = config.get("prompt_tuning_init_task") or 0
        return {
            "tasks": config.get("num_tasks", 1),
            "task": 0 if config.get("prompt_tuning_init") == "EXACT_SOURCE_TASK" else task,  # there, of another file
            "rank": config.get("num_ranks", 1),
        }


@dataclass(frozen=True, kw_only=True)
class MultitaskPrompt(InputPrompt):
    """One prompt for several tasks, times a small part of each: they learn it together, and a new task starts from it.

        ╔════╗ ╔════╗
        ║ U1 ║·║ V1 ║ ──┐    ╔═════╗    ╔══════════════════╗┌──────┐
        ╚════╝ ╚════╝   ├──▶ ║  P  ║ ─▶ ║ prompt of task k ║│ text │ ─▶ model
        ╔════╗ ╔════╗   │    ╚═════╝    ╚══════════════════╝└──────┘
        ║ U2 ║·║ V2 ║ ──┘    of all
        ╚════╝ ╚════╝

        P_k = P ∘ (U_k V_k)        P (tokens, D), U_k (tokens, rank), V_k (rank, D)
        sources: loss + distillation · (KL from the task's own prompt + |h - h'|^2)
        target: starts from P and the means of the U_k and of the V_k

    When: For a small new task, when there are larger ones that are like it: name those in sources. What they learned is
    kept in the run's folder sources, for other targets. Not with one task alone, where it is prompt.

    Cost: As prompt, for the target; before it, for each source a run of its own and all of them once more together. At
    inference a prompt is computed from two thin matrices, and every sequence is longer by it; it cannot be merged.
    """

    name, paper = "multitask-prompt", "https://arxiv.org/abs/2303.02861"
    summary = "a prompt that tasks share, and a product of thin matrices for each that it is multiplied with"
    learning_rate = Rates(reading=1e-1, writing=1.5e-1)
    format = MultitaskFormat(
        peft_type="MULTITASK_PROMPT_TUNING",
        known=KNOWN
        | {
            *("num_tasks", "num_ranks", "prompt_tuning_init", "prompt_tuning_init_task", "prompt_tuning_init_text"),
            *("prompt_tuning_init_state_dict_path", "tokenizer_name_or_path", "tokenizer_kwargs"),
        },
        bare=PARTS,
    )

    tasks: Annotated[int, COUNT] = 1
    """Number of tasks."""
    task: Annotated[int, Range(0, 1_000_000)] = 0
    """The task, counted from 0, whose prompt is used and trained."""
    rank: Annotated[int, RANK] = 1
    """Width of the two matrices of a task."""
    sources: tuple[str, ...] = ()
    """Data sets that a run learns first, all together and each taught by a prompt of its own; DATA then starts from
    what they share."""
    source: str = ""
    """The folder `sources` of such a run, or another adapter of this method, to start from without learning it anew."""
    distillation: Annotated[float, WEIGHT] = 0.9
    """Weight of what each source's own prompt teaches, beside the loss on the labels."""
    learning_rate_ratio: Annotated[float, RATIO] = 1.0
    """Learning rate of the tasks' parts divided by that of the shared prompt (the paper has 4/3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources and self.source:
            raise SettingsError("method.sources and method.source are both given; one start is all there can be")
        if len(self.sources) == 1:
            raise SettingsError(f"method.sources is only {self.sources[0]}; a prompt is shared by two or more tasks")
        if (self.sources or self.source) and self.tasks > 1:
            raise SettingsError(f"method.tasks is {self.tasks}; what starts from sources is the prompt of one task")
        if self.task >= self.tasks:
            raise SettingsError(f"method.task is {self.task}; with {self.tasks} tasks it must be 0 to {self.tasks - 1}")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        if self.sources:
            raise SettingsError("method.sources is for a run, which learns them; attach with method.source instead")
        return super().place(sites)

    def prompt(self, sites: Sites, embedding: nn.Embedding, keep: bool) -> TaskPrompt:
        new = TaskPrompt(own_start(sites, embedding, self.tokens), keep, self.tasks, self.task, self.rank)
        if self.source:
            new.start_from(shared_start(Path(self.source), sites, format_of(self)))
        return new

    def parameter_groups(self, adapter: Attachment, learning_rate: float) -> list[ParameterGroup]:
        if self.learning_rate_ratio == 1:
            return super().parameter_groups(adapter, learning_rate)
        prompts = [delta for delta in adapter.deltas.values() if isinstance(delta, TaskPrompt)]
        parts = [p for delta in prompts for p in (delta.prefix_task_cols, delta.prefix_task_rows)]
        others = [p for p in adapter.parameters() if all(p is not part for part in parts)]
        return [
            {"params": others, "lr": learning_rate},
            {"params": parts, "lr": learning_rate * self.learning_rate_ratio},
        ]
