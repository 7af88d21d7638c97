"""Where deltas can go: the base model's modules by name, role and pattern.

A role is a fact about the model's structure, not about names: blocks are the elements of the outermost module lists,
the linear layers inside an attention module are `attention`, the other ones of a block are `feedforward`, and what lies
outside the base model is its head. `norms` are the normalizations with parameters, wherever they are in the base.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from ..errors import TargetError, did_you_mean
from . import weights
from .bypass import bypassed_in
from .slot import Slot

ALL_LINEAR = "all-linear"
ROLES = (ALL_LINEAR, "attention", "feedforward", "norms")

# Where the normalization comes last in a block (post-LN), by transformers' model_type: its name within the block. Any
# other architecture's block ends with the feed-forward's residual addition. tests/core/test_sites.py runs each model.
BLOCK_FINAL_NORM = {
    "albert": "albert_layers.0.full_layer_layer_norm",
    "bart": "final_layer_norm",
    "bert": "output.LayerNorm",
    "camembert": "output.LayerNorm",
    "deberta": "output.LayerNorm",
    "deberta-v2": "output.LayerNorm",
    "distilbert": "output_layer_norm",
    "electra": "output.LayerNorm",
    "mpnet": "output.LayerNorm",
    "roberta": "output.LayerNorm",
    "xlm-roberta": "output.LayerNorm",
}

# The linear layers that compute keys and values, by transformers' model_type. One layer stands for both if it computes
# queries, keys and values in one, in this order.
KEYS_VALUES = {
    **dict.fromkeys(("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta"), ("key", "value")),
    **dict.fromkeys(("bart", "gemma", "gemma2", "gemma3_text", "llama", "mbart", "mistral"), ("k_proj", "v_proj")),
    **dict.fromkeys(("opt", "phi", "qwen2", "qwen3", "smollm3", "vit"), ("k_proj", "v_proj")),
    **dict.fromkeys(("mpnet", "mt5", "t5"), ("k", "v")),
    "deberta-v2": ("key_proj", "value_proj"),
    "distilbert": ("k_lin", "v_lin"),
    "gpt2": ("c_attn",),
    "phi3": ("qkv_proj",),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    block: str | None
    """None outside all blocks."""
    role: str
    """attention, feedforward, or outside the blocks."""
    within: str
    """The module's name within its block."""


class Sites:
    """One model's hosts. `heads` are the modules that are trained whole, and therefore no role's hosts."""

    def __init__(self, model: Any, heads: tuple[str, ...] | None = None):
        self.model = model
        self.heads = task_heads(model) if heads is None else heads
        known = dict(self.modules())
        for head in self.heads:
            if head not in known:
                raise TargetError(f"head {head!r} is no module of {type(model).__name__}{did_you_mean(head, known)}")

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module of the base by its name, without the slots and what is in them."""
        yield from _base_modules(self.model, "", set())

    def body(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the pretrained base model: all but the heads, a language model's among them."""
        base = getattr(self.model, "base_model", self.model)
        inside = {id(module) for _, module in _base_modules(base, "", set())} - {id(_output_embeddings(self.model))}
        for name, module in self.modules():
            if id(module) in inside and not self.in_head(name):
                yield name, module

    @cached_property
    def bypassed(self) -> set[str]:
        """Layers that no role includes, as the code around them reads their weight without calling them."""
        return bypassed_in(self.model)

    def in_head(self, name: str) -> bool:
        return any(name == head or name.startswith(head + ".") for head in self.heads)

    def head_hosts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the heads that own parameters."""
        for name, module in self.modules():
            if self.in_head(name) and module._parameters:
                yield name, module

    @cached_property
    def blocks(self) -> dict[str, nn.Module]:
        """The transformer blocks, in order; those of the encoder before those of the decoder."""
        lists = [(name, m) for name, m in self.body() if isinstance(m, nn.ModuleList)]
        outermost = [(n, m) for n, m in lists if not any(n.startswith(other + ".") for other, _ in lists)]
        blocks = {f"{n}.{i}": block for n, m in outermost for i, block in enumerate(m)}
        return {name: block for name, block in blocks.items() if any(_is_attention(m) for m in block.modules())}

    def block_ends(self) -> Iterator[tuple[str, nn.Module]]:
        """Where each block's feed-forward has been added to its residual: the block, or its final norm (post-LN).

        A post-LN norm receives that sum as its input; any other block returns it.
        """
        config = getattr(self.model, "config", None)
        norm = BLOCK_FINAL_NORM.get(getattr(config, "model_type", ""))
        for name, block in self._all_blocks():
            if norm is None:
                yield name, block
            else:
                full = f"{name}.{norm}"
                yield full, self.model.get_submodule(full)

    def attention_ends(self) -> list[str]:
        """The output projection of each block's self-attention, which comes before any cross-attention."""
        return [self._last(name, _split(block)[0][0], "attention") for name, block in self._all_blocks()]

    def feedforwards(self) -> list[tuple[str, str]]:
        """Of each block's feed-forward the first linear layer that reads its input and the one that gives its output.

        Raises TargetError for experts: which of them run differs from token to token.
        """
        pairs = []
        for name, block in self._all_blocks():
            if any(word in type(m).__name__.lower() for m in block.modules() for word in ("expert", "moe", "sparse")):
                raise TargetError(f"the feed-forward of {name} is made of experts; name its layers as targets instead")
            linears = _split(block)[1]
            last = self._last(name, linears, "feed-forward")
            pairs.append((f"{name}.{linears[0]}", last))
        return pairs

    def keys_values(self) -> dict[str, int]:
        """The linear layers that compute keys or values, each with the first of its outputs that is one.

        Raises TargetError for an architecture that is not in KEYS_VALUES.
        """
        config = getattr(self.model, "config", None)
        kind = getattr(config, "model_type", type(self.model).__name__)
        if kind not in KEYS_VALUES:
            raise TargetError(f"which layers of {kind} compute keys and values is not known here; name them as targets")
        ends = KEYS_VALUES[kind]
        names = [n for n in self._role("attention") if any(ends_with(n, end) for end in ends)]
        if len(ends) > 1:
            return dict.fromkeys(names, 0)
        assert config is not None
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        both = 2 * head * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        return {name: weights.size(self.model.get_submodule(name))[0] - both for name in names}

    def find(self, targets: tuple[str, ...], hosts: Callable[[nn.Module], bool] = weights.is_linear) -> list[str]:
        """Names, in the model's order, of the hosts that `targets` select.

        A target is a role, the end of a dotted name (`q_proj`, `layers.0.mlp.up_proj`) or a regular expression for the
        whole name. Raises TargetError if one of them selects nothing, or something that `hosts` turns down.
        """
        if not targets:
            raise TargetError(f"targets is empty; name modules or a role: {', '.join(ROLES)}")
        names: set[str] = set()
        for target in targets:
            names |= self._select(target, hosts)
        return [name for name, _ in self.modules() if name in names]

    def place(self, name: str) -> "Place":
        """Where the module `name` is: its block, its role and what it is called in there."""
        block = next((b for b in self.blocks if name.startswith(b + ".")), None)
        if block is None:
            return Place(block=None, role="outside", within=name)
        within = name.removeprefix(block + ".")
        in_attention = any(within in linears for linears in _split(self.blocks[block])[0])
        return Place(block=block, role="attention" if in_attention else "feedforward", within=within)

    def _select(self, target: str, hosts: Callable[[nn.Module], bool]) -> set[str]:
        if target in ROLES:
            found = {n for n in self._role(target) if hosts(self.model.get_submodule(n)) and n not in self.bypassed}
            if not found:
                raise TargetError(self._nothing(target, hosts))
            return found
        matched = {name: m for name, m in self.modules() if name and ends_with(name, target)}
        if not matched:
            try:
                pattern = re.compile(target)
            except re.error as problem:
                raise TargetError(f"target {target!r} is neither a name nor a regular expression: {problem}") from None
            matched = {name: m for name, m in self.modules() if name and pattern.fullmatch(name)}
        if not matched:
            raise TargetError(self._nothing(target, hosts))
        in_head = [name for name in matched if self.in_head(name)]
        if len(in_head) == len(matched):
            raise TargetError(
                f"target {target!r} matches only {in_head[0]}, which is trained whole as the model's head already"
            )
        matched = {name: m for name, m in matched.items() if name not in in_head}
        found = {name for name, m in matched.items() if hosts(m)}
        if past := sorted(found & self.bypassed):
            raise TargetError(
                f"target {target!r} names {past[0]}, whose weight the model uses without calling the layer, so that an "
                "adapter there would do nothing; leave it out"
            )
        if not found:
            kinds = sorted({type(m).__name__ for m in matched.values()})
            raise TargetError(f"target {target!r} matches only {', '.join(kinds)}, which this method cannot adapt")
        return found

    def _role(self, role: str) -> Iterator[str]:
        if role == ALL_LINEAR:
            yield from (name for name, m in self.body() if weights.is_linear(m))
            return
        if role == "norms":
            yield from (name for name, m in self.body() if is_norm(m))
            return
        for name, block in self.blocks.items():
            attention, feedforward = _split(block)
            for linear in [n for a in attention for n in a] if role == "attention" else feedforward:
                yield f"{name}.{linear}"

    def _all_blocks(self) -> list[tuple[str, nn.Module]]:
        if not self.blocks:
            raise TargetError(f"{type(self.model).__name__} has no transformer blocks that could be recognised")
        return list(self.blocks.items())

    def _last(self, block: str, linears: list[str], part: str) -> str:
        """The last of them that is as wide as the model; some models list a fused projection after it."""
        width = self.model.config.hidden_size
        for name in reversed(linears):
            if weights.size(self.blocks[block].get_submodule(name))[0] == width:
                return f"{block}.{name}"
        raise TargetError(f"the {part} of {block} has no linear layer with {width} outputs, where it would end")

    def _nothing(self, target: str, hosts: Callable[[nn.Module], bool]) -> str:
        there = Counter(name.rpartition(".")[2] for name, m in self.modules() if hosts(m) and not self.in_head(name))
        near = did_you_mean(target, {*there, *ROLES} - {target})
        near = near if "did you mean" in near else ""
        listed = ", ".join(f"{name} ×{count}" for name, count in there.items()) or "none"
        return f"targets {target!r} match no module of {type(self.model).__name__}{near}; it has {listed}"


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalization with a weight, and perhaps a bias, for each feature."""
    own = list(module.parameters())
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return bool(own)
    return type(module).__name__.endswith("Norm") and bool(own) and all(p.ndim == 1 for p in own)


def ends_with(name: str, suffix: str) -> bool:
    """Whether `suffix` is a dotted end of `name`, as Hugging Face PEFT matches a list of target_modules."""
    return name == suffix or name.endswith("." + suffix)


def shortest_suffixes(model: nn.Module, hosts: list[str]) -> list[str] | str:
    """The shortest dotted ends that select exactly `hosts` among the modules of `model`.

    A pattern of all the names instead, if a whole name is the end of another one: `head` where there is `value.head`.
    """
    wanted = set(hosts)
    others = [name for name, _ in _base_modules(model, "", set()) if name not in wanted]
    suffixes: list[str] = []
    for host in hosts:
        if any(ends_with(host, suffix) for suffix in suffixes):
            continue
        parts = host.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        suffix = next((e for e in ends if not any(ends_with(o, e) for o in others)), None)
        if suffix is None:
            return "|".join(re.escape(host) for host in hosts)
        suffixes.append(suffix)
    return suffixes


def task_heads(model: nn.Module) -> tuple[str, ...]:
    """The modules outside the pretrained base model that own parameters, unless they make it a language model.

    A language model's head is pretrained too; a classifier's is new, so every adapter trains and saves it.
    """
    base = getattr(model, "base_model", model)
    if base is model or _output_embeddings(model) is not None:
        return ()
    return tuple(
        name
        for name, child in model.named_children()
        if child is not base and not isinstance(child, Slot) and next(child.parameters(), None) is not None
    )


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    return None if get is None else get()


def _split(block: nn.Module) -> tuple[list[list[str]], list[str]]:
    """The names of a block's linear layers: those of each of its attention modules, and the others."""
    found = [name for name, m in block.named_modules() if _is_attention(m)]
    outermost = [a for a in found if not any(a.startswith(other + ".") for other in found)]
    attention: dict[str, list[str]] = {a: [] for a in outermost}
    feedforward: list[str] = []
    for name, module in _base_modules(block, "", set()):
        if weights.is_linear(module):
            inside = next((a for a in outermost if name == a or name.startswith(a + ".")), None)
            (feedforward if inside is None else attention[inside]).append(name)
    return list(attention.values()), feedforward


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _base_modules(module: nn.Module, prefix: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen or isinstance(module, Slot):
        return
    seen.add(id(module))
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _base_modules(child, f"{prefix}.{name}" if prefix else name, seen)
