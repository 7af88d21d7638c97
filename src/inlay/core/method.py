"""A method is a frozen dataclass: its fields are the hyperparameters, `place` says where its deltas go.

The dataclass is at once the Python object, the block in run.yaml, the command line's settings (field docstrings are the
help) and what the checkpoint's adapter_config.json is made from.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypedDict

from torch import Tensor, nn

from ..models.sites import Sites
from ..models.tokenizer import SavesFiles
from ..ranges import Settings, check_settings, given_otherwise
from .attachment import Attachment
from .delta import Delta

Family = Literal["baseline", "selective", "additive", "reparameterized", "prompts"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A method's peak learning rates for AdamW, in 250 steps of a model 384 wide (methods/peak_rate.py)."""

    reading: float
    writing: float  # for a task whose answers are texts
    width_power: float = 1.0  # of the model's width, by which both fall
    warmup_steps: int = 0  # in which they rise at least, if that is no more than a fifth of the run


class ParameterGroup(TypedDict):
    """One group of the optimizer's: parameters that learn at one rate."""

    params: list[nn.Parameter]
    lr: float


class AdapterFormat(Protocol):
    """The form of a method's files, as far as the mechanism knows of it."""

    @property
    def peft_type(self) -> str:
        """Name the method as adapter_config.json has it."""
        ...

    @property
    def read_by_peft(self) -> bool:
        """Tell whether Hugging Face PEFT can load what is saved."""
        ...

    def save(
        self,
        adapter: Attachment,
        folder: Path,
        *,
        plain: bool = False,
        provenance: Mapping[str, object] | None = None,
        tokenizer: SavesFiles | None = None,
    ) -> None:
        """Write the adapter's files into `folder`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """A way to fine-tune, with its settings."""

    name: ClassVar[str]  # as typed on the command line
    family: ClassVar[Family]
    paper: ClassVar[str]
    summary: ClassVar[str]  # one line: what is trained
    learning_rate: ClassVar["float | Rates"]  # a number is the peak for every task
    epochs: ClassVar[float] = 3  # more where that is too few to learn in
    example: ClassVar[dict[str, object]] = {}  # settings to show it with on a Llama, if those by default do not fit one
    format: ClassVar["AdapterFormat"]  # how adapters are written; formats/peft_format.py has it whole

    def __post_init__(self) -> None:
        for name, values in given_otherwise(self):
            object.__setattr__(self, name, values)
        check_settings(self, "method.")

    @abstractmethod
    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        """Yield (host name, delta) for every host the method adapts. Must not change the model; raises TargetError."""

    @property
    def virtual_tokens(self) -> int:
        """Count the positions that the method adds to every sequence."""
        return 0

    def initialize_from_data(self, adapter: Attachment, batches: Iterator[dict[str, Tensor]]) -> None:
        """Start from the data, once before training. Must leave no gradients behind.

        A batch is what the model takes, on its device, with the key `labels`. A delta whose tensors may get other
        shapes here says so by `Delta.resizable`.
        """

    def parameter_groups(self, adapter: Attachment, learning_rate: float) -> list[ParameterGroup]:
        """Make the optimizer's groups; a method may give some of its parameters another learning rate."""
        return [{"params": list(adapter.parameters()), "lr": learning_rate}]

    def penalty(self, adapter: Attachment) -> Tensor | None:
        """Compute a term that every step adds to the loss."""
        return None

    def after_step(self, adapter: Attachment, step: int, total_steps: int) -> None:
        """Act after each of the optimizer's steps, counted from 1; the step's gradients are still there."""

    def may_be_best(self, step: int, total_steps: int) -> bool:
        """Tell whether a run may keep the adapter of this step; not while a method still drops parts of it."""
        return True

    def findings(self, adapter: Attachment) -> dict[str, dict[str, int]]:
        """Return what the method has found out in training, a number of each host by its name, such as ranks."""
        return {}
