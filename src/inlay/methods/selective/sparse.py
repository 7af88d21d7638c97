"""Sparse training: a fixed few entries of each weight learn, W + S with S zero everywhere else.

fisher   the entries of all targets together with the most empirical Fisher information (FISH), which is the sum over
         training rows of (d log p(y | x) / d w)^2, taken once from the untrained model.  https://arxiv.org/abs/2111.09839
random   rank (inputs + outputs) random entries of each weight (SHiRA).                   https://arxiv.org/abs/2406.13175

Only the chosen entries are parameters, so that the others have neither an optimizer's state nor weight decay. What an
entry gets starts at zero. SHiRA's size is also the size of the whole with fisher, which spreads it as it likes.

Shape suffixes: K entries, N tokens.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from ...core import weights
from ...core.delta import Delta, WeightDelta
from ...core.method import COMMON_KEYS
from ...core.sites import Sites
from ...core.weights import Host
from ...errors import CheckpointError, SettingsError, TargetError
from ..reparameterized.on_linear import OnLinear
from . import sparse_product
from .fisher import information

if TYPE_CHECKING:
    from ...core.adapter import Adapter

_SHIRA_KEYS = {"r", "mask_type", "random_seed", "fan_in_fan_out", "init_weights", "exclude_modules"}


@dataclass(frozen=True, kw_only=True)
class SparseMask(OnLinear):
    name, family, paper = "sparse", "selective", "https://arxiv.org/abs/2111.09839"
    summary = "a fixed few entries of each weight, those that the data says most about or random ones"
    learning_rate = 3e-4
    peft_type = "INLAY_SPARSE"  # or SHIRA, where each weight has as many entries as that wants
    peft_names = {"values": "shira_weight", "indices": "shira_indices"}

    rank: int = 4
    """Size: as many entries as LoRA of this rank has numbers, rank * (inputs + outputs) for each weight."""
    selection: Literal["fisher", "random"] = "fisher"
    """Which entries: those with the most Fisher information on training data, or random ones."""
    rows: int = 256
    """Training rows from which the Fisher information is taken."""
    counts: dict[str, int] = field(default_factory=dict)
    """Entries of a weight by the whole name of its layer, instead of rank's; a checkpoint records fisher's here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "rows"):
            if getattr(self, name) < 1:
                raise SettingsError(f"method.{name} is {getattr(self, name)}; it must be at least 1")

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets)
        for name in self.counts.keys() - set(names):
            raise TargetError(f"method.counts names {name}, which targets does not select")
        for name in names:
            host = sites.model.get_submodule(name)
            outputs, inputs = weights.size(host)
            count = self.counts.get(name, self.rank * (outputs + inputs))
            if count > outputs * inputs:
                raise TargetError(
                    f"method.rank is {self.rank}: {count} entries of {name}, which has {outputs * inputs}"
                )
            yield name, Sparse(host, _random_entries(count, outputs * inputs))

    def initialize_from_data(self, adapter: "Adapter", batches: Iterator[dict[str, Tensor]]) -> None:
        if self.selection == "random":
            return
        deltas = {name: delta for name, _, delta in adapter.hosts() if isinstance(delta, Sparse)}
        rows = ({k: v[i : i + 1] for k, v in batch.items()} for batch in batches for i in range(len(batch["labels"])))
        scores = information(adapter.model, list(deltas), islice(rows, self.rows))
        budget = sum(len(delta.values) for delta in deltas.values())
        best_K = torch.cat([score_OI.flatten() for score_OI in scores.values()]).topk(budget).indices
        start = 0
        for name, delta in deltas.items():
            end = start + scores[name].numel()
            delta.choose(best_K[(best_K >= start) & (best_K < end)] - start)
            start = end

    def to_peft(
        self, adapter: "Adapter", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        found = {name: (host, delta) for name, host, delta in adapter.hosts() if isinstance(delta, Sparse)}
        if all(_is_shira(host, delta, self.rank) for host, delta in found.values()):
            config = super().peft_config(sites, list(found))
            return config | {"peft_type": "SHIRA", "r": self.rank, "mask_type": "random"}, tensors
        counts = {name: len(delta.values) for name, (_, delta) in found.items()}
        return dataclasses.asdict(self) | {"counts": counts}, tensors

    @classmethod
    def from_peft_config(cls, config: dict[str, Any]) -> Self | None:
        if config["peft_type"] != "SHIRA":
            return super().from_peft_config(config)
        for key, value in config.items():
            if key not in COMMON_KEYS | _SHIRA_KEYS and value not in (None, False):
                raise CheckpointError(
                    f"adapter_config.json: {key} is {value!r}; this changes what the adapter computes and is not known"
                )
        return cls(rank=config["r"], selection="random", targets=cls.peft_targets(config))

    def from_peft_tensors(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # PEFT writes indices as floats on Windows.
        return {key: t.int() if key.endswith(".shira_indices") else t for key, t in tensors.items()}


class Sparse(WeightDelta):
    def __init__(self, host: Host, entries_K: Tensor):
        super().__init__()
        self.size = weights.size(host)
        self.device = weights.device(host)
        self.register_buffer("indices", None)
        self.choose(entries_K)

    indices: Tensor  # (2, K): rows and columns

    def choose(self, entries_K: Tensor) -> None:
        """Take these entries of the weight, counted along its rows, and start at zero."""
        entries_K = entries_K.sort().values
        self.indices = torch.stack([entries_K // self.size[1], entries_K % self.size[1]]).int().to(self.device)
        self.values = nn.Parameter(torch.zeros(len(entries_K), device=self.device))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        w_OI = params["weight"]
        return {"weight": w_OI.index_put(tuple(self.indices), self.values.to(w_OI.dtype), accumulate=True)}

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        x_NI = x_BTI.reshape(-1, x_BTI.shape[-1]).to(h_BTO.dtype)
        y_NO = sparse_product.product(x_NI, self.values.to(x_NI.dtype), self.indices, self.size[0])
        return h_BTO + y_NO.view(h_BTO.shape)


def _random_entries(count: int, total: int) -> Tensor:
    """Distinct numbers below `total`, all equally likely; a permutation of a whole weight would take seconds."""
    if 2 * count > total:
        return torch.randperm(total, device="cpu")[:count]
    drawn = torch.empty(0, dtype=torch.long, device="cpu")
    while len(drawn) < count:
        drawn = torch.cat([drawn, torch.randint(total, (count,), device="cpu")]).unique()
    return drawn[torch.randperm(len(drawn), device="cpu")[:count]]


def _is_shira(host: Host, delta: Sparse, rank: int) -> bool:
    """Whether PEFT can read it; its SHiRA knows no layers with a transposed weight."""
    return len(delta.values) == rank * sum(delta.size) and not weights.is_flipped(host)
