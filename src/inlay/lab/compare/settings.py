"""What a comparison is asked to do."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ...core.method import Method
from ...errors import SettingsError
from ...ranges import Range
from ...training.settings import Recipe

# By default one of each family, which did well on trec in three epochs (docs/results.md), and the baseline. Of several
# names the first that fits the model: Llamas have no biases.
DEFAULT_METHODS = (("bitfit", "norm"), ("pfeiffer",), ("lora",), ("prefix", "prompt"), ("full",))


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Recipe):
    out: str | None = None
    """Folder for the comparison; if it has runs with these settings, they are continued. Default:
    runs/compare-DATA."""
    epochs: Annotated[float | None, Range(above=0, most=100_000)] = None
    """Passes over the training data, the same for each method. Default: the smallest of the methods' defaults, often 3;
    more, at most 10, for fewer than 100 steps."""
    methods: tuple[str, ...] = ()
    """The methods, by name. `lora:rank=4,alpha=8` gives one its settings; qlora is lora on a base in NF4. Default:
    bitfit (norm where there are no biases), pfeiffer, lora, prefix and full."""
    seeds: Annotated[int, Range(1, 1_000)] = 1
    """Runs of each method, with the seeds 0, 1, …; the report says what is within their noise."""
    search: Annotated[int, Range(0, 1_000)] = 0
    """Learning rates to try for each method, from a tenth to ten times its own, with seed 0 on valid; 0: its own."""
    then: tuple[str, ...] = ()
    """Data sets to learn after DATA, one after another, to see what the model forgets of the earlier ones."""
    jobs: Annotated[int | None, Range(1, 1_000)] = None
    """Runs at a time, each in its own process with a share of the cores. Default: one an accelerator, or several
    if they fit; without any one a core, as far as memory allows, and on a cluster one a machine."""
    cluster: str | None = None
    """Address of a Ray cluster to run on, whose machines share this directory; auto: the one of this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search == 1:
            raise SettingsError("search is 1, which would try one learning rate; 2 or more make a choice, 0 none")
        if len(self.methods) == 1:
            raise SettingsError(f"compare needs at least two methods; got only {self.methods[0]}")
        for name in ("methods", "then"):
            given = getattr(self, name)
            if twice := next((value for value in given if given.count(value) > 1), None):
                raise SettingsError(f"{name} has {twice} twice; name it once")
        if self.data.path in self.then:
            raise SettingsError(f"then has {self.data.path}, which is DATA itself; name other data sets")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method as it takes part."""

    label: str  # as asked, such as lora:rank=4
    method: Method
    quantize: Literal["none", "nf4"]

    @property
    def family(self) -> str:
        return self.method.family
