"""Sparse training.   https://arxiv.org/abs/2111.09839 (FISH), https://arxiv.org/abs/2406.13175 (SHiRA)

The Fisher information is taken once, from the untrained model. SHiRA's size for each weight is also the size of the
whole with fisher, which spreads it as it likes.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...attached.adapter import Adapter
from ...core.attachment import Attachment
from ...core.delta import Delta
from ...core.method import Rates
from ...errors import DataError, TargetError
from ...formats.peft_config import PeftConfig, targets_of
from ...formats.peft_format import PeftFormat
from ...models import weights
from ...models.sites import ROLES, Sites
from ...ranges import RANK, ROWS, Range
from ..reparameterized.on_linear import OnLinear
from .fisher import information
from .sparse_entries import Sparse, random_entries

_THEIRS = "SHIRA"


class SparseFormat(PeftFormat["SparseMask"]):
    def write(
        self, adapter: Adapter, method: "SparseMask", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        counts = {name: len(delta.values) for name, _, delta in adapter.hosts() if isinstance(delta, Sparse)}
        return {**dataclasses.asdict(method), "counts": counts}, tensors

    def reads(self, config: PeftConfig) -> bool:
        return config["peft_type"] in (self.peft_type, _THEIRS)

    def read(self, kind: "type[SparseMask]", config: PeftConfig) -> "SparseMask":
        if config["peft_type"] != _THEIRS:
            return super().read(kind, config)
        return kind(rank=config["r"], selection="random", targets=targets_of(config))

    def read_tensors(self, method: "SparseMask", config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # PEFT writes indices as floats on Windows.
        return {key: t.int() if key.endswith(".shira_indices") else t for key, t in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class SparseMask(OnLinear):
    """Trains a few single entries of each weight, chosen before training; all others stay as they are.

               W  O×I              S  O×I
             ┌───────────┐       ╔═══════════╗
             │ w w w w w │       ║ . . s . . ║
        x ──▶│ w w w w w │   +   ║ s . . . . ║──▶ y        . is zero and stays so
             │ w w w w w │       ║ . . . . s ║
             └───────────┘       ╚═══════════╝

        W' = W + S        K = rank (I + O) entries, as many numbers as LoRA has
        fisher: the entries with most F = sum over rows of (d log p(y|x) / dw)^2
        random: any

    When: For a change of few numbers that is not held to a low rank, and adapters that overwrite little of the base
    when they are merged. fisher looks at training data to choose, random is SHiRA's simplest choice. Not to save time.

    Cost: The optimizer keeps only the K entries, but each layer's S is made dense and its whole gradient is formed on
    the way, so a step is slower than full fine-tuning's; fisher first needs 4 bytes for every entry of the weights, and
    a pass over training rows, one by one. Merged, it costs nothing at inference.
    """

    name, family, paper = "sparse", "selective", "https://arxiv.org/abs/2111.09839"
    summary = "a fixed few entries of each weight, those that the data says most about or random ones"
    learning_rate = Rates(reading=2e-3, writing=7e-3, width_power=1.5)
    # SHIRA is read, but not written: transformers' load_adapter takes its values for those of other entries.
    format = SparseFormat(
        peft_type="INLAY_SPARSE",
        names={"values": "shira_weight", "indices": "shira_indices"},
        known=frozenset({"r", "mask_type", "random_seed", "fan_in_fan_out", "init_weights"}),
    )

    rank: Annotated[int, RANK] = 4
    """Size: as many entries as LoRA of this rank has numbers, rank * (inputs + outputs) for each weight."""
    selection: Literal["fisher", "random"] = "fisher"
    """Which entries: those with the most Fisher information on training data, or random ones."""
    rows: Annotated[int, ROWS] = 256
    """Training rows from which the Fisher information is taken."""
    counts: Annotated[dict[str, int], Range(0, 1_000_000_000_000)] = field(default_factory=dict)
    """Entries of a weight by the whole name of its layer, instead of rank's; a checkpoint records fisher's here."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        names = sites.find(self.targets)
        for name in self.counts.keys() - set(names):
            raise TargetError(f"method.counts names {name}, which targets does not select")
        sizes = {name: weights.size(sites.module(name)) for name in names}
        counts = {name: self.counts.get(name, self.rank * sum(size)) for name, size in sizes.items()}
        small = [name for name, (outputs, inputs) in sizes.items() if counts[name] > outputs * inputs]
        asked = tuple(target for target in self.targets if target not in ROLES)
        named = {*self.counts, *(sites.find(asked) if asked else ())}
        for name in small if len(small) == len(names) else (name for name in small if name in named):
            outputs, inputs = sizes[name]
            raise TargetError(
                f"method.rank is {self.rank}: {counts[name]} entries of {name}, which has {outputs * inputs}"
            )
        for name in names:  # a role's layers that have fewer entries than that, such as a gate, are left as they are
            if name not in small:
                outputs, inputs = sizes[name]
                host = sites.module(name)
                delta = Sparse(host, random_entries(counts[name], outputs * inputs, weights.device(host)))
                delta.resizable = self.selection == "fisher"
                yield name, delta

    def initialize_from_data(self, adapter: Attachment, batches: Iterator[dict[str, Tensor]]) -> None:
        if self.selection == "random":
            return
        deltas = {name: delta for name, _, delta in adapter.hosts() if isinstance(delta, Sparse)}
        rows = (row for batch in batches for row in _rows(batch))
        scores = information(adapter.model, list(deltas), islice(rows, self.rows))
        budget = sum(len(delta.values) for delta in deltas.values())
        best_K = torch.cat([score_OI.flatten() for score_OI in scores.values()]).topk(budget).indices
        start = 0
        for name, delta in deltas.items():
            end = start + scores[name].numel()
            delta.choose(best_K[(best_K >= start) & (best_K < end)] - start)
            start = end


def _rows(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield batches of one row. A row may have several entries of a tensor, such as the patches of its image."""
    count = len(batch["labels"])
    for key, tensor in batch.items():
        if len(tensor) % count:
            raise DataError(f"{key} has {len(tensor)} entries for {count} rows, so that one row's cannot be told")
    for i in range(count):
        yield {k: v[i * len(v) // count : (i + 1) * len(v) // count] for k, v in batch.items()}
