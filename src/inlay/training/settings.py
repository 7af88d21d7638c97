"""What a run is asked to do: one dataclass is the Python object, the command line and run.yaml (a flag is its path)."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from ..core.method import Method
from ..data.settings import DataSettings
from ..devices import check_name
from ..errors import SettingsError
from ..methods import METHODS
from ..models.recompute import ALL, check_choice
from ..ranges import COUNT, FLOAT, SEED, SHARE, WEIGHT, Range, Settings, bytes_asked, check_settings

MethodT = TypeVar("MethodT", bound=Method, covariant=True)


def check_with_stream(recompute: str | None, quantize: str, *, shard: bool) -> None:
    """Raise SettingsError for a setting that a streamed base cannot have."""
    if recompute not in (None, ALL):
        raise SettingsError(
            f"stream is on, which computes every block again, and recompute is {recompute}; leave that out"
        )
    if quantize != "none":
        raise SettingsError(
            f"stream is on, which reads the base as its files have it, and quantize is {quantize}; a quantized base "
            "takes a quarter of the memory and stays in it: leave one out"
        )
    if shard:
        raise SettingsError(
            "stream and shard are both on: one reads the base's blocks from its files, the other has the processes "
            "keep a part of them each; leave one out"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """What runs that are compared have in common: everything but the method, its learning rate and the seed."""

    model: str
    """The pretrained model: a folder, a Hugging Face model id, builtin:minilm, or builtin:tiny-lm."""
    data: DataSettings
    out: str | None = None
    """Folder for the run; must be new or empty. Default: runs/DATA-METHOD, with a number if that exists."""
    epochs: Annotated[float | None, Range(above=0, most=100_000)] = None
    """Passes over the training data. Default: the method's, 3 for most; more, at most 10, for fewer than 100 steps."""
    batch_size: Annotated[int, COUNT] = 16
    """Rows between two optimizer steps."""
    micro_batch_size: Annotated[int | None, COUNT] = None
    """Rows in one forward pass; less takes less memory and gives the same gradients. Default: batch_size; on a CPU as
    many as have some 2,048 tokens, with which it is fastest."""
    recompute: str | None = None
    """What the backward pass computes again in place of keeping it, which takes less memory and more time for the same
    gradients: none, feed-forward (that part of every block), all (every block, for about a third more time), or so many
    blocks, such as 12. Default: none if the run fits so."""
    on_oom: Literal["shrink", "stop"] = "shrink"
    """What to do when a step runs out of memory. shrink: do it again in smaller micro-batches and go on so, with the
    same gradients; and if one row does not fit, with --recompute all. stop: end with exit code 3."""
    max_length: Annotated[int | None, Range(8, 10_000_000)] = None
    """Tokens after which a text is cut. Default: what the model can take, at most 512."""
    warmup: Annotated[float | None, SHARE] = None
    """Share of the steps in which the learning rate rises; then it falls along a cosine to a tenth. Default: 0.05; more
    for short runs of methods that need it, at most a fifth."""
    weight_decay: Annotated[float, Range(0, 1_000)] = 0.0
    """AdamW's weight decay."""
    clip: Annotated[float, Range(above=0, most=FLOAT)] = 1.0
    """Largest norm of a step's gradient; a longer one is scaled down to it."""
    evaluations_per_epoch: Annotated[int, Range(1, 100_000)] = 4
    """Evaluations in each epoch; the adapter with the best score is kept."""
    patience: Annotated[int, Range(0, 1_000_000)] = 8
    """Stop early after so many evaluations without a better score; 0: never."""
    guard: bool = True
    """Go back to the best step with half the learning rate, or to the start with a quarter, or with the method's own
    rate if that is lower, if the training collapses:
    the loss rises past where it began, or every row gets the same answer. With --retain-weight the loss of a classifier
    is not looked at, as the retained part of it begins at zero."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen base and the activations; float32 for what is trained. auto: bfloat16 where it is fast, else
    float16, which scales the loss, where that is, else float32."""
    quantize: Literal["none", "nf4"] = "none"
    """Keep the frozen base's linear layers in 4 bits (nf4 of bitsandbytes, with double quantization), in a quarter of
    bfloat16's memory. With method lora this is QLoRA."""
    stream: bool = False
    """Last resort, slower: leave the frozen base's blocks in its files, and read one after the other in each forward
    and backward pass. For a base larger than the memory, in safetensors and not quantized. Gradients are the same."""
    shard: bool = False
    """Share the frozen base out among the processes that train: each keeps a part of every weight, and a block's are
    gathered for its calls. For a base larger than the memory of one device. Gradients are the same."""
    device: str = "auto"
    """Where to compute: cpu, or an accelerator, such as cuda, mps or xpu; cuda:1 is the second. auto: an accelerator if
    there is one."""
    tf32: bool = True
    """Multiply float32 matrices in TF32 on GPUs that have it (NVIDIA's since Ampere), which is several times faster and
    keeps 10 of their 23 bits."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """How attention is computed in training, by transformers' names. auto: what it chooses for the model, mostly sdpa,
    and text by text where texts share a row."""
    samples: Annotated[int, Range(0, 10_000_000)] = 50
    """Rows of a split to generate text for, by the base and the tuned model; BLEU and the like are computed on them."""
    forgetting: bool = True
    """Measure what the model forgets of general text, in about a twentieth of the run's time."""
    retain: str | None = None
    """File of general text that the model should not forget: with a column `text`, or plain paragraphs (.txt). About
    two thirds, 168 at most, measure forgetting, and a third is for retain_weight. Default: builtin:passages, 240 texts
    of twelve kinds."""
    retain_weight: Annotated[float, WEIGHT] = 0.0
    """Weight of a second loss, on general text, which makes the model forget less: the cross-entropy of a language
    model, the distance that a classifier's sentence representations have moved. 0: off."""
    memory: str | None = None
    """What the run may take, such as 8GB; micro_batch_size and recompute are chosen for that, unless they are given.
    Default: what is free."""
    checkpoint_minutes: Annotated[float, Range(0, 525_600)] = 10.0
    """Minutes between checkpoints; the last two are kept. `inlay resume` continues a killed run from the last, or from
    the one before if that is damaged. 0: only when the run is interrupted."""

    @property
    def rows_at_once(self) -> int:
        """The rows of one forward pass."""
        return self.micro_batch_size or self.batch_size

    @property
    def memory_bytes(self) -> int | None:
        """What the run may take; None: what is free. Raises SettingsError for what is no amount."""
        return bytes_asked(self.memory)

    def __post_init__(self) -> None:
        check_settings(self)
        bytes_asked(self.memory)
        check_name(self.device)
        if self.recompute is not None:
            check_choice(self.recompute)
        if self.retain is not None and not (self.forgetting or self.retain_weight):
            raise SettingsError(
                f"retain is {self.retain}, but forgetting is not measured and retain_weight is 0, so it would have no "
                "part in the run; leave out --retain or --no-forgetting, or give a --retain-weight"
            )
        if self.stream:
            check_with_stream(self.recompute, self.quantize, shard=self.shard)
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise SettingsError(
                f"batch_size is {self.batch_size}, which micro_batch_size {self.micro_batch_size} does not divide"
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings(Recipe, Generic[MethodT]):
    method: MethodT
    learning_rate: Annotated[float | None, Range(above=0, most=FLOAT)] = None
    """Peak learning rate of AdamW. Default: the method's, by the task, the model's width and the number of steps."""
    plain: bool = False
    """Write the adapter as a LoRA with one rank and one alpha, as llama.cpp and vLLM need it. Only for methods that
    are a low-rank change, and not for classifiers, whose head has no place in one."""
    fail_below_baseline: bool = False
    """End with exit code 4 if the finished run is not above its baseline on valid and test: the accuracy of the most
    frequent label, or the base's loss. All its files are there."""
    forget_at_most: Annotated[float | None, Range(above=0, most=FLOAT)] = None
    """Most that the model may forget, as it is measured: nats per token for a language model, 1 - CKA (0:
    unchanged, 1: unrelated to the base) for a classifier. The run keeps the step, and the scale of its change, that
    stay inside and score best on valid. Half of the general text decides, by the upper end of the 95 % interval; the
    other half checks. Default: no bound."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the new head, the adapter's start, the order of the rows and dropout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forget_at_most is not None and not self.forgetting:
            raise SettingsError(
                f"forget_at_most is {self.forget_at_most:g}, but forgetting is not measured; leave out "
                "--forget-at-most or --no-forgetting"
            )


def non_default(settings: RunSettings[Method]) -> dict[str, object]:
    """Return the settings that differ from their defaults, nested as in run.yaml."""
    asked = dict(_changed(settings, dataclasses.fields(RunSettings)))
    of_method = dict(_changed(settings.method, dataclasses.fields(settings.method)))
    first = {
        "model": asked["model"],
        "data": asked["data"],
        "method": {"name": METHODS.reference(type(settings.method)), **of_method},
    }
    return first | {name: value for name, value in asked.items() if name not in first}


def to_dict(settings: RunSettings[Method]) -> dict[str, object]:
    """Return every setting, as JSON has it."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(RunSettings)}
    method = {"name": METHODS.reference(type(settings.method)), **dataclasses.asdict(settings.method)}
    return values | {"data": dataclasses.asdict(settings.data), "method": method}


def from_dict(values: dict[str, Any]) -> RunSettings[Method]:
    """Invert `to_dict`. Raises SettingsError if one of the settings is unknown."""
    try:
        method = {name: tuple(value) if isinstance(value, list) else value for name, value in values["method"].items()}
        built = METHODS[str(method.pop("name"))](**method)
        return RunSettings(**values | {"data": DataSettings(**values["data"]), "method": built})
    except (KeyError, TypeError, AttributeError, SettingsError) as problem:
        raise SettingsError(f"another version of Inlay had other settings: {problem}") from None


def _changed(settings: object, fields: tuple[dataclasses.Field[object], ...]) -> Iterator[tuple[str, object]]:
    for field in fields:
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield field.name, dict(_changed(value, dataclasses.fields(value)))
        elif value != _default(field):
            yield field.name, list(value) if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[object]) -> object:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
