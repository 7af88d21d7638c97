"""A trained language model, opened from a run's folder or an adapter's, on its base: it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..bases.base import pick_device
from ..bases.vocabulary import check_ids
from ..core.active import using
from ..data.conversation import Message
from ..data.generation import FORMS, GenerationData
from ..data.tokens import tokenize_prompt
from ..errors import CheckpointError, DataError
from ..tasks.causal import Causal, CausalScores
from ..tasks.generate import generate
from .opened import Found, Opened, find_adapter


@dataclass(frozen=True)
class Generator:
    opened: Opened

    @property
    def converses(self) -> bool:
        """Whether it was trained on conversations, so that what was said before belongs to what it reads."""
        return FORMS[self.opened.provenance["format"]] == "chat"

    def answers(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int | None = None, temperature: float = 0.0
    ) -> list[str]:
        """What is said next in each; with a temperature of 0 what is most likely. Raises DataError if the model's
        chat template refuses the turns."""
        about, tokenizer = self.opened.provenance, self.opened.tokenizer
        form = FORMS[about["format"]]
        prompts = [tokenize_prompt(tokenizer, messages, form) for messages in conversations]
        if not all(prompts):
            raise DataError("a text is empty for this model: its tokenizer makes no token of it; write something else")
        check_ids(tokenizer, self.opened.model, prompts)
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
        room = max_new_tokens or about["room"]
        written = generate(self.opened.model, prompts, about["stop"], tokenizer.pad_token_id, room, **sampling)
        return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]

    def scores(
        self, data: GenerationData, split: str, samples: int | None = None
    ) -> tuple[CausalScores | None, CausalScores]:
        """The base's, or None if the adapter changed the base itself, and the tuned model's. Texts are written for the
        first `samples` rows, or for all."""
        opened = self.opened
        rows = len(data.splits[split]) if samples is None else samples
        scored = replace(data, splits={split: data.splits[split]})
        room = opened.provenance["room"]
        task = Causal(opened.base, scored, opened.tokenizer, opened.base.config, rows, answer_room=room)
        task.tokenize(opened.provenance["max_length"])
        task.check_tokens(opened.model)
        base = None
        if opened.adapter.removable:
            with using(opened.model):
                base = task.evaluate_fully(opened.model, split).scores
        return base, task.evaluate_fully(opened.model, split).scores


def open_generator(folder: Path, model: str | None = None, device: str = "auto") -> Generator:
    """Raises CheckpointError as `find_adapter` does, and if the adapter writes no texts."""
    where = pick_device(device)
    return generator_of(find_adapter(folder, model), where)


def generator_of(found: Found, device: torch.device) -> Generator:
    """Raises CheckpointError if the adapter writes no texts, has no tokenizer, or its base is another one."""
    if found.classifies:
        raise CheckpointError(f"{found.folder} gives labels; it writes no texts")
    found.check_reads()
    return Generator(found.as_trained(device))
