"""Prefix tuning.   https://arxiv.org/abs/2101.00190

P-tuning v2 is the same method (https://arxiv.org/abs/2110.07602). The text's positions start at P. No prefix is
nothing: even zeros take their share of the softmax. It starts as what the base computes of P random tokens, so that a
decoder starts as if its text came after theirs.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from ...attached.adapter import Adapter
from ...core.delta import Delta
from ...core.method import Method, Rates
from ...errors import CheckpointError, TargetError
from ...formats.peft_config import PeftConfig
from ...models.listed_classes import classes_for
from ...models.modules import has_config
from ...models.sites import Sites
from ...ranges import COUNT
from .attention import has_relative_positions, uses_interface
from .cache_argument import takes_cache
from .positions import ShiftedRotation, shifts
from .prefix_start import prefix_start
from .prefix_table import Prefix, PrefixAtLayer, Projection, TextPositions
from .readers import mask_reader, readers_of
from .virtual_tokens import KNOWN, TokensFormat, VirtualTokens

_OWN_TYPE = "INLAY_PREFIX"  # where PEFT has no such function: everywhere in an encoder-decoder, or not in each layer


class PrefixFormat(TokensFormat["PrefixTuning"]):
    def write(
        self, adapter: Adapter, method: "PrefixTuning", sites: Sites, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, object], dict[str, Tensor]]:
        layers = [delta for delta in adapter.deltas.values() if isinstance(delta, PrefixAtLayer)]
        sequence_to_sequence = type(sites.model).__name__ in classes_for("SEQ_TO_SEQ_CAUSAL_LM")
        config: dict[str, object] = {
            "num_virtual_tokens": method.tokens,
            "num_transformer_submodules": 1,
            "token_dim": layers[0].width,
            "num_layers": len(layers),
            "num_attention_heads": layers[0].heads,
        }
        if method.projection:
            config |= {"prefix_projection": True, "encoder_hidden_size": method.hidden_size}
        if sequence_to_sequence and not method.everywhere:
            table = _dealt_back(tensors["prompt_embeddings"], len(layers))
            config |= {"num_transformer_submodules": 2, "num_layers": table.shape[1] // (2 * layers[0].width)}
            return config, tensors | {"prompt_embeddings": table}
        assert has_config(sites.model)
        in_each = len(layers) == getattr(sites.model.config.get_text_config(), "num_hidden_layers", None)
        if readers_of(sites)[1] is not None or not in_each:
            config |= {"peft_type": _OWN_TYPE, "everywhere": method.everywhere}
        return config, tensors

    def reads(self, config: PeftConfig) -> bool:
        return config["peft_type"] in (self.peft_type, _OWN_TYPE)

    def read(self, kind: "type[PrefixTuning]", config: PeftConfig) -> "PrefixTuning":
        return kind(
            tokens=config["num_virtual_tokens"],
            projection=bool(config.get("prefix_projection")),
            hidden_size=config["encoder_hidden_size"] if config.get("prefix_projection") else kind.hidden_size,
            everywhere=config.get("everywhere", False),
        )

    def of_tensors(self, method: "PrefixTuning", tensors: dict[str, Tensor]) -> Method:
        # PEFT keeps of a projection its result alone, which is a prefix like any other.
        if any("projection" in key for key in tensors):
            return method
        return replace(method, projection=False, hidden_size=PrefixTuning.hidden_size)

    def read_tensors(self, method: "PrefixTuning", config: PeftConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        table = tensors.get("prompt_embeddings")
        seq2seq = config.get("task_type") == "SEQ_2_SEQ_LM"
        if table is None or config["peft_type"] == _OWN_TYPE:
            return tensors
        if (config.get("num_transformer_submodules") or 1 + seq2seq) == 1:
            return tensors
        # PEFT deals an encoder-decoder's table out in fours, of which the decoder's layer takes the first two: layer l
        # of L gets the keys and values meant for layer 2l, counted round. With an even L half of the table is unused.
        if not isinstance(layers := config.get("num_layers"), int) or table.shape[1] % layers:
            raise CheckpointError(
                f"adapter_config.json: num_layers is {layers!r}; the table has {table.shape[1]} columns"
            )
        parts = table.unflatten(1, (layers, -1))[:, [2 * layer % layers for layer in range(layers)]]
        if not parts[:, -1].any():
            parts = parts[:, :-1]  # which _dealt_back put there
        return tensors | {"prompt_embeddings": parts.flatten(1)}


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(VirtualTokens):
    """Puts trained keys and values before those of the text, in the attention of every layer.

                      ╔═════╗┌───────────────┐
        h ─┬─ keys    ║ P_k ║│ K of the text │──┐
           │          ╚═════╝└───────────────┘  ▼            in every layer
           ├─ query   q ─────────────────────▶ softmax ──┐
           │          ╔═════╗┌───────────────┐           ▼
           └─ values  ║ P_v ║│ V of the text │─────────▶ × ──▶ y
                      ╚═════╝└───────────────┘

        softmax(q [P_k; K]^T / sqrt(d)) [P_v; V]
        projection: all P_k and P_v are W2 tanh(W1 E + b1) + b2, and that is trained

    When: Where a prompt at the input is too weak: smaller models, harder tasks, labels for every token. P-tuning v2,
    which is this method, reports full fine-tuning's quality on small models as on large ones. Not where it has to be
    merged.

    Cost: A step takes two thirds of full fine-tuning's arithmetic; the attention has `tokens` more keys to look at, the
    rest of each layer no more to do. At inference it is there before the text as if it were cached; it cannot be
    merged. A sliding window leaves it behind as it leaves text, as in Hugging Face PEFT; layers without attention have
    none.
    """

    name, paper = "prefix", "https://arxiv.org/abs/2101.00190"
    summary = "a few keys and values that come before the text's in every layer"
    learning_rate = Rates(reading=2.5e-2, writing=1.5e-1, warmup_steps=20)
    epochs = 10
    format = PrefixFormat(
        peft_type="PREFIX_TUNING",
        known=KNOWN | {*("encoder_hidden_size", "prefix_projection", "init_weights", "everywhere")},
    )

    projection: bool = False
    """Train a small network that computes the prefix, instead of the prefix itself."""
    hidden_size: Annotated[int, COUNT] = 512
    """Width of that network's hidden layer."""
    everywhere: bool = False
    """In an encoder-decoder, also before the encoder's keys and those that the decoder reads from it, as in the paper.
    Otherwise in the decoder's self-attention only, as Hugging Face PEFT has it."""

    def place(self, sites: Sites) -> Iterator[tuple[str, Delta]]:
        encoder, decoder = readers_of(sites)
        parts = [encoder] if decoder is None else [encoder, decoder] if self.everywhere else [decoder]
        inside = {id(m) for part in parts for m in part.modules()}
        names = {m: name for name, m in sites.modules() if id(m) in inside}
        hosts = [m for m in names if uses_interface(m) or takes_cache(m)]
        if decoder is not None and not self.everywhere:
            hosts = [
                m for m in hosts if getattr(m, "is_causal", False)
            ]  # which leaves out the attention to the encoder
        shifted = list(shifts(((name, m) for m, name in names.items()), self.tokens))
        takes_positions = "position_ids" in inspect.signature(parts[-1].forward).parameters
        if not shifted and not takes_positions and not any(map(_has_no_table, hosts)):
            raise TargetError(f"it is not known where {type(sites.model).__name__} looks its positions up")

        start = prefix_start(sites, hosts, self.tokens)
        for name, block in sites.blocks.items():
            if id(block) in inside and _attends(block) and not any(m in start for m in block.modules()):
                raise TargetError(
                    f"{name} has no attention that goes through transformers' attention interface or takes a cache, so "
                    "that keys cannot be put before its own"
                )
        if not (layers := list(start.values())):
            raise TargetError(f"{type(sites.model).__name__} has no attention whose keys a prefix could come before")
        table = Projection(layers, self.hidden_size) if self.projection else Prefix(layers)
        relative = any(isinstance(delta, ShiftedRotation) for _, delta in shifted)
        table.counts = decoder is None and takes_positions and (relative or not shifted)
        table.shift = self.tokens if takes_positions and not shifted else 0
        yield names[parts[-1]], table
        outer = mask_reader(sites, parts[-1])
        if table.counts and outer is not parts[-1]:
            positions = TextPositions()
            positions.counts = "position_ids" in inspect.signature(outer.forward).parameters
            yield next(name for name, m in sites.modules() if m is outer), positions
        for layer, host in enumerate(start):
            yield names[host], PrefixAtLayer(table, layer, start[host])
        yield from shifted


def _dealt_back(table_PN: Tensor, layers: int) -> Tensor:
    """Return the table whose parts PEFT deals out to the layers that they are meant for; see `read_tensors`. With an
    odd number of layers each part goes to one layer; an even number gets one more, of zeros, that no layer reads.
    """
    parts = table_PN.unflatten(1, (layers, -1))
    dealt = torch.zeros_like(parts[:, :1]).repeat(1, layers + (layers % 2 == 0), 1)
    for layer in range(layers):
        dealt[:, 2 * layer % dealt.shape[1]] = parts[:, layer]
    return dealt.flatten(1)


def _has_no_table(host: nn.Module) -> bool:
    """Tell whether the attention adds a bias for the distance, and needs no positions."""
    arguments = inspect.signature(host.forward).parameters
    return has_relative_positions(host) or "alibi" in arguments or "position_bias" in arguments


def _attends(block: nn.Module) -> bool:
    return any("attention" in type(m).__name__.lower() for m in block.modules())
