"""Multitask prompt tuning: one prompt for all tasks times a small part of each.   https://arxiv.org/abs/2303.02861

    P_k = P * (U_k V_k)           P (P, D), and for each task k  U_k (P, R) and V_k (R, D); the paper has R = 1

Every U_k V_k starts as ones, so that the tasks start from P itself, which starts from tokens of the vocabulary.
(Hugging Face PEFT starts the products near zero, and with them the prompts.) The paper's first stage, in which several
tasks learn P together, is training/source_tasks.py; the second starts a target from P and from the mean of the U_k and
of the V_k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ...core.delta import Delta
from ...core.fingerprint import fingerprint
from ...core.sites import Sites
from ...errors import CheckpointError, SettingsError
from .soft_prompt import LearnedPrompt, at_transformer
from .starts import from_vocabulary
from .virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from ...core.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class MultitaskPrompt(VirtualTokens):
    name, paper = "multitask-prompt", "https://arxiv.org/abs/2303.02861"
    summary = "a prompt that tasks share, and a product of thin matrices for each that it is multiplied with"
    learning_rate = 1e-2
    peft_type = "MULTITASK_PROMPT_TUNING"
    peft_fields = VirtualTokens.peft_fields | {
        *("num_tasks", "num_ranks", "prompt_tuning_init", "prompt_tuning_init_task", "prompt_tuning_init_text"),
        *("prompt_tuning_init_state_dict_path", "tokenizer_name_or_path", "tokenizer_kwargs"),
    }
    peft_bare = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")

    tasks: int = 1
    """Number of tasks."""
    task: int = 0
    """The task, counted from 0, whose prompt is used and trained."""
    rank: int = 1
    """Width of the two matrices of a task."""
    sources: tuple[str, ...] = ()
    """Data sets that a run learns first, all together and each taught by a prompt of its own; DATA then starts from
    what they share."""
    source: str = ""
    """The folder `sources` of such a run, or another adapter of this method, to start from without learning it anew."""
    distillation: float = 0.9
    """Weight of what each source's own prompt teaches, beside the loss on the labels."""
    learning_rate_ratio: float = 1.0
    """Learning rate of the tasks' parts divided by that of the shared prompt (the paper has 4/3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources and self.source:
            raise SettingsError("method.sources and method.source are both given; one start is all there can be")
        if len(self.sources) == 1:
            raise SettingsError(f"method.sources is only {self.sources[0]}; a prompt is shared by two or more tasks")
        if (self.sources or self.source) and self.tasks > 1:
            raise SettingsError(f"method.tasks is {self.tasks}; what starts from sources is the prompt of one task")
        if self.distillation < 0:
            raise SettingsError(f"method.distillation is {self.distillation}; it must be at least 0")
        if self.learning_rate_ratio <= 0:
            raise SettingsError(f"method.learning_rate_ratio is {self.learning_rate_ratio}; it must be above 0")
        for name in ("tasks", "rank"):
            if (value := getattr(self, name)) < 1:
                raise SettingsError(f"method.{name} is {value}; it must be at least 1")
        if not 0 <= self.task < self.tasks:
            raise SettingsError(f"method.task is {self.task}; with {self.tasks} tasks it must be 0 to {self.tasks - 1}")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        if self.sources:
            raise SettingsError("method.sources is for a run, which learns them; attach with method.source instead")

        def prompt(embedding: Any, keep: bool) -> TaskPrompt:
            new = TaskPrompt(from_vocabulary(embedding, self.tokens), keep, self.tasks, self.task, self.rank)
            if self.source:
                new.start_from(_shared(Path(self.source), sites))
            return new

        return at_transformer(sites, prompt)

    def parameter_groups(self, adapter: "Adapter", learning_rate: float) -> list[dict[str, Any]]:
        if self.learning_rate_ratio == 1:
            return super().parameter_groups(adapter, learning_rate)
        prompts = [delta for delta in adapter.deltas.values() if isinstance(delta, TaskPrompt)]
        parts = [p for delta in prompts for p in (delta.prefix_task_cols, delta.prefix_task_rows)]
        others = [p for p in adapter.parameters() if all(p is not part for part in parts)]
        return [
            {"params": others, "lr": learning_rate},
            {"params": parts, "lr": learning_rate * self.learning_rate_ratio},
        ]

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        return super().peft_config(sites, hosts) | {
            "num_tasks": self.tasks,
            "num_ranks": self.rank,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_task": self.task,  # PEFT takes the task from each call and reads this for other starts
        }

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != cls.peft_type:
            return None
        submodules = config.get("num_transformer_submodules") or 1 + (config.get("task_type") == "SEQ_2_SEQ_LM")
        if submodules != 1:
            raise CheckpointError(
                f"adapter_config.json: num_transformer_submodules is {submodules}: a prompt of the decoder too, which "
                "is not known here"
            )
        task = config.get("prompt_tuning_init_task") or 0
        return cls(
            tokens=config["num_virtual_tokens"],
            tasks=config.get("num_tasks", 1),
            task=0 if config.get("prompt_tuning_init") == "EXACT_SOURCE_TASK" else task,  # there, of another file
            rank=config.get("num_ranks", 1),
        )


class TaskPrompt(LearnedPrompt):
    """`task` may be set to a tensor (B,) of tasks too, one for each row of the batches to come."""

    task: int | Tensor

    def __init__(self, prompt_PD: Tensor, keep: bool, tasks: int, task: int, rank: int):
        super().__init__(prompt_PD, keep)
        self.task = task
        (count, width), device = prompt_PD.shape, prompt_PD.device
        u_KPR = 0.02 * torch.randn(tasks, count, rank, device=device)
        v_KRD = torch.zeros(tasks, rank, width, device=device)
        u_KPR[:, :, 0], v_KRD[:, 0] = 1, 1  # the others have u alone: equal ones would stay equal
        self.prefix_task_cols, self.prefix_task_rows = nn.Parameter(u_KPR), nn.Parameter(v_KRD)

    @torch.no_grad()
    def start_from(self, shared: dict[str, Tensor]) -> None:
        """Take the prompt and, for each task here, the mean of the tasks' parts. Raises SettingsError if they differ in
        size."""
        for name, p in self.named_parameters():
            value = shared[name] if p.ndim == 2 else shared[name].mean(0, keepdim=True).expand(len(p), -1, -1)
            if value.shape != p.shape:
                raise SettingsError(
                    f"method.source has {name} of shape {tuple(shared[name].shape)}, which gives {tuple(value.shape)}; "
                    f"here it is {tuple(p.shape)}: set method.tokens and method.rank as they were there"
                )
            p.copy_(value)

    def prompt(self) -> Tensor:
        return self.prompt_embeddings * (self.prefix_task_cols[self.task] @ self.prefix_task_rows[self.task])


def _shared(folder: Path, sites: Sites) -> dict[str, Tensor]:
    """The prompt and the tasks' parts. Raises CheckpointError unless it is a multitask prompt of this very base."""
    from ...formats import peft

    folder = peft.adapter_folder(folder)
    kind = peft.read_config(folder)["peft_type"]
    if kind != MultitaskPrompt.peft_type:
        raise CheckpointError(f"method.source {folder} is an adapter of type {kind}, not {MultitaskPrompt.peft_type}")
    peft.check_base(folder, sites.model, fingerprint(sites))
    return {name: t for name, t in peft.read_tensors(folder).items() if name in MultitaskPrompt.peft_bare}
