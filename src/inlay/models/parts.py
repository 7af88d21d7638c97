"""What a block is made of: attention, what mixes tokens in other ways, and what works on each token alone.

An attention module says so by its class's name. A mixer keeps a state or a window of its own: beside its linear layers
it has parameters that belong to no layer, or a convolution over time. The rest is the feed-forward, which may be a
mixture of experts: parameters of three dimensions, or a list of like modules and a router with an output for each.

Names are those within the block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from . import experts as experts_
from . import weights
from .modules import Guest, base_modules, is_attention, joined, normalizes, parameter_count, within


@dataclass(frozen=True)
class Feedforward:
    """One feed-forward: the first layer that reads its input, and the one that gives its output.

    A mixture of experts has no such layers: there both are the module that is the whole feed-forward, and None if it
    is no module of its own.
    """

    start: str
    end: str | None
    width: int | None
    parameters: int

    @property
    def is_mixture(self) -> bool:
        return self.start == self.end or self.end is None


@dataclass(frozen=True)
class Parts:
    """What a block is made of: its layers by what they do, by their names within it."""

    attention: list[list[str]]
    """The linear layers of each attention module."""
    mixers: list[list[str]]
    feedforward: list[str]
    """All other linear layers, but for the routers."""
    feedforwards: list[Feedforward]
    routers: list[str]
    experts: list[str]
    """The modules that hold stacks of expert matrices or a list of experts."""
    roots: dict[str, str]
    """The role of each module that is no part of a feed-forward."""

    @property
    def leads_back(self) -> bool:
        """Whether it has what a residual can be added to, or no linear layers by which that could be told."""
        return bool(self.attention or self.mixers or self.feedforwards or not self.feedforward)

    def role(self, name: str) -> str:
        return next((role for root, role in self.roots.items() if root == "" or within(name, [root])), "feedforward")


def parts(block: nn.Module) -> Parts:
    modules = dict(base_modules(block))
    attention = list(_attention(block, ""))
    mixers = list(_mixers(block, "", attention))
    experts = {n: count for n, count in expert_modules(block).items() if not within(n, mixers)}
    routers = [n for n in routers_of(block, experts) if not within(n, mixers)]
    linears = [n for n, m in modules.items() if weights.is_linear(m) and n not in routers]

    def rest() -> list[str]:
        return [n for n in linears if not within(n, [*attention, *mixers])]

    own = {n: count for n, count in experts.items() if not within(n, attention)}
    if not attention and not mixers:
        if is_attention(block) and not own and not _roots(modules, linears):
            return Parts([linears], [], [], [], routers, [], {"": "attention"})
        mixers = _by_size(block)
    if attention and mixers and not rest() and not own:
        mixers.pop()  # what mixes each token with its neighbour, after an attention: the feed-forward
    inside = [[[n for n in linears if within(n, [root])] for root in roots] for roots in (attention, mixers)]
    return Parts(
        attention=[some for some in inside[0] if some],
        mixers=[some for some in inside[1] if some],
        feedforward=rest(),
        feedforwards=_feedforwards(modules, rest(), own, routers),
        routers=routers,
        experts=list(experts),
        roots=dict.fromkeys(attention, "attention") | dict.fromkeys(mixers, "mixer"),
    )


def expert_modules(module: nn.Module) -> dict[str, int]:
    """Find the modules in it that hold experts, and how many each: in parameters of its own, or in a list."""
    found: dict[str, int] = {}
    for name, m in base_modules(module):
        if own := experts_.expert_weights(m):
            found[name] = next(iter(own.values())).experts or 0
        elif any(experts_.packed(m)):
            found[name] = 0
        elif isinstance(m, nn.ModuleList | nn.ModuleDict) and (count := _count_alike(m)) > 1:
            holder, _, own_name = name.rpartition(".")
            beside = base_modules(module.get_submodule(holder))
            if any(_counts(router, count) for n, router in beside if not within(n, [own_name])):
                found[name] = count
    return found


def routers_of(module: nn.Module, experts: dict[str, int]) -> list[str]:
    """Find the linear layers in it that give a number for each of the experts beside them."""
    found = []
    for name, m in base_modules(module):
        if weights.is_linear(m) and not within(name, experts):
            beside = [count for e, count in experts.items() if _near(name, e)]
            if weights.size(m)[0] in beside:
                found.append(name)
    return found


def _near(name: str, experts: str) -> bool:
    """Tell whether the layer is in the module that holds the experts; if that is a whole block, it or its child's
    child.
    """
    holder = experts.rpartition(".")[0]
    return name.startswith(holder + ".") if holder else name.count(".") <= 1


def _count_alike(modules: nn.Module) -> int:
    """Count the modules of a list that is all of one kind, with linear layers and without norms; else 0."""
    children = [child for child in modules.children() if parameter_count(child)]
    plain = all(
        any(weights.is_linear(m) for _, m in base_modules(child)) and not any(normalizes(m) for m in child.modules())
        for child in children
    )
    return len(children) if plain and len({type(child) for child in children}) == 1 else 0


def _counts(module: nn.Module, experts: int) -> bool:
    if weights.is_linear(module):
        return weights.size(module)[0] == experts
    return any(p is not None and p.ndim == 2 and len(p) == experts for p in module._parameters.values())


def _attention(module: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the outermost attention modules below; one that holds other layers beside an attention is no attention
    itself.
    """
    for name, child in _children(module):
        full = joined(prefix, name)
        if is_attention(child):
            inner = [n for n, m in base_modules(child) if n and is_attention(m)]
            beside = [n for n, m in base_modules(child) if weights.is_linear(m) and not within(n, inner)]
            if not inner or len(beside) < 2:
                yield full
                continue
        yield from _attention(child, full)


def _mixers(module: nn.Module, prefix: str, attention: list[str]) -> Iterator[str]:
    for name, child in _children(module):
        full = joined(prefix, name)
        if full in attention:
            continue
        if _keeps_a_state(child):
            yield full
        elif not expert_modules(child):
            yield from _mixers(child, full, attention)


def _keeps_a_state(module: nn.Module) -> bool:
    children = [m for _, m in _children(module)]
    if weights.is_linear(module) or not any(weights.is_linear(m) for m in children):
        return False
    own = any(p is not None and p.ndim <= 2 and p.is_floating_point() for p in module._parameters.values())
    return own or any(isinstance(m, nn.Conv1d) for m in children)


def _by_size(block: nn.Module) -> list[str]:
    """Return a module of many linear layers before others, where nothing else says what mixes tokens."""
    several = [
        (name, sum(weights.is_linear(m) for _, m in _children(child)))
        for name, child in _children(block)
        if sum(weights.is_linear(m) for _, m in base_modules(child)) > 1
    ]
    return [name for name, count in several[:-1] if count > 3]


def _feedforwards(
    modules: dict[str, nn.Module], linears: list[str], experts: dict[str, int], routers: list[str]
) -> list[Feedforward]:
    """Find those of the block's main width and size; other pairs of layers, such as a low-rank side path, are none."""
    claimed: list[str] = []
    found: list[Feedforward] = []
    for root in dict.fromkeys(_whole(modules, name) for name in experts):
        beside = [n for n in linears if not within(n, [root])]
        apart = root in experts or _closed(modules, beside)  # experts beside a feed-forward that others are added to
        width = _width_of_router(modules, experts, routers)
        found.append(Feedforward(root, None if apart else root, width, parameter_count(modules[root])))
        claimed += linears if apart else [n for n in linears if within(n, [root])]
    for root in _roots(modules, [n for n in linears if n not in claimed]):
        inside = [n for n in linears if within(n, [root])]
        claimed += inside
        found.append(_dense(modules, inside))
    left = [n for n in linears if n not in claimed]
    if _closed(modules, left):
        found.append(_dense(modules, left))
    largest = max((f.parameters for f in found), default=0)
    return [f for f in found if 2 * f.parameters >= largest]


def _roots(modules: dict[str, nn.Module], linears: list[str]) -> list[str]:
    """Find the outermost modules whose linear layers lead from a width back to it."""
    found: list[str] = []
    for name, module in modules.items():
        if name and not within(name, found) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            if _closed(modules, [n for n in linears if n.startswith(name + ".")]) and not _several(
                modules, linears, name
            ):
                found.append(name)
    return found


def _several(modules: dict[str, nn.Module], linears: list[str], name: str) -> bool:
    """Tell whether more than one of its children leads back to the width it starts from."""
    children = {n.removeprefix(name + ".").partition(".")[0] for n in linears if n.startswith(name + ".")}
    return sum(_closed(modules, [n for n in linears if n.startswith(f"{name}.{c}.")]) for c in children) > 1


def _closed(modules: dict[str, nn.Module], linears: list[str]) -> bool:
    width = weights.size(modules[linears[0]])[1] if linears else None
    return any(weights.size(modules[n])[0] == width for n in linears[1:])


def _dense(modules: dict[str, nn.Module], linears: list[str]) -> Feedforward:
    width = weights.size(modules[linears[0]])[1]
    end = next(n for n in reversed(linears) if weights.size(modules[n])[0] == width)
    return Feedforward(linears[0], end, width, sum(parameter_count(modules[n]) for n in linears))


def _whole(modules: dict[str, nn.Module], experts: str) -> str:
    """Find the outermost module around the experts, but for one that only puts a norm and a residual around it."""
    root = experts
    while (holder := root.rpartition(".")[0]) and not isinstance(modules[holder], nn.ModuleList):
        others = [m for _, m in _children(modules[holder]) if m is not modules[root] and parameter_count(m)]
        if others and all(normalizes(m) for m in others):
            break
        root = holder
    return root


def _width_of_router(modules: dict[str, nn.Module], experts: dict[str, int], routers: list[str]) -> int | None:
    counts = set(experts.values())
    own = [p for n, m in modules.items() if n not in experts for p in m._parameters.values() if p is not None]
    tables = [p.shape[1] for p in own if p.ndim == 2 and len(p) in counts]
    return next((weights.size(modules[n])[1] for n in routers), next(iter(tables), None))


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from ((n, m) for n, m in module._modules.items() if m is not None and not isinstance(m, Guest))
