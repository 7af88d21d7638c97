"""The keys and values of a prefix: one table for all layers, trained itself or computed by a network that is trained.

The table is (P, 2 L N), N = H C the width of a layer's keys: the keys of layer 0, its values, the keys of layer 1, and
so on. It is kept at the transformer, and each layer's attention asks for its part of it. Nothing but parameters is kept
between calls, so gradient checkpointing may run a layer again at any time.

Shape suffixes: P prefix, M hidden layer, N keys of a layer, H key heads, C channels of a head.
"""

import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.delta import Args, Delta, Kwargs
from ...models.weights import Host
from .attention import EarlierKeys
from .cached import cached_positions
from .positions import counts_from_the_text


class TextPositions(Delta):
    """A delta at the module that is given the text's mask: where its positions count from.

    `counts` says whether to give it positions that count from a row's first token, for otherwise its padding would
    stand between the prefix and the text; `shift` is added where nothing inside looks positions up.
    """

    counts = False
    shift = 0

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if not self.counts:
            return args, kwargs
        kwargs = dict(zip(inspect.signature(host.forward).parameters, args, strict=False)) | kwargs
        if (positions := counts_from_the_text(host, kwargs)) is not None:
            kwargs["position_ids"] = positions
        elif self.shift and kwargs.get("position_ids") is None:
            x = next(t for name in ("inputs_embeds", "input_ids") if (t := kwargs.get(name)) is not None)
            kwargs["position_ids"] = (torch.arange(x.shape[1], device=x.device) + (cached_positions(kwargs) or 0))[None]
        if self.shift:
            kwargs["position_ids"] = kwargs["position_ids"] + self.shift
        return (), kwargs


class PrefixTable(TextPositions):
    """A delta at the transformer: what the layers take their keys and values from."""

    def columns(self, part: slice) -> Tensor:
        raise NotImplementedError


class Prefix(PrefixTable):
    def __init__(self, start: list[tuple[Tensor, Tensor]]):
        super().__init__()
        device = start[0][0].device  # layers may be on others
        rows = [t.transpose(0, 1).flatten(1).to(device) for kv in start for t in kv]
        self.prompt_embeddings = nn.Parameter(torch.cat(rows, 1))

    def columns(self, part: slice) -> Tensor:
        return self.prompt_embeddings[:, part]


class Projection(PrefixTable):
    """The network that computes the table."""

    def __init__(self, start: list[tuple[Tensor, Tensor]], hidden_size: int):
        super().__init__()
        heads, count, channels = start[0][0].shape
        device, width = start[0][0].device, heads * channels
        self.projection_input = nn.Parameter(torch.randn(count, width, device=device))
        self.projection_hidden = nn.Linear(width, hidden_size, device=device, dtype=torch.float32)
        self.projection_output = nn.Linear(hidden_size, 2 * len(start) * width, device=device, dtype=torch.float32)

    def columns(self, part: slice) -> Tensor:
        hidden_PM = torch.tanh(self.projection_hidden(self.projection_input))
        return F.linear(hidden_PM, self.projection_output.weight[part], self.projection_output.bias[part])

    def computed(self, host: Host) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.columns(slice(None))}


class PrefixAtLayer(EarlierKeys):
    table: Prefix | Projection

    def __init__(self, table: Prefix | Projection, layer: int, start: tuple[Tensor, Tensor]):
        super().__init__()
        self.__dict__["table"] = table  # no submodule: the parameters are the transformer's delta's
        self.heads, self.count, channels = start[0].shape
        self.width = self.heads * channels
        self.part = slice(2 * layer * self.width, 2 * (layer + 1) * self.width)

    def earlier(self, key_BHTC: Tensor, value_BHTC: Tensor) -> tuple[Tensor, Tensor]:
        rows_PN = self.table.columns(self.part).to(key_BHTC)
        key_HPC, value_HPC = rows_PN.view(self.count, 2, self.heads, -1).permute(1, 2, 0, 3)
        return key_HPC, value_HPC
