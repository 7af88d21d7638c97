"""One method on one architecture: everything that an adapter's life has, each step held against what is right.

The result is a verdict: `right`, `refused` with the sentence that says why, or faults, each `wrong` by how much or a
`crash`, with the check in which it showed. A check that the base itself does not pass (its left-padded row differs from
the row alone, say) is left out.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import inlay
from inlay.core.delta import WeightDelta
from inlay.errors import InlayError
from inlay.models.language_model import language_model
from inlay.models.sites import Sites

from .architecture import Architecture
from .base import LOOSE, TIGHT, Base, apart, loss_of

# What the models' small size asks for; everything else is as by default.
SMALL_SETTINGS: dict[str, dict[str, Any]] = {
    "houlsby": {"size": 4},
    "last-layers": {"layers": 1},
    "pfeiffer": {"reduction_factor": 8},
    "lora": {"rank": 2},
    "dora": {"rank": 2},
    "adalora": {"target_rank": 1, "initial_rank": 2},
    "dynamic-rank": {"target_rank": 1, "initial_rank": 2, "alpha": 4},  # it starts the larger, the lower the rank is
    "loha": {"rank": 2},
    "lokr": {"rank": 2},
    "vera": {"rank": 4},
    "oft": {"block_size": 4},
    "sparse": {"rank": 1},
    "prompt": {"tokens": 3},
    "p-tuning": {"tokens": 3, "hidden_size": 8},
    "multitask-prompt": {"tokens": 3},
    "prefix": {"tokens": 3},
}


@dataclass
class Fault:
    kind: str  # wrong or crash
    check: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.check}: {self.what}"


@dataclass
class Verdict:
    architecture: str
    method: str
    refused: str = ""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is refused later than at attach, such as merging, with its sentence."""
    left_out: list[str] = field(default_factory=list)
    """Checks that the base itself does not pass, or that do not apply."""

    @property
    def right(self) -> bool:
        return not self.refused and not self.faults


def method_of(name: str, architecture: Architecture, model: nn.Module) -> inlay.Method:
    settings = dict(SMALL_SETTINGS.get(name, {}))
    if name == "pattern":
        settings["include"] = architecture.pattern
    if name == "bitfit":
        settings["add_missing"] = not _has_biases(model)
    return inlay.METHODS[name](**settings)


def _has_biases(model: nn.Module) -> bool:
    try:
        return bool(list(inlay.BitFit().place(Sites(model))))
    except InlayError:
        return False


def part_of(architecture: Architecture, model: nn.Module) -> str | None:
    """What text rows adapt in a model that has other towers."""
    return language_model(model) if architecture.text_part else None


def disturb(adapter: inlay.Adapter, scale: float = 0.1) -> None:
    """Move every trained parameter away from its start, where many changes are still zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in adapter.parameters():
            p += scale * torch.randn(p.shape, generator=generator).to(p)


class Cell:
    """The life of one method's adapter in one architecture."""

    def __init__(self, base: Base, method: str):
        self.base, self.architecture = base, base.architecture
        self.verdict = Verdict(self.architecture.name, method)
        self.name = method

    def examine(self) -> Verdict:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)  # a draw in which a router chooses between two experts by the last digit is no fault
            self._life()
        return self.verdict

    def _life(self) -> None:
        model = self.architecture.build()
        before = _State(model)
        adapter = None
        with self._check("attach", refusal_counts=True):
            adapter = self._attach(model)
        if adapter is None:
            self._same_state(before, model, "a refused attach")
            return
        with self._check("training", refusal_counts=True):
            self._train(model, adapter)
        if self.verdict.refused:
            with self._check("detach"):
                adapter.detach()
                self._same_state(before, model, "detach")
            return
        model.eval()
        adapted = None
        with self._check("output"):
            adapted = self.base.output(model)
            if apart(adapted, self.base.expected) < 1e-6:
                self._wrong("output", "the adapter changes nothing")
        if adapted is None:
            return
        if adapter.removable:
            with self._check("frozen base"):
                before.check_parameters(model, self._wrong)
        self._hosts_reached(adapter)
        with self._check("save and load"):
            self._save_and_load(adapter, adapted)
        with self._check("rows of a batch"):
            if self.base.rows_alone:
                self._compare("rows of a batch", self.base.rows(model), "from each row alone")
            else:
                self.verdict.left_out.append("rows of a batch")
        for side, positions in self.base.paddings:
            named = f"{side}-padded row" + (" with position_ids" if positions else "")
            with self._check(named):
                self._compare(named, self.base.padded(side, positions)(model), "from the row alone")
        if self.architecture.generates:
            with self._check("generate with cache"):
                if self.base.cached_generation:
                    with torch.no_grad():
                        self._compare("generate with cache", self.base.generation(model), "from generate without", 1e-3)
                else:
                    self.verdict.left_out.append("generate with cache")
            if self.base.batched_generation:
                with self._check("generate in batches"):
                    self._compare("generate in batches", self.base.own_generation(model), "from each text alone")
        with self._check("merge"):
            self._merge(model, adapter, adapted)
        with self._check("detach"):
            if adapter.removable:
                adapter.detach()
                self._same_state(before, model, "detach")
                if apart(self.base.output(model), self.base.expected) > 0:
                    self._wrong("detach", "the output is not the base's")

    def _attach(self, model: nn.Module) -> inlay.Adapter:
        method = method_of(self.name, self.architecture, model)
        adapter = inlay.attach(model, method, part=part_of(self.architecture, model))
        batch = {k: v for k, v in self.base.batch.items() if k != "return_loss"}
        if "labels" in batch:
            method.initialize_from_data(adapter, iter([batch]))
        disturb(adapter)
        return adapter

    def _train(self, model: nn.Module, adapter: inlay.Adapter) -> None:
        model.train()
        called: set[str] = set()
        hooks = [
            host.register_forward_hook(lambda *_, name=name: called.add(name)) for name, host, _ in adapter.hosts()
        ]
        drawn = _Drawn()
        try:
            output = model(**self.base.batch)
        finally:
            for hook in hooks:
                hook.remove()
        loss = loss_of(output)
        if not bool(torch.isfinite(loss)):
            self._wrong("training", f"the loss is {loss.item()}")
            return
        loss.backward()
        parameters = dict(adapter.named_parameters())
        usual = self.base.without_gradient
        for host_name, host, delta in adapter.hosts():
            own = f"{host_name}." if host_name else ""
            lacking = [n for n, p in delta.trained(host) if p.grad is None and own + n not in usual]
            if lacking and self._matters(model, host, lacking, drawn):
                how = "is called" if host_name in called else "is not called, though its weights matter"
                self._wrong("training", f"no gradient at {_shape(host_name)}, which {how}")
        if not any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values()):
            self._wrong("training", "every gradient is zero")
        if any(not bool(torch.isfinite(p.grad).all()) for p in parameters.values() if p.grad is not None):
            self._wrong("training", "a gradient is not finite")
        own = {id(p) for p in parameters.values()}
        if any(p.grad is not None for p in model.parameters() if id(p) not in own):
            self._wrong("training", "a frozen parameter got a gradient")
        torch.optim.SGD(list(parameters.values()), lr=1e-2).step()
        model.zero_grad()

    @torch.no_grad()
    def _matters(self, model: nn.Module, host: nn.Module, lacking: list[str], drawn: "_Drawn") -> bool:
        """Whether other values change the loss of the same step: of the host's parameters named so, or else of all.

        Asked of the adapted model, which may choose other experts than its base.
        """
        own = [p for n, p in host.named_parameters(recurse=False) if n in lacking]
        own = own or [p for p in host.parameters() if not p.requires_grad]
        before = [p.clone() for p in own]
        losses = []
        for change in (0.0, 0.5):
            for p in own:
                p += change * torch.randn(p.shape)
            drawn.again()
            losses.append(loss_of(model(**self.base.batch)))
        for p, value in zip(own, before, strict=True):
            p.copy_(value)
        return not torch.equal(*losses)

    def _hosts_reached(self, adapter: inlay.Adapter) -> None:
        """A method that works on each block works on each."""
        if self.name not in ("houlsby", "pfeiffer", "parallel") or self.architecture.text_part:
            return
        count = len({match[0] for n in adapter.deltas if (match := re.match(r".*?\.\d+(?=\.|$)", n))})
        nested = len({match[0] for n in adapter.deltas if (match := re.match(r".*\.\d+(?=\.|$)", n))})
        blocks = self.architecture.blocks
        if self.name == "parallel" and self.architecture.feedforwards is not None:
            blocks = self.architecture.feedforwards
        if max(count, nested) < blocks:
            self._wrong("attach", f"hosts in {max(count, nested)} of {blocks} blocks")

    def _save_and_load(self, adapter: inlay.Adapter, adapted: Tensor) -> None:
        with tempfile.TemporaryDirectory() as folder:
            adapter.save(folder)
            again = self.architecture.build()
            inlay.load(again, Path(folder))
        self._compare("save and load", (self.base.output(again.eval()), adapted), "from the saved one", TIGHT)

    def _merge(self, model: nn.Module, adapter: inlay.Adapter, adapted: Tensor) -> None:
        before = _State(model)
        try:
            adapter.merge()
        except InlayError as refusal:
            if adapter.removable and all(isinstance(delta, WeightDelta) for delta in adapter.deltas.values()):
                self.verdict.notes.append(f"merge: {refusal}")
            before.check_parameters(model, self._wrong)
            self._compare("merge", (self.base.output(model), adapted), "after a refused merge", TIGHT)
            return
        self._compare("merge", (self.base.output(model), adapted), "from the adapter beside the base")
        adapter.unmerge()
        before.check_parameters(model, self._wrong)

    def _same_state(self, before: "_State", model: nn.Module, after: str) -> None:
        before.check_parameters(model, self._wrong)
        before.check_rest(model, after, self._wrong, hooks_of(self.base.model))

    def _compare(self, check: str, pair: tuple[Tensor, Tensor] | None, what: str, tolerance: float = LOOSE) -> None:
        if pair is None:
            self.verdict.left_out.append(check)
        elif pair[0].shape != pair[1].shape:
            self._wrong(check, f"{tuple(pair[0].shape)} in place of {tuple(pair[1].shape)}")
        elif not (gap := apart(*pair)) < tolerance:
            self._wrong(check, f"off by {gap:.1g} {what}")

    def _wrong(self, check: str, what: str) -> None:
        if not any(f.check == check and f.what == what for f in self.verdict.faults):
            self.verdict.faults.append(Fault("wrong", check, what))

    @contextmanager
    def _check(self, name: str, refusal_counts: bool = False) -> Iterator[None]:
        try:
            yield
        except InlayError as refusal:
            if refusal_counts:
                self.verdict.refused = ("" if name == "attach" else f"at {name}: ") + str(refusal)
            else:
                self.verdict.faults.append(Fault("late refusal", name, str(refusal)))
        except Exception as problem:
            first = (str(problem).strip() or "no message").splitlines()[0]
            self.verdict.faults.append(
                Fault("crash", name, f"{type(problem).__name__}: {first[:200]}{_where(problem)}")
            )


class _Drawn:
    """The random numbers that come next, so that they can come again: of dropout, noise at routers, masked spans."""

    def __init__(self) -> None:
        self.torch, self.numpy = torch.get_rng_state(), numpy.random.get_state()

    def again(self) -> None:
        torch.set_rng_state(self.torch)
        numpy.random.set_state(self.numpy)


class _State:
    """All that `detach` brings back."""

    def __init__(self, model: nn.Module):
        self.parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        self.keys = list(model.state_dict())
        self.flags = {n: p.requires_grad for n, p in model.named_parameters()}
        self.hooks = hooks_of(model)

    def check_parameters(self, model: nn.Module, wrong: Callable[[str, str], None]) -> None:
        now = dict(model.named_parameters())
        for n, p in self.parameters.items():
            if n not in now:
                wrong("frozen base", f"{_shape(n)} is gone")
            elif now[n].dtype != p.dtype or not torch.equal(now[n], p):
                wrong("frozen base", f"{_shape(n)} has other values")

    def check_rest(self, model: nn.Module, after: str, wrong: Callable[[str, str], None], usual: int) -> None:
        """Look for as many hooks as usual: transformers leaves some of its own in a model that has run."""
        now = dict(model.named_buffers())
        for n, b in self.buffers.items():
            if n not in now or now[n].shape != b.shape or not torch.equal(now[n].nan_to_num(), b.nan_to_num()):
                wrong("buffers", f"{_shape(n)} has other values after {after}")
        if list(model.state_dict()) != self.keys:
            wrong("detach", f"the state dict has other keys after {after}")
        if {n: p.requires_grad for n, p in model.named_parameters()} != self.flags:
            wrong("detach", f"other parameters require gradients after {after}")
        if hooks_of(model) > max(self.hooks, usual):
            wrong("detach", f"hooks are left after {after}")


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def _shape(name: str) -> str:
    """The name without its numbers, so that the same fault in each block is one."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _where(problem: BaseException) -> str:
    """The innermost line of Inlay's, or else the innermost of all."""
    lines, trace = [], problem.__traceback__
    while trace is not None:
        lines.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    ours = [(f, n) for f, n in lines if "/inlay/" in f and "/tests/" not in f]
    file, number = (ours or lines)[-1]
    return f" [{'/'.join(Path(file).parts[-2:])}:{number}]"


def blocks_found(architecture: Architecture) -> Verdict:
    """Whether the model's blocks are all found, as the verdict of a method named (blocks)."""
    verdict = Verdict(architecture.name, "(blocks)")
    try:
        model = architecture.build()
        found = len(Sites(model, part=part_of(architecture, model)).blocks)
    except Exception as problem:
        verdict.faults.append(Fault("crash", "blocks", f"{type(problem).__name__}: {problem}{_where(problem)}"))
        return verdict
    if found != architecture.blocks:
        verdict.faults.append(Fault("wrong", "blocks", f"{found} found of {architecture.blocks}"))
    return verdict


def examine(architecture: Architecture, methods: list[str]) -> Iterator[Verdict]:
    base = Base(architecture)
    yield blocks_found(architecture)
    for method in methods:
        yield Cell(base, method).examine()
