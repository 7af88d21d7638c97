"""summary.json in a run's folder: what the run has come to, for reports, comparisons and other programs."""

from typing import TypedDict

from ..show.budget import Chosen
from ..show.forgetting import Forgetting
from ..show.peak import RaisedPeak
from ..show.reach import Reach


class GainOverBase(TypedDict):
    """A gain, above zero where the tuned model is better, and its 95 % interval."""

    value: float
    low: float
    high: float


class Metrics(TypedDict):
    """Scores of one split by the names of metrics, and those of the tuned model on test."""

    split: str
    """What base and tuned are scored on."""
    rows: int
    test_rows: int | None
    base: dict[str, float] | None
    base_is_random: bool
    """Whether the base's head is new, so that `base` is what a head drawn at random scores and no baseline: that is in
    the summary's `baseline`. Earlier versions have no such key."""
    start: dict[str, float] | None
    """What a new head scores that is fitted before the first step, the adapter as it begins; None if the head is not
    new. Earlier versions have no such key."""
    tuned: dict[str, float] | None
    test: dict[str, float] | None
    gain: GainOverBase | None
    """How much better tuned is than base by the main score, row by row; None if the base's head is new, or there is one
    row. Earlier versions have no such key."""


class Beaten(TypedDict):
    """What is scored without reading the inputs, and whether the tuned model is above it on every split."""

    name: str | None
    """Such as `the most frequent label`."""
    answer: str | None
    """The answer itself, if every row gets the same."""
    valid: dict[str, float] | None
    test: dict[str, float] | None
    beaten: bool | None
    """None if the run has no scores to compare."""
    finding: str | None
    """In words, if it is not beaten; `advice` is what to try then."""
    advice: str | None


class PlannedCost(TypedDict):
    """An estimate made before the first step; nothing in it of a run that never came so far."""

    seconds: float | None
    memory_bytes: int | None
    """The process's; on an accelerator its tensors' and its context's."""
    tensors: dict[str, int] | None
    """The tensors' bytes at the peak, by what they are; None if the model cannot be followed without values."""


class DeviceMemory(TypedDict):
    """What of an accelerator's memory was in use, in bytes."""

    allocated_bytes: int
    """What tensors took at most."""
    reserved_bytes: int
    """What PyTorch held for tensors at most, with what it keeps for the next ones."""
    beside_bytes: int | None
    """Beside that, at the end: the device's context, libraries' workspaces, other programs. None: unknown."""
    beside_at_start_bytes: int | None
    """Beside that, before anything was loaded."""


class WentBack(TypedDict):
    """A time that the training went back to an earlier step, as it had collapsed."""

    step: int
    """The step after which it did."""
    to: int
    share: float
    """What was left of the learning rate."""
    why: str


class DividedStep(TypedDict):
    """A step that did not fit in memory, and how it and those after it were divided."""

    step: int
    """0: a trial before the first."""
    micro_batch_size: int
    recomputes: bool
    """Whether every block was computed again in the backward pass."""


class Summary(TypedDict):
    """A run's summary, complete whether it is finished, interrupted or failed."""

    status: str
    """`finished`, `interrupted` or `failed`."""
    reason: str | None
    task: str
    method: str
    model: str
    data: str
    labels: list[str]
    trainable_parameters: int
    total_parameters: int
    adapter_bytes: int
    train_seconds: float
    """Seconds from the first step to the last evaluation."""
    wall_seconds: float
    peak_memory_bytes: int
    raised_peak: list[RaisedPeak]
    """The stages that raised the peak, each with the last that it came to; the last one has set it."""
    tensors: dict[str, int] | None
    """The bytes of the tensors at the peak of a step, by what they are, as they were followed in the run."""
    device_memory: DeviceMemory | None
    """The parts of an accelerator's memory; None for a run on the CPU."""
    tokens_per_second: float
    steps: int
    planned_steps: int
    """The steps that `plan` is of; a run that stops early takes fewer."""
    longest_row: int | None
    """The tokens of the longest row, to which its batch is padded; None where rows are packed."""
    best_step: int
    """The step that is kept; 0: the start, as no step was better, or nothing."""
    never_given: dict[str, int]
    """The rows of valid by their labels, of labels that the model gives to no row though several have them."""
    went_back: list[WentBack]
    divided: list[DividedStep]
    metrics: Metrics
    baseline: Beaten
    coverage: Reach
    decided: dict[str, dict[str, int]]
    """The method's findings, such as the rank of each host."""
    forgetting: Forgetting | None
    budget: Chosen | None
    """What stays inside `--forget-at-most`; None if that was not asked for, or not come to."""
    plan: PlannedCost
    versions: dict[str, str]
    device: str
    processes: int
    """The processes that shared each step, of those that finished the run."""
    dtype: str
    quantize: str
    stream: bool
    shard: bool
    """Whether processes shared out the base."""
    seed: int
    command: str


def planned_seconds(summary: Summary) -> float | None:
    """Return the training time that was planned for the steps that were taken; None if either is not known."""
    seconds = (summary.get("plan") or {}).get("seconds")
    steps, taken = summary.get("planned_steps"), summary.get("steps")
    return None if seconds is None or not steps or taken is None else seconds * taken / steps


def kept_start(summary: Summary) -> bool:
    """Tell whether no step of a run was better than a new head that was fitted before the first, which is kept."""
    return summary.get("best_step") == 0 and bool((summary.get("metrics") or {}).get("tuned"))


class RunSummary(Summary):
    """A summary with the run's folder, as training returns it."""

    folder: str
