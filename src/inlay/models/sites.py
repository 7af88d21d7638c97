"""Where deltas can go: the base model's modules by name, role and pattern.

A role is a fact about the model's structure, not about names: blocks are the elements of the outermost lists of like
layers, the linear layers inside an attention module are `attention`, those inside another part that mixes tokens, such
as a state space or a convolution over time, are `mixer`, the other ones of a block are `feedforward`, and what lies
outside the base model is its head. `experts` are the modules that keep stacks of expert matrices, which belong to the
other roles too. `norms` are the normalizations with parameters, wherever they are in the base. The routers of mixtures
of experts belong to no role.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from .. import expressions
from ..errors import TargetError, did_you_mean, nearest_name
from ..names import followed
from . import experts, weights
from .block_end import UNKNOWN, final_norm
from .blocks import stacks
from .bypass import bypassed_in
from .heads import output_embeddings, task_heads
from .language_model import texts_config
from .modules import base_modules, is_norm, within
from .names import ends_with as ends_with
from .names import shortest_suffixes as shortest_suffixes
from .parts import Parts, expert_modules, parts
from .source import gives_several, used_last

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ALL_LINEAR = "all-linear"
ROLES = (ALL_LINEAR, "attention", "mixer", "feedforward", "experts", "norms")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of a module in its model."""

    block: str | None
    """None outside all blocks."""
    role: str
    """attention, mixer, feedforward, or outside the blocks."""
    within: str
    """The module's name within its block."""


class Sites:
    """One model's hosts. `heads` are the modules that are trained whole, and therefore no role's hosts. `part` is the
    module of the base to which everything but the heads is kept, such as the language model beside a vision tower."""

    def __init__(self, model: nn.Module, heads: tuple[str, ...] | None = None, part: str | None = None):
        self.model = model
        self.heads = task_heads(model) if heads is None else heads
        self.part = part
        known = self._by_name
        for head in self.heads:
            if head not in known:
                raise TargetError(f"head {head!r} is no module of {type(model).__name__}{did_you_mean(head, known)}")
        if part is not None and part not in known:
            raise TargetError(f"part {part!r} is no module of {type(model).__name__}{did_you_mean(part, known)}")

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield every module of the base by its name, without guests and what is in them."""
        yield from self._modules

    @cached_property
    def _modules(self) -> tuple[tuple[str, nn.Module], ...]:
        return tuple(base_modules(self.model))

    @cached_property
    def _by_name(self) -> dict[str, nn.Module]:
        return dict(self._modules)

    def module(self, name: str) -> nn.Module:
        """Look a module up by its name, which may also be a second name of a shared one."""
        found = self._by_name.get(name)
        return self.model.get_submodule(name) if found is None else found

    def body(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules of the pretrained base, or of its `part`: all but the heads, a language model's among
        them.
        """
        yield from self._body

    @cached_property
    def _body(self) -> tuple[tuple[str, nn.Module], ...]:
        inside = self._base()
        return tuple(
            (name, module)
            for name, module in self.modules()
            if id(module) in inside and not self.in_head(name) and self._in_part(name)
        )

    def changeable(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules that an adapter may change: all but those of the base that lie beside its `part`."""
        beside = set() if self.part is None else self._base()
        for name, module in self.modules():
            if id(module) not in beside or self._in_part(name):
                yield name, module

    def _base(self) -> set[int]:
        base = getattr(self.model, "base_model", self.model)
        return {id(module) for _, module in base_modules(base)} - {id(output_embeddings(self.model))}

    def _in_part(self, name: str) -> bool:
        return self.part is None or name == self.part or name.startswith(self.part + ".")

    @property
    def config(self) -> "PreTrainedConfig | None":
        """The configuration of what reads the texts, or of the `part`."""
        own = self.model if self.part is None else self.module(self.part)
        return texts_config(getattr(own, "config", None) or getattr(self.model, "config", None))

    def config_of(self, name: str) -> "PreTrainedConfig | None":
        """Find the configuration of the innermost model that the module is in; None if there is none."""
        while name:
            name = name.rpartition(".")[0]
            config = getattr(self.module(name), "config", None)
            if hasattr(config, "model_type"):
                return config if name else texts_config(config)
        return None

    @cached_property
    def bypassed(self) -> set[str]:
        """Layers that no role includes, as the code around them reads their weight without calling them."""
        return bypassed_in(self.model)

    def in_head(self, name: str) -> bool:
        """Tell whether the module is a head, or within one."""
        return within(name, self.heads) or ("" in self.heads and name in self.model._parameters)

    def head_hosts(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules of the heads that own parameters, or buffers such as running averages."""
        for name, module in self.modules():
            if self.in_head(name) and (module._parameters or weights.statistics(module)):
                yield name, module

    @cached_property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks, in order; those of the encoder before those of the decoder."""
        return {name: block for stack in self.stacks.values() for name, block in stack.items()}

    @cached_property
    def stacks(self) -> dict[str, dict[str, nn.Module]]:
        """The blocks of each list of them, by the list's name."""
        return stacks(list(self.body()))

    @cached_property
    def parts(self) -> dict[str, Parts]:
        """What each block is made of."""
        return {name: parts(block) for name, block in self.blocks.items()}

    @cached_property
    def routers(self) -> frozenset[str]:
        """The linear layers that choose among experts."""
        if not any(expert_modules(block) for block in self.blocks.values()):
            return frozenset()
        return frozenset(f"{name}.{router}" for name, own in self.parts.items() for router in own.routers)

    def width(self, block: str) -> int:
        """Return the number of features that the block reads and gives.

        Raises TargetError if that is not to be seen in its layers.
        """
        own = self.parts[block]
        found = {f.width for f in own.feedforwards if f.width is not None}
        if not found:
            first = [self._size(block, linears[0])[1] for linears in (*own.attention, *own.mixers) if linears]
            found = set(first[:1])
        if len(found) != 1:
            raise TargetError(f"how many features {block} reads and gives cannot be seen in its layers")
        return found.pop()

    def block_ends(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield where each block's feed-forward has been added to its residual: the block, or its final norm (post-LN).

        A post-LN norm receives that sum as its input; any other block returns it. Raises TargetError if the source of a
        block does not tell which it is.
        """
        for name, block in self._all_blocks():
            norm = final_norm(block)
            if any(isinstance(m, nn.Conv2d) for m in block.children()):
                raise TargetError(f"{name}, a {type(block).__name__}, gives planes of features, not features of tokens")
            if norm == UNKNOWN:
                raise TargetError(f"where {name}, a {type(block).__name__}, adds to its residual is not known")
            yield (name, block) if norm is None else (f"{name}.{norm}", self.module(f"{name}.{norm}"))

    def sublayer_ends(self) -> list[tuple[str, str]]:
        """Return each block's name with where its sub-layers end, before the residual is added: the output projection
        of its self-attention, which comes before any cross-attention, or else of its other mixer; then those of
        feed-forwards.
        """
        ends, known = [], self._names()
        for name, _ in self._all_blocks():
            own = self.parts[name]
            first = next(iter(own.attention or own.mixers), None)
            if first is not None:
                ends.append((name, self._last(name, first)))
        ends += [(block, end) for block, _, end in self.feedforwards()]
        return [(block, end) for block, end in ends if end in known]

    def mixer_inputs(self) -> Iterator[str]:
        """Yield the linear layers of mixers but for the one that gives the output: what feeds or reads their state."""
        for name, own in self.parts.items():
            for linears in own.mixers:
                try:
                    last = self._last(name, linears)
                except TargetError:
                    last = None
                yield from (f"{name}.{linear}" for linear in linears if f"{name}.{linear}" != last)

    def feedforwards(self) -> list[tuple[str, str, str]]:
        """List of each feed-forward its block, the first linear layer that reads its input and the one that gives its
        output; for a mixture of experts both are the module that is the whole of it. A block without any has none.

        Raises TargetError if a block has one whose ends cannot be told.
        """
        known = self._names()
        return [f for name, _ in self._all_blocks() for f in self._feedforwards(name) if f[2] in known]

    def feedforward_ends(self) -> Iterator[str]:
        """Yield the linear layers that give the output of a feed-forward that is no mixture of experts."""
        known = self._names()
        for name, own in self.parts.items():
            ends = (f"{name}.{found.end}" for found in own.feedforwards if not found.is_mixture)
            yield from (end for end in ends if end in known)

    def _feedforwards(self, block: str) -> Iterator[tuple[str, str, str]]:
        own = self.parts[block]
        if len({f.width for f in own.feedforwards}) > 1 or (own.feedforward and not own.feedforwards):
            raise TargetError(f"where the feed-forward of {block} begins and ends cannot be seen in its layers")
        for found in own.feedforwards:
            if found.end is None:
                raise TargetError(
                    f"the feed-forward of {block} is a dense one and experts beside it, no module of its own"
                )
            yield block, f"{block}.{found.start}", f"{block}.{found.end}"

    def find(self, targets: tuple[str, ...], hosts: Callable[[nn.Module], bool] = weights.is_linear) -> list[str]:
        """Return names, in the model's order, of the hosts that `targets` select.

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
        """Name the stacks of expert matrices, or the router's matrix, that `targets` select of the module `name`."""
        own = experts.matrices(self.module(name))
        chosen: set[str] = set()
        for target in targets if own else ():
            names = set(self._role(target)) if target in ROLES else self._matching(target).keys()
            chosen |= own.keys() if name in names else {p for p in own if f"{name}.{p}" in names}
        return {p: stack for p, stack in own.items() if p in chosen}

    def place(self, name: str) -> "Place":
        """Tell where the module `name` is: its block, its role and what it is called in there."""
        block = next((b for b in self.blocks if name.startswith(b + ".")), None)
        if block is None:
            return Place(block=None, role="outside", within=name)
        inner = name.removeprefix(block + ".")
        return Place(block=block, role=self.parts[block].role(inner), within=inner)

    def _select(self, target: str, hosts: Callable[[nn.Module], bool]) -> set[str]:
        if target in ROLES:
            of_role = list(self._role(target))
            found = {name for name in of_role if hosts(self.module(name)) and name not in self.bypassed}
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
        modules = {m: self.module(m) for name, m in matched.items() if name not in in_head}
        found = {name for name, m in modules.items() if hosts(m)}
        if past := sorted(found & self.bypassed):
            raise TargetError(
                f"target {target!r} names {past[0]}, whose weight the model uses without calling the layer, so that an "
                "adapter there would do nothing; leave it out"
            )
        if several := sorted(name for name in found if gives_several(modules[name])):
            raise TargetError(
                f"target {target!r} names {several[0]}, which gives more than one tensor, as a router does, so that an "
                "adapter has no output to change there; leave it out"
            )
        if not found:
            kinds = sorted({type(m).__name__ for m in modules.values()})
            raise TargetError(
                self._refused_experts(target, list(modules))
                or f"target {target!r} matches only {', '.join(kinds)}, which this method cannot adapt"
            )
        return found

    def _matching(self, target: str) -> dict[str, str]:
        """Find what `target` names: modules, and single parameters of experts and routers, each with its module."""
        if matched := {name: m for name, m in self._named.items() if ends_with(name, target)}:
            return matched
        expressions.check(target, "no module has the name")
        return {name: m for name, m in self._named.items() if expressions.fits(target, name)}

    @cached_property
    def _named(self) -> dict[str, str]:
        modules = {name: m for name, m in self.modules() if name}
        parameters = {f"{name}.{p}": name for name, m in modules.items() for p in experts.matrices(m)}
        return parameters | {name: name for name in modules}

    def _refused_experts(self, target: str, names: list[str]) -> str | None:
        """Say why none of the modules `names`, which `target` selects, can be a host, if they are experts."""
        for name in names:
            module = self.module(name)
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
            found = (name for name, m in self.body() if weights.is_linear(m) or experts.expert_weights(m))
            yield from (name for name in found if name not in self.routers)
            return
        if role == "experts":
            yield from (name for name, m in self.body() if experts.expert_weights(m) or experts.packed(m))
            return
        if role == "norms":
            yield from (name for name, m in self.body() if is_norm(m))
            return
        for name, own in self.parts.items():
            groups = {"attention": own.attention, "mixer": own.mixers}.get(role, [own.feedforward])
            yield from (f"{name}.{linear}" for linears in groups for linear in linears)
            yield from (f"{name}.{e}" for e in own.experts if own.role(e) == role)

    def _all_blocks(self) -> list[tuple[str, nn.Module]]:
        if not self.blocks:
            raise TargetError(f"{type(self.model).__name__} has no transformer blocks that could be recognised")
        return list(self.blocks.items())

    def _last(self, block: str, linears: list[str]) -> str:
        """Return the last of them that is as wide as the model; some models list a fused projection after it, and some
        list first what they use last.
        """
        width = self.width(block)
        fitting = [n for n in linears if self._size(block, n)[0] == width and f"{block}.{n}" not in self.bypassed]
        if fitting:
            return f"{block}.{used_last(self.blocks[block], fitting)}"
        raise TargetError(f"the attention of {block} has no linear layer with {width} outputs, where it would end")

    def _size(self, block: str, name: str) -> tuple[int, int]:
        return weights.size(self.blocks[block].get_submodule(name))

    def _names(self) -> set[str]:
        """Name the modules; one that several blocks share by its first name only."""
        return {name for name, _ in self.modules()}

    def _nothing(self, target: str, hosts: Callable[[nn.Module], bool]) -> str:
        there = Counter(name.rpartition(".")[2] for name, m in self.changeable() if hosts(m) and not self.in_head(name))
        near = nearest_name(target, {*there, *ROLES} - {target})
        listed = ", ".join(f"{name} ×{count}" for name, count in there.items()) or "none"
        return followed(f"targets {target!r} match no module of {type(self.model).__name__}{near}", f"it has {listed}")
