"""The prompt of several tasks, each with a part of its own, and the start that earlier tasks give it.

Shape suffixes: K tasks, P prompt, R rank, D width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, SettingsError
from ...formats import peft
from ...formats.peft_format import PeftFormat
from ...models.fingerprint import came_packed, fingerprint
from ...models.sites import Sites
from .soft_prompt import LearnedPrompt

PARTS = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")


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


def shared_start(folder: Path, sites: Sites, form: PeftFormat[Any]) -> dict[str, Tensor]:
    """Read the prompt and the tasks' parts. Raises CheckpointError unless they are of this very base."""
    saved = peft.read(folder)
    if not form.reads(saved.config):
        kind = saved.config["peft_type"]
        raise CheckpointError(f"method.source {saved.folder} is an adapter of type {kind}, no multitask prompt")
    peft.check_base(saved.folder, sites.model, fingerprint(sites), came_packed(sites))
    return {name: t for name, t in saved.tensors.items() if name in PARTS}
