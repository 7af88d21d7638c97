"""Every two methods in one model: together in both orders, one merged beside the other, and by rows of a batch.

Of several adapters the last is the innermost: the others see what it has made of a layer's output. What changes a
layer's input does so for all of them, what replaces a tensor comes before all, and DoRA's lengths are those of the base
with its own change. Two changes of weights are composed by hand so; else one adapter is written into the model by hand
(tests/by_hand.py) and the other attached alone. What cannot be had is refused with a sentence.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import inlay
from inlay.attached.replacement import Replacement
from inlay.core.delta import WeightDelta
from inlay.errors import InlayError
from inlay.methods.additive.scaling import ScaleOutput
from inlay.methods.reparameterized.decomposed import Decomposed
from inlay.models import weights

from .by_hand import ByHand
from .shapes import SHAPES, Shape, disturb, logits, method

METHODS = [name for name in inlay.METHODS if name != "full"]  # which stays alone
PAIRS = list(itertools.combinations_with_replacement(METHODS, 2))
# In CI one method of each way to work: an output that is edited, an input too, lengths of rows, parameters that are
# replaced, entries of a weight, a scale, and what is no change of weights.
FEW = ("lora", "dora", "oft", "norm", "last-layers", "sparse", "ia3", "parallel", "pfeiffer", "prompt", "prefix")

BIASES = {("bert", ("bitfit", "dora")), ("bert", ("ia3", "dora"))}  # DoRA scales all of an output but the bias


def _cases() -> Iterator[Any]:
    for shape in ("llama", "bert"):
        for i, pair in enumerate(PAIRS):
            quick = set(pair) <= set(FEW) and (i + (shape == "bert")) % 2 == 0 or (shape, pair) in BIASES
            yield pytest.param(
                SHAPES[shape].shallow, pair, id=f"{shape}-{'-'.join(pair)}", marks=() if quick else pytest.mark.slow
            )


every_pair = pytest.mark.parametrize(("shape", "pair"), list(_cases()))


def built(shape: Shape) -> Any:
    return shape.model().requires_grad_(False)


def attached(shape: Shape, model: Any, name: str, adapter_name: str, scale: float) -> inlay.Adapter:
    adapter = inlay.attach(model, method(name, shape), adapter_name, heads=())
    disturb(adapter, scale)
    return adapter


def both(shape: Shape, pair: tuple[str, str]) -> tuple[Any, dict[str, inlay.Adapter]]:
    model = built(shape)
    return model, {"a": attached(shape, model, pair[0], "a", 0.1), "b": attached(shape, model, pair[1], "b", 0.15)}


def output(model: Any, shape: Shape, *names: str) -> Tensor:
    with torch.no_grad(), inlay.using(model, *names):
        return logits(model, shape)


def tried(action: Callable[[], Any]) -> Any:
    """What the action gives, or the sentence with which it is refused."""
    try:
        return action()
    except InlayError as refusal:
        said = str(refusal)
    if len(said) < 40:
        pytest.fail(f"{said!r} is no sentence")
    return said


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def by_hand(shape: Shape, outer: inlay.Adapter, inner: inlay.Adapter) -> Tensor | None:
    """What they compute together; None if neither can be written by hand."""
    transformer = "model" if shape.name == "llama" else "bert"  # where a prefix only keeps its table
    if all(isinstance(d, WeightDelta) for adapter in (outer, inner) for d in adapter.deltas.values()):
        return _composed(shape, outer, inner)
    first = any(map(edits_inputs, inner.deltas.values())) or any(replaces_before(outer, inner))
    if first and ByHand.can(outer):  # the other one sees it, too
        outer, inner = inner, outer
    if not ByHand.can(inner):  # where no host is shared, either may be the inner one
        shared = outer.deltas.keys() & inner.deltas.keys() - {transformer}
        if not ByHand.can(outer) or shared:
            return _two_prefixes(shape, outer, inner)
        outer, inner = inner, outer
    model = built(shape)
    plain = ByHand(model, inner)
    plain.write()
    if outer.method.name == "prefix":  # it reads the call as a prompt has left it
        plain.register()
    again = inlay.attach(model, outer.method, "outer", heads=())
    again.load_state_dict(outer.state_dict())
    plain.close()
    with torch.no_grad():
        return logits(model, shape)


def _composed(shape: Shape, outer: inlay.Adapter, inner: inlay.Adapter) -> Tensor:
    """The model with parameters that both changes of weights have gone into."""
    model = built(shape)
    for host_name in inner.deltas | outer.deltas:
        host = model.get_submodule(host_name)
        deltas: list[Any] = [a.deltas[host_name] for a in (inner, outer) if host_name in a.deltas]
        deltas.sort(key=lambda d: not isinstance(d, Replacement))
        base: dict[str, Tensor] = {}
        now: dict[str, Tensor] = {}
        factors = []
        for delta in deltas:
            for name, p in weights.read(host, delta.folds).items():
                base.setdefault(name, p)
                now.setdefault(name, p)
            if edits_inputs(delta):
                width = now["weight"].shape[1]
                factors.insert(0, delta.fold({"weight": torch.eye(width)})["weight"])
            elif isinstance(delta, Replacement):
                now |= delta.fold(now)
                base = dict(now)
            elif isinstance(delta, ScaleOutput):
                now |= delta.fold(now)
            else:
                now |= _added(delta, base, now)
        for factor in reversed(factors):
            now["weight"] = now["weight"] @ factor
        for name, p in now.items():
            p = p.T if name == "weight" and weights.is_flipped(host) else p
            setattr(host, name, torch.nn.Parameter(p.detach().clone(), requires_grad=False))
    with torch.no_grad():
        return logits(model, shape)


def _added(delta: Any, base: dict[str, Tensor], now: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an additive change, or DoRA's, makes of the weight as it is `now`."""
    folded = delta.fold(base)["weight"]
    if not isinstance(delta, Decomposed):
        return {"weight": now["weight"] + folded - base["weight"]}
    a_RI, b_OR = delta.matrices()
    lengths_O = (base["weight"] + delta.scale * b_OR @ a_RI).norm(dim=1)
    share_O = delta.lora_magnitude_vector / lengths_O
    return {"weight": folded + share_O[:, None] * (now["weight"] - base["weight"])}


def edits_inputs(delta: Any) -> bool:
    return isinstance(delta, WeightDelta) and type(delta).edit_input is not WeightDelta.edit_input


def replaces_before(outer: inlay.Adapter, inner: inlay.Adapter) -> Iterator[bool]:
    """Whether, at each host of both, the outer one alone replaces a tensor, which comes before all else."""
    for host in outer.deltas.keys() & inner.deltas.keys():
        yield isinstance(outer.deltas[host], Replacement) and not isinstance(inner.deltas[host], Replacement)


def _two_prefixes(shape: Shape, outer: inlay.Adapter, inner: inlay.Adapter) -> Tensor | None:
    """One prefix as long as both."""
    if outer.method.name != "prefix" or inner.method.name != "prefix":
        return None
    model = built(shape)
    twice = inlay.attach(model, inlay.PrefixTuning(tokens=10), heads=())
    tables = [next(iter(adapter.state_dict().values())) for adapter in (inner, outer)]
    twice.load_state_dict({key: torch.cat(tables) for key in twice.state_dict()})
    with torch.no_grad():
        return logits(model, shape)


def replace_one_tensor(a: inlay.Adapter, b: inlay.Adapter) -> bool:
    return any(
        isinstance(a.deltas[host], Replacement)
        and isinstance(b.deltas[host], Replacement)
        and set(a.deltas[host].folds) & set(b.deltas[host].folds)
        for host in a.deltas.keys() & b.deltas.keys()
    )


@every_pair
def test_together_in_either_order(shape: Shape, pair: tuple[str, str]) -> None:
    model, adapters = both(shape, pair)
    for outer, inner in (("a", "b"), ("b", "a")):
        found = tried(lambda names=(outer, inner): output(model, shape, *names))
        if isinstance(found, str):
            assert replace_one_tensor(adapters["a"], adapters["b"]), found
        else:
            expected = by_hand(shape, adapters[outer], adapters[inner])
            assert expected is not None
            close(found, expected)


@every_pair
def test_one_merged_beside_the_other(shape: Shape, pair: tuple[str, str]) -> None:
    model, adapters = both(shape, pair)
    for merged, other in (("a", "b"), ("b", "a")):
        alone = output(model, shape, merged)
        orders = ((merged, other), (other, merged))
        together = {names: tried(lambda names=names: output(model, shape, *names)) for names in orders}
        refusal = tried(adapters[merged].merge)
        if isinstance(refusal, str):
            is_change_of_weights = all(isinstance(d, WeightDelta) for d in adapters[merged].deltas.values())
            assert not is_change_of_weights or " bias " in refusal, refusal
            close(output(model, shape, merged), alone, 0)
            continue
        close(output(model, shape, merged), alone)
        for names, expected in together.items():
            found = tried(lambda names=names: output(model, shape, *names))
            assert isinstance(found, str) == isinstance(expected, str)
            if not isinstance(found, str):
                close(found, expected)
        adapters[merged].unmerge()
        close(output(model, shape, merged), alone, 0)


@every_pair
def test_by_rows(shape: Shape, pair: tuple[str, str]) -> None:
    model, adapters = both(shape, pair)
    alone = {name: output(model, shape, *names) for name, names in (("a", ("a",)), ("b", ("b",)), (None, ()))}
    rows = ["a", None, "b", "a"]

    def mixed() -> Tensor:
        with torch.no_grad(), inlay.using(model, rows=rows):
            return logits(model, shape)

    found = tried(mixed)
    if isinstance(found, str):
        assert not all(d.edits_rows(host) for adapter in adapters.values() for _, host, d in adapter.hosts()), found
    else:
        close(found, torch.stack([alone[name][i] for i, name in enumerate(rows)]))
    close(output(model, shape), alone[None], 0)
