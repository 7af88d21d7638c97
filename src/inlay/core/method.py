"""A method is a frozen dataclass: its fields are the hyperparameters, `place` says where its deltas go.

The dataclass is at once the Python object, the block in run.yaml, the command line's settings (field docstrings are the
help) and what the checkpoint's adapter_config.json is made from.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from torch import Tensor

from ..errors import CheckpointError, did_you_mean
from ..models.sites import Sites
from ..ranges import check_settings
from .delta import Delta

if TYPE_CHECKING:
    from ..attached.adapter import Adapter

Family = Literal["baseline", "selective", "additive", "reparameterized", "prompts"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    name: ClassVar[str]  # as typed on the command line
    family: ClassVar[Family]
    paper: ClassVar[str]
    summary: ClassVar[str]  # one line: what is trained
    learning_rate: ClassVar[float]  # peak, for AdamW at an effective batch of 16
    epochs: ClassVar[float] = 3  # more where that is too few to learn in
    example: ClassVar[dict[str, Any]] = {}  # settings to show it with on a Llama, if those by default do not fit one
    peft_type: ClassVar[str]  # in adapter_config.json; Hugging Face PEFT's where it has the method, else INLAY_...
    peft_reads: ClassVar[bool] = False  # whether Hugging Face PEFT can load what is saved
    peft_names: ClassVar[dict[str, str]] = {}  # delta parameter -> checkpoint suffix, where they differ
    peft_fields: ClassVar[frozenset[str]] = frozenset()  # keys of PEFT's config that are read, or that change nothing
    peft_head_prefix: ClassVar[str] = "base_model.model."

    def __post_init__(self) -> None:
        check_settings(self, "method.")

    @abstractmethod
    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        """Yield (host name, delta) for every host the method adapts. Must not change the model; raises TargetError."""

    @property
    def virtual_tokens(self) -> int:
        """Positions that the method adds to every sequence."""
        return 0

    def initialize_from_data(self, adapter: "Adapter", batches: Iterator[dict[str, Tensor]]) -> None:
        """Called once before training, for a start that depends on the data. Must leave no gradients behind.

        A batch is what the model takes, on its device, with the key `labels`.
        """

    @property
    def shapes_from_data(self) -> bool:
        """Whether `initialize_from_data` may choose other shapes than the tensors have before it."""
        return type(self).initialize_from_data is not Method.initialize_from_data

    def parameter_groups(self, adapter: "Adapter", learning_rate: float) -> list[dict[str, Any]]:
        """The optimizer's groups; a method may give some of its parameters another learning rate."""
        return [{"params": list(adapter.parameters()), "lr": learning_rate}]

    def penalty(self, adapter: "Adapter") -> Tensor | None:
        """A term that every step adds to the loss."""
        return None

    def after_step(self, adapter: "Adapter", step: int, total_steps: int) -> None:
        """Called after each of the optimizer's steps, counted from 1; the step's gradients are still there."""

    def settled(self, step: int, total_steps: int) -> bool:
        """Whether the adapter after this step may be what the run keeps; not while a method still drops parts of it."""
        return True

    def decided(self, adapter: "Adapter") -> dict[str, Any]:
        """What the method has found out in training, such as the rank of each host; for the report."""
        return {}

    def peft_key(self, host: str, parameter: str) -> str:
        """The tensor's name in adapter_model.safetensors."""
        return f"base_model.model.{host}.{self.peft_names.get(parameter, parameter)}"

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        """The method's fields under the names of the checkpoint format."""
        return dataclasses.asdict(self)

    def to_peft(
        self, adapter: "Adapter", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The method's fields and the adapter's tensors, by their names in the checkpoint, as they are written."""
        return self.peft_config(sites, [host for host in adapter.deltas if not sites.in_head(host)]), tensors

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        """The method that `config` describes, or None if it describes another one. Raises CheckpointError if it
        describes a variant that this class cannot compute."""
        if config["peft_type"] != cls.peft_type:
            return None
        fields = {f.name for f in dataclasses.fields(cls)}
        settings = {k: v for k, v in config.items() if k not in COMMON_KEYS}
        for key in settings.keys() - fields:
            raise CheckpointError(f"adapter_config.json: unknown setting {key!r}{did_you_mean(key, fields)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})

    def of_tensors(self, tensors: dict[str, Tensor]) -> "Method":
        """The method whose tensors these are, if a checkpoint's settings alone do not tell."""
        return self

    def from_peft_tensors(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a checkpoint in the shapes that the deltas have."""
        return tensors

    def from_base(self, adapter: "Adapter") -> dict[str, Tensor]:
        """What a checkpoint leaves out because it follows from the base's weights, by the adapter's own names."""
        return {}


COMMON_KEYS = frozenset(
    {
        *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
        *("peft_version", "auto_mapping", "modules_to_save", "target_modules", "part"),
    }
)
