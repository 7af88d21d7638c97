"""A rank for each layer before anything is trained, for as many parameters as one rank everywhere would take.

From activations, as EVA (https://arxiv.org/abs/2410.07170): a direction counts for the share of its layer's input
variance that it explains. EVA counts directions; here each is set against the parameters that it costs its layer. From
gradients: a direction counts for how the loss falls along it, as far as two halves of the first batches agree.

How much rank a task needs, neither tells: a spectrum shows where there is something, not how much of it must be learned
(of updates of full fine-tuning it overestimates the rank that is needed by far, https://arxiv.org/abs/2405.09673). What
can be said is a floor: an adapter stores about 2 bits in a parameter, and one with less room than there is information
in the data's answers falls behind (https://thinkingmachines.ai/blog/lora/).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import Tensor, nn

from ...batches.batch import to_device
from ...core.method import Method
from ...errors import DataError
from ...formats.files import write_text
from ...methods.ranked import Ranked
from ...models import weights
from ...models.inputs import inputs_of
from ...models.sites import Place, Sites
from ...stats import Difference, paired_gain
from ...tasks import TASKS
from ...tasks.task import Task
from ...training.journal import Journal, Watcher
from ...training.prepared import Prepared, prepare_run
from ...training.run import train
from ...training.score_parts import read_parts
from ...training.settings import RunSettings, non_default
from ...training.shared_base import load_base
from .gradients import agreed, gradients_of
from .ranks import energy_rank
from .sharing import share_out

From = Literal["activations", "gradients"]
SETTINGS_FILE = "suggested.yaml"

_MOST = 2  # times the rank that a layer would have: EVA's ratio
_BATCHES = 16  # whose gradients are taken, eight to a half
_BITS_PER_PARAMETER = 2
_BITS_PER_TOKEN = 1  # at most, of a text that is to be learned


@dataclass(frozen=True, kw_only=True)
class Suggested:
    name: str
    place: Place
    shape: tuple[int, int]
    rank: int
    gains: list[float]
    """What each direction counts for, the first first."""
    enough: int
    """Directions that have nine tenths of what these have together."""


@dataclass(frozen=True, kw_only=True)
class TriedRanks:
    """Two runs that differ in nothing but the ranks."""

    epochs: float
    rows: int
    score: str
    suggested: dict[str, float]
    uniform: dict[str, float]
    gain: Difference | None
    """Of the suggested ranks, with the interval that the rows leave; None if they are too few to tell."""
    folders: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    origin: From
    rank: int
    """What every layer would have, in as many parameters or hardly more."""
    floor: int
    """The least rank whose parameters could hold what the answers in the training data say."""
    parameters: int
    uniform_parameters: int
    layers: list[Suggested]
    settings_file: str | None
    tried: TriedRanks | None = None
    method: Method = field(compare=False)
    """The method with these ranks."""

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer, by its name."""
        return {layer.name: layer.rank for layer in self.layers}

    def as_dict(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "method"}


def suggest(
    settings: RunSettings[Method], origin: From, folder: Path | None = None, task: Task | None = None
) -> Suggestion:
    """Suggest ranks for the run's method, in which every layer has one rank; with a folder, write the run's settings
    with the ranks into its `suggested.yaml`. `task` has read the data, which are read if there is none.

    Raises InvalidRequest before weights are loaded for settings or data that cannot work; DataError for too few rows.
    """
    run = prepare_run(replace(settings, out=None), Journal(lambda _: None), task=task)
    uniform = run.settings.method
    assert isinstance(uniform, Ranked)
    hosts = _hosts(run, uniform.targets)
    base = load_base(run)
    most = uniform.rank * _MOST
    gains = (_of_activations if origin == "activations" else _of_gradients)(run, base.model, list(hosts), most)
    if missing := [host for host in hosts if not gains.get(host)]:
        raise DataError(f"{run.task.data.source}: {missing[0]} saw too few rows to find directions; give it more")

    costs = {host: sum(shape) for host, shape in hosts.items()}
    budget = uniform.rank * sum(costs.values())
    ranks = share_out(gains, costs, budget, at_least=1)
    chosen = replace(settings, method=uniform.with_ranks(ranks), out=None)
    settings_file = None if folder is None else folder / SETTINGS_FILE
    if settings_file is not None:
        write_text(settings_file, yaml.safe_dump(non_default(chosen), sort_keys=False, allow_unicode=True))
    sites = Sites(base.model, base.heads, run.part.name)
    return Suggestion(
        origin=origin,
        rank=uniform.rank,
        floor=max(1, math.ceil(_information(run) / _BITS_PER_PARAMETER / sum(costs.values()))),
        parameters=sum(rank * costs[host] for host, rank in ranks.items()),
        uniform_parameters=budget,
        layers=[
            Suggested(
                name=host,
                place=sites.place(host),
                shape=shape,
                rank=ranks[host],
                gains=gains[host],
                enough=energy_rank(torch.tensor(gains[host], dtype=torch.float64), 0.9),
            )
            for host, shape in hosts.items()
        ],
        settings_file=None if settings_file is None else str(settings_file),
        method=chosen.method,
    )


def attempt(
    suggestion: Suggestion, settings: RunSettings[Method], folder: Path, watcher: Watcher, task: Task | None = None
) -> Suggestion:
    """Train with the suggested ranks and with uniform ones, otherwise alike, and add both scores."""
    assert settings.epochs is not None
    methods = {"suggested": suggestion.method, "uniform": settings.method}
    folders = {name: folder / name for name in methods}
    metrics, name_of_task = {}, ""
    for name, method in methods.items():
        ranks_text = "the suggested ranks" if name == "suggested" else f"rank {suggestion.rank} everywhere"
        Journal(watcher).record("note", text=f"training with {ranks_text}, in {folders[name]}")
        summary = train(replace(settings, method=method, out=str(folders[name])), watcher, task=task)
        metrics[name], name_of_task = summary["metrics"], summary["task"]
    suggested, uniform = ([read_parts(folders[name], "valid")] for name in methods)
    gain = paired_gain(suggested, uniform, 0.95)
    tried = TriedRanks(
        epochs=settings.epochs,
        rows=metrics["uniform"]["rows"],
        score=TASKS[name_of_task].main_score,
        suggested=metrics["suggested"]["tuned"],
        uniform=metrics["uniform"]["tuned"],
        gain=gain if gain is not None and math.isfinite(gain.low) else None,
        folders={name: str(path) for name, path in folders.items()},
    )
    return replace(suggestion, tried=tried)


def _hosts(run: Prepared, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Find the linear layers that the targets name, with their sizes."""
    model = run.task.empty()
    names = Sites(model, part=run.part.name).find(targets)
    return {name: weights.size(model.get_submodule(name)) for name in names}


def _of_activations(run: Prepared, model: nn.Module, hosts: list[str], most: int) -> dict[str, list[float]]:
    seen = inputs_of(model, hosts, most, _batches(run))
    return {host: inputs.shares()[:most].tolist() for host, inputs in seen.items()}


def _of_gradients(run: Prepared, model: nn.Module, hosts: list[str], most: int) -> dict[str, list[float]]:
    halves = gradients_of(model, hosts, itertools.islice(_batches(run), _BATCHES), run.task.loss)
    return {host: agreed(of_host, most) for host, of_host in halves.items()}


def _batches(run: Prepared) -> Iterator[dict[str, Tensor]]:
    for batch in run.task.batches(run.settings.batch_size, run.settings.seed):
        yield to_device(batch, run.device)


def _information(run: Prepared) -> float:
    """Return bits in the answers of the training data, at most."""
    labels = run.task.labels
    rows = len(run.task.lengths("train"))
    if labels:
        return rows * math.log2(len(labels))
    learned = sum(run.task.weight(batch) for batch in run.task.batches(run.settings.batch_size, run.settings.seed))
    return _BITS_PER_TOKEN * learned
