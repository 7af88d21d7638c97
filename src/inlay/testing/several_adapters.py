"""The part of the contract on who acts in a model: one adapter of several, several at once, one for each row, none."""

import torch
from torch import nn

from ..attached.adapter import attach
from ..core.active import using
from ..core.method import Method
from ..errors import AdapterStateError
from ..methods.reparameterized.lora import LoRA
from .assertions import close, raises
from .shapes import ROWS, Shape, attached, disturb, logits


def named_adapters_and_the_base_switch(method: Method, shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    base = logits(model, shape)
    a = attached(model, method, "a")
    if not a.removable:
        with raises(AdapterStateError, match="the base is gone"), using(model):
            pass
        with raises(AdapterStateError, match="stays alone"):
            attach(model, method, "b")
        return
    only_a = logits(model, shape)
    b = attached(model, method, "ab", 0.2)
    only_b = logits(model, shape)
    assert not torch.allclose(only_a, only_b, atol=1e-3)
    with using(model, "a"):
        assert torch.equal(logits(model, shape), only_a)
        with using(model):
            assert torch.equal(logits(model, shape), base)
        assert torch.equal(logits(model, shape), only_a)
    assert torch.equal(logits(model, shape), only_b)
    state = {n: t.clone() for n, t in b.state_dict().items()}
    a.detach()
    assert torch.equal(logits(model, shape), only_b)
    assert all(torch.equal(state[n], t) for n, t in b.state_dict().items())


def rows_of_a_batch_can_have_their_own_adapters(method: Method, shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    base = logits(model, shape)
    a = attached(model, method, "a")
    ya = logits(model, shape)
    if not a.removable:
        with raises(AdapterStateError), using(model, rows=["a", None, None, "a"]):
            pass
        return
    attached(model, method, "b", 0.2)
    yb = logits(model, shape)
    rows = ["a", None, "b", "a"]
    if not all(delta.edits_rows(host) for _, host, delta in a.hosts()):
        with raises(AdapterStateError, match="cannot serve single rows"), using(model, rows=rows):
            pass
        close(logits(model, shape), yb, 0)
        return
    with using(model, rows=rows):
        y = logits(model, shape)
        with raises(AdapterStateError, match="names 4 rows"):
            model(**{k: v[: ROWS - 1] for k, v in shape.inputs().items()})
    close(y, torch.stack([ya[0], base[1], yb[2], ya[3]]))
    close(logits(model, shape), yb, 0)


def an_exception_inside_the_model_leaves_nothing_behind(method: Method, shape: Shape) -> None:
    model = shape.model().requires_grad_(False)  # attention takes another kernel when its bias is trained
    base = logits(model, shape)
    adapter = attached(model, method)
    expected = logits(model, shape)
    broken = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.LayerNorm | nn.Linear)]
    hooks = [m.register_forward_hook(_fail) for m in (broken[0], broken[-1])]
    with raises(RuntimeError, match="on purpose"):
        logits(model, shape)
    for hook in hooks:
        hook.remove()
    close(logits(model, shape), expected, 0)
    if adapter.removable:
        with raises(KeyError), using(model):
            raise KeyError
        close(logits(model, shape), expected, 0)
        with using(model):
            close(logits(model, shape), base, 0)


def _fail(*_: object) -> None:
    raise RuntimeError("on purpose")


def two_adapters_at_once_both_count(method: Method, shape: Shape) -> None:
    model = shape.model()
    if not attached(model, method, "a").removable:
        return  # stays alone in a model
    disturb(attach(model, LoRA(), "b", heads=()), 0.2)  # two heads cannot both be the model's
    ys = {}
    for names in [("a",), ("b",), ("a", "b"), ("b", "a")]:
        with using(model, *names):
            ys[names] = logits(model, shape)
    assert not torch.allclose(ys["a", "b"], ys["a",], atol=1e-3)
    assert not torch.allclose(ys["a", "b"], ys["b",], atol=1e-3)
