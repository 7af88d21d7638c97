"""Multitask prompt tuning: one prompt for all tasks times a small part of each.   https://arxiv.org/abs/2303.02861

    P_k = P * (U_k V_k)           P (P, D), and for each task k  U_k (P, R) and V_k (R, D); the paper has R = 1

Every U_k V_k starts as ones, so that the tasks start from P itself, which starts from tokens of the vocabulary.
(Hugging Face PEFT starts the products near zero, and with them the prompts.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...core.delta import Delta
from ...core.sites import Sites
from ...errors import CheckpointError, SettingsError
from .soft_prompt import LearnedPrompt, at_transformer
from .starts import from_vocabulary
from .virtual_tokens import VirtualTokens


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tasks", "rank"):
            if (value := getattr(self, name)) < 1:
                raise SettingsError(f"method.{name} is {value}; it must be at least 1")
        if not 0 <= self.task < self.tasks:
            raise SettingsError(f"method.task is {self.task}; with {self.tasks} tasks it must be 0 to {self.tasks - 1}")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        return at_transformer(sites, self._prompt)

    def _prompt(self, embedding: Any, keep: bool) -> "TaskPrompt":
        return TaskPrompt(from_vocabulary(embedding, self.tokens), keep, self.tasks, self.task, self.rank)

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

    def prompt(self) -> Tensor:
        return self.prompt_embeddings * (self.prefix_task_cols[self.task] @ self.prefix_task_rows[self.task])
