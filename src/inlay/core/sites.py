"""Where deltas can go: the base model's modules by name, role and pattern.

A role is a fact about the model's structure, not about names: blocks are the elements of the outermost module lists,
the linear layers inside an attention module are `attention`, the other ones of a block are `feedforward`, and what lies
outside the base model is its head. `experts` are the modules that keep stacks of expert matrices, which belong to the
other roles too. `norms` are the normalizations with parameters, wherever they are in the base.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import TargetError, did_you_mean
from . import experts, weights
from .slot import Slot

ALL_LINEAR = "all-linear"
ROLES = (ALL_LINEAR, "attention", "feedforward", "experts", "norms")

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
    """One model's hosts. `heads` are the modules that are trained whole, and therefore no role's hosts. `part` is the
    module of the base to which everything but the heads is kept, such as the language model beside a vision tower."""

    def __init__(self, model: Any, heads: tuple[str, ...] | None = None, part: str | None = None):
        self.model = model
        self.heads = task_heads(model) if heads is None else heads
        self.part = part
        known = dict(self.modules())
        for head in self.heads:
            if head not in known:
                raise TargetError(f"head {head!r} is no module of {type(model).__name__}{did_you_mean(head, known)}")
        if part is not None and part not in known:
            raise TargetError(f"part {part!r} is no module of {type(model).__name__}{did_you_mean(part, known)}")

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module of the base by its name, without the slots and what is in them."""
        yield from _base_modules(self.model, "", set())

    def body(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the pretrained base, or of its `part`: all but the heads, a language model's among them."""
        inside = self._base()
        for name, module in self.modules():
            if id(module) in inside and not self.in_head(name) and self._in_part(name):
                yield name, module

    def changeable(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that an adapter may change: all but those of the base that lie beside its `part`."""
        beside = set() if self.part is None else self._base()
        for name, module in self.modules():
            if id(module) not in beside or self._in_part(name):
                yield name, module

    def _base(self) -> set[int]:
        base = getattr(self.model, "base_model", self.model)
        return {id(module) for _, module in _base_modules(base, "", set())} - {id(_output_embeddings(self.model))}

    def _in_part(self, name: str) -> bool:
        return self.part is None or name == self.part or name.startswith(self.part + ".")

    @property
    def config(self) -> Any:
        """The configuration of what reads the texts, or of the `part`."""
        own = self.model if self.part is None else self.model.get_submodule(self.part)
        config = getattr(own, "config", None) or self.model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    def in_head(self, name: str) -> bool:
        return any(name == head or name.startswith(head + ".") for head in self.heads)

    def head_hosts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules of the heads that own parameters, or buffers such as running averages."""
        for name, module in self.modules():
            if self.in_head(name) and (module._parameters or weights.statistics(module)):
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
        whole name; the parameters of experts have names, too. Raises TargetError if one of them selects nothing, or
        something that `hosts` turns down.
        """
        if not targets:
            raise TargetError(f"targets is empty; name modules or a role: {', '.join(ROLES)}")
        names: set[str] = set()
        for target in targets:
            names |= self._select(target, hosts)
        return [name for name, _ in self.modules() if name in names]

    def matrices(self, targets: tuple[str, ...], name: str) -> dict[str, experts.Stack]:
        """Which stacks of expert matrices, or a router's matrix, `targets` select of the module `name`."""
        own = experts.matrices(self.model.get_submodule(name))
        chosen: set[str] = set()
        for target in targets if own else ():
            names = set(self._role(target)) if target in ROLES else self._matching(target).keys()
            chosen |= own.keys() if name in names else {p for p in own if f"{name}.{p}" in names}
        return {p: stack for p, stack in own.items() if p in chosen}

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
            of_role = list(self._role(target))
            found = {name for name in of_role if hosts(self.model.get_submodule(name))}
            if not found:
                raise TargetError(self._refused_experts(target, of_role) or self._nothing(target, hosts))
            return found
        matched = self._matching(target)
        if not matched:
            raise TargetError(self._nothing(target, hosts))
        changeable = {name for name, _ in self.changeable()}
        if changeable.isdisjoint(matched.values()):
            raise TargetError(f"target {target!r} matches only {next(iter(matched))}, which lies outside {self.part}")
        matched = {name: m for name, m in matched.items() if m in changeable}
        in_head = [name for name in matched if self.in_head(name)]
        if len(in_head) == len(matched):
            raise TargetError(
                f"target {target!r} matches only {in_head[0]}, which is trained whole as the model's head already"
            )
        modules = {m: self.model.get_submodule(m) for name, m in matched.items() if name not in in_head}
        found = {name for name, m in modules.items() if hosts(m)}
        if not found:
            kinds = sorted({type(m).__name__ for m in modules.values()})
            raise TargetError(
                self._refused_experts(target, list(modules))
                or f"target {target!r} matches only {', '.join(kinds)}, which this method cannot adapt"
            )
        return found

    def _matching(self, target: str) -> dict[str, str]:
        """What `target` names, modules and single parameters of experts and routers, each with its module's name."""
        if matched := {name: m for name, m in self._named.items() if ends_with(name, target)}:
            return matched
        try:
            pattern = re.compile(target)
        except re.error as problem:
            raise TargetError(f"target {target!r} is neither a name nor a regular expression: {problem}") from None
        return {name: m for name, m in self._named.items() if pattern.fullmatch(name)}

    @cached_property
    def _named(self) -> dict[str, str]:
        modules = {name: m for name, m in self.modules() if name}
        parameters = {f"{name}.{p}": name for name, m in modules.items() for p in experts.matrices(m)}
        return parameters | {name: name for name in modules}

    def _refused_experts(self, target: str, names: list[str]) -> str | None:
        """Why not one of the modules `names`, which `target` selects, can be a host, if they are experts."""
        for name in names:
            module = self.model.get_submodule(name)
            for parameter, dtype in experts.packed(module).items():
                return (
                    f"target {target!r} selects experts whose weights are packed: {name}.{parameter} is {dtype}; load "
                    "the base in 16 or 32 bits, or choose other targets, such as attention"
                )
            if experts.expert_weights(module):
                return (
                    f"target {target!r} selects only experts, such as {name}, which keep a matrix for each expert in "
                    "one parameter; this method cannot adapt them, lora can"
                )
        return None

    def _role(self, role: str) -> Iterator[str]:
        if role == ALL_LINEAR:
            yield from (name for name, m in self.body() if weights.is_linear(m) or experts.expert_weights(m))
            return
        if role == "experts":
            yield from (name for name, m in self.body() if experts.expert_weights(m) or experts.packed(m))
            return
        if role == "norms":
            yield from (name for name, m in self.body() if is_norm(m))
            return
        for name, block in self.blocks.items():
            attention, feedforward = _split(block)
            for linear in [n for a in attention for n in a] if role == "attention" else feedforward:
                yield f"{name}.{linear}"
            yield from (f"{name}.{e}" for e, attends in _experts(block) if attends == (role == "attention"))

    def _all_blocks(self) -> list[tuple[str, nn.Module]]:
        if not self.blocks:
            raise TargetError(f"{type(self.model).__name__} has no transformer blocks that could be recognised")
        return list(self.blocks.items())

    def _last(self, block: str, linears: list[str], part: str) -> str:
        """The last of them that is as wide as the model; some models list a fused projection after it."""
        width = self.config.hidden_size
        for name in reversed(linears):
            if weights.size(self.blocks[block].get_submodule(name))[0] == width:
                return f"{block}.{name}"
        raise TargetError(f"the {part} of {block} has no linear layer with {width} outputs, where it would end")

    def _nothing(self, target: str, hosts: Callable[[nn.Module], bool]) -> str:
        there = Counter(name.rpartition(".")[2] for name, m in self.changeable() if hosts(m) and not self.in_head(name))
        near = did_you_mean(target, {*there, *ROLES} - {target})
        near = near if "did you mean" in near else ""
        listed = ", ".join(f"{name} ×{count}" for name, count in there.items()) or "none"
        return f"targets {target!r} match no module of {type(self.model).__name__}{near}; it has {listed}"


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalization with a weight, and perhaps a bias, for each feature."""
    own = list(module.parameters())
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | _NormBase):
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


def language_model(model: Any) -> str | None:
    """The module that reads the texts, by its name, where a model has other towers beside it; else None."""
    config = getattr(model, "config", None)
    texts = config.get_text_config() if hasattr(config, "get_text_config") else config
    if texts is config or not hasattr(model, "get_input_embeddings"):
        return None
    embeddings = model.get_input_embeddings()
    for name, module in _base_modules(model, "", set()):
        if type(getattr(module, "config", None)) is type(texts) and any(m is embeddings for m in module.modules()):
            return name or None
    return None


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


def _experts(block: nn.Module) -> Iterator[tuple[str, bool]]:
    """The names of a block's modules with stacks of experts, and whether each is within an attention module."""
    attention = [name for name, m in block.named_modules() if _is_attention(m)]
    for name, module in _base_modules(block, "", set()):
        if experts.expert_weights(module):
            yield name, any(name == a or name.startswith(a + ".") for a in attention)


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
