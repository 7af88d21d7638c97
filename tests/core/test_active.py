"""Which adapters run: for good, after one is taken out, in each thread, and in compiled graphs."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import inlay
from inlay.core.routing import Route
from inlay.errors import AdapterStateError

from ..shapes import disturb


def small(*names: str) -> tuple[Any, Tensor, dict[tuple[str, ...], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    x = torch.randn(4, 6)
    outputs: dict[tuple[str, ...], Tensor] = {(): model(x).detach()}
    for i, name in enumerate(names):
        disturb(inlay.attach(model, inlay.LoRA(rank=2), name), 0.1 * (i + 1))
        outputs[name,] = model(x).detach()
    return model, x, outputs


def test_activate_holds_until_something_else_is_said() -> None:
    model, x, y = small("a", "b")
    inlay.activate(model, "a")
    assert torch.equal(model(x), y["a",])
    with inlay.using(model, "b"):
        assert torch.equal(model(x), y["b",])
        inlay.activate(model)
        assert torch.equal(model(x), y["b",])
    assert torch.equal(model(x), y[()])
    inlay.activate(model, "a", "b")
    both = model(x)
    with inlay.using(model, "a", "b"):
        assert torch.equal(model(x), both)
    with pytest.raises(AdapterStateError, match="no adapter 'c' is attached; known: a, b"):
        inlay.activate(model, "c")
    assert torch.equal(model(x), both)


def test_activate_refuses_the_base_beneath_a_merged_adapter() -> None:
    model, _, _ = small("a", "b")
    inlay.adapters(model)["a"].merge(torch.ones(1, 6))
    for names in ((), ("b",)):
        with pytest.raises(AdapterStateError, match="'a' is merged"):
            inlay.activate(model, *names)
    inlay.activate(model, "b", "a")


@pytest.mark.parametrize(
    ("taken", "left"),
    [("c", "b"), ("cb", "a"), ("bc", "a"), ("ac", "b"), ("a", "c"), ("abc", ""), ("b", "c"), ("acb", ""), ("bac", "")],
)
def test_what_was_active_before_one_was_attached_is_active_after_it(taken: str, left: str) -> None:
    model, x, y = small("a", "b", "c")
    for name in taken:
        inlay.adapters(model)[name].detach()
    assert torch.equal(model(x), y[tuple(left)])


def test_what_else_is_active_stays_active() -> None:
    model, x, y = small("a", "b", "c")
    inlay.activate(model, "a", "c")
    inlay.adapters(model)["c"].detach()
    assert torch.equal(model(x), y["a",])
    inlay.activate(model)
    inlay.adapters(model)["b"].detach()
    assert torch.equal(model(x), y[()])


def in_threads(*works: Callable[[], None]) -> None:
    problems: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_each_thread_has_its_own_choice() -> None:
    model, x, y = small("a", "b", "c")
    together = threading.Barrier(4, timeout=60)  # if one fails, the others end too

    def work(names: tuple[str, ...] | None, rows: list[str | None] | None = None) -> Callable[[], None]:
        def forward() -> Tensor:
            together.wait()
            return model(x)

        def run() -> None:
            for _ in range(20):
                if names is None and rows is None:
                    assert torch.equal(forward(), y["c",])
                elif rows is not None:
                    expected = torch.stack([y[(name,) if name else ()][i] for i, name in enumerate(rows)])
                    with inlay.using(model, rows=rows):
                        torch.testing.assert_close(forward(), expected, atol=1e-6, rtol=1e-5)
                else:
                    with inlay.using(model, *(names or ())):
                        assert torch.equal(forward(), y[names or ()])

        return run

    with inlay.using(model, rows=["a", "b", None, "a"]):
        model(x)
    in_threads(work(("a",)), work(()), work(None), work(None, ["b", None, "a", "b"]))
    assert torch.equal(model(x), y["c",])
    assert not model._inlay.routing.overrides


def test_merging_what_another_thread_leaves_out_is_refused() -> None:
    model, _, _ = small("a", "b")
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with inlay.using(model, "b"):
            inside.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        with pytest.raises(AdapterStateError, match="inside using"):
            inlay.adapters(model)["a"].merge(torch.ones(1, 6))
    finally:
        done.set()
        thread.join()


def test_a_backward_pass_in_a_thread_of_autograd_runs_what_the_one_inside_using_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an accelerator checkpointing runs the forward again in a thread that Python knows nothing of."""
    model, _, _ = small("a", "b")
    routing = model._inlay.routing
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 3)
    monkeypatch.setattr(threading, "enumerate", list)
    assert routing.now() == Route(("b",))
    routing.override(Route(("a",)), 1)
    assert routing.now() == Route(("a",))
    routing.override(Route(), 2)
    with pytest.raises(AdapterStateError, match="2 threads are inside using"):
        routing.now()
    routing.override(None, 1)
    assert routing.now() == Route()
    routing.override(None, 2)
    assert routing.now() == Route(("b",))


def test_checkpointing_inside_using_runs_the_same_adapter_again() -> None:
    model, x, _ = small("a", "b")
    a = inlay.adapters(model)["a"]
    gradients = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
        with inlay.using(model, "a"):
            run(x).square().sum().backward()
        gradients.append([p.grad for p in a.parameters()])
        a.model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_compiled_graph_follows_using_and_activate() -> None:
    torch.compiler.reset()
    model, x, y = small("a", "b")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), y["b",])
        with inlay.using(model, "a"):
            torch.testing.assert_close(compiled(x), y["a",])
            with inlay.using(model):
                torch.testing.assert_close(compiled(x), y[()])
            torch.testing.assert_close(compiled(x), y["a",])
        inlay.activate(model, "a")
        torch.testing.assert_close(compiled(x), y["a",])
        inlay.activate(model, "b")

    def other() -> None:
        with inlay.using(model):
            torch.testing.assert_close(compiled(x), y[()])

    in_threads(other)


def test_a_copy_of_a_model_is_inside_no_using() -> None:
    import copy

    model, x, y = small("a", "b")
    with inlay.using(model, "a"):
        twin = copy.deepcopy(model)
    assert torch.equal(twin(x), y["b",])
    inlay.activate(twin)
    assert torch.equal(model(x), y["b",])
