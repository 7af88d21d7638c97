"""What a plan is asked to do."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ..devices import check_name
from ..errors import SettingsError
from ..launch import check_each_has_rows
from ..models.recompute import check_choice
from ..ranges import COUNT, ROWS, Range, bytes_asked, check_settings
from .settings import check_with_stream


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is to be planned."""

    methods: tuple[str, ...] = ()
    """The methods, by name; `lora:rank=4` gives one its settings. Default: all that fit the model."""
    memory: str | None = None
    """What a run may take, such as 8GB; each of several processes. Default: what is free, shared out among processes on
    a CPU; of a device that is not here no limit."""
    device: str = "auto"
    """Where the run would compute: cpu, cuda, …, whether it is here or not. auto: an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen base and the activations."""
    quantize: Literal["none", "nf4"] = "none"
    """Keep the frozen base's linear layers in 4 bits."""
    stream: bool = False
    """Leave the frozen base's blocks in its files, as train --stream does. The time to read them is not told."""
    batch_size: Annotated[int, COUNT] = 16
    """Rows between two optimizer steps."""
    micro_batch_size: Annotated[int | None, COUNT] = None
    """Rows in one forward pass. Default: batch_size."""
    recompute: str | None = None
    """What the backward pass computes again: none, feed-forward, all, or so many blocks. Default: none."""
    processes: Annotated[int, Range(1, 10_000)] = 1
    """Processes that share each step; what is told is what one of them takes."""
    shard: bool = False
    """Share the frozen base out among the processes, as train --shard does."""
    max_length: Annotated[int | None, Range(8, 10_000_000)] = None
    """Tokens after which a text is cut. Default: what the model can take, at most 512."""
    epochs: Annotated[float | None, Range(above=0, most=100_000)] = None
    """Passes over the training data. Default: the method's."""
    samples: Annotated[int, Range(0, 10_000_000)] = 50
    """Rows to generate text for, in runs of a language model; 0 takes less memory."""
    tokens: Annotated[int | None, Range(8, 10_000_000)] = None
    """Tokens of every row, for a plan without DATA."""
    rows: Annotated[int | None, ROWS] = None
    """Rows to train on, for a plan without DATA. Default: 1,000."""

    @property
    def unread_rows(self) -> int:
        """The rows of a plan without DATA."""
        return self.rows or 1_000

    def __post_init__(self) -> None:
        check_settings(self)
        bytes_asked(self.memory)
        if self.recompute is not None:
            check_choice(self.recompute)
        check_name(self.device)
        if self.stream:
            check_with_stream(self.recompute, self.quantize, shard=self.shard)
        if self.shard and self.processes == 1:
            raise SettingsError(
                "shard is on, which shares the base out among processes, and there is one; give more by processes"
            )
        check_each_has_rows(self.batch_size, self.processes)
        if twice := next((name for name in self.methods if self.methods.count(name) > 1), None):
            raise SettingsError(f"methods has {twice} twice; name it once")

    @property
    def memory_bytes(self) -> int | None:
        """What a run may take; None: what is free. Raises SettingsError for what is no amount."""
        return bytes_asked(self.memory)
