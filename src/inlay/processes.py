"""The processes that train one adapter together. Each has a number, from 0 on; the first writes and speaks.

A process that is alone is the first of one: nothing is sent, and hardly any other module need ask whether there are
several. The one place that sends something to another process.
"""

import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from .errors import InlayError, OthersUnreachable, ProcessLost, SettingsError
from .launch import check_launcher, number_in, own_number, patience, started
from .machine import out_of_memory
from .meeting import Meeting, agent_keeps_store, meet

T = TypeVar("T")
R = TypeVar("R")

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before PyTorch 2.13
_CAME_FROM = "_inlay_came_from"  # attribute of an error that another process has sent: its number
_FOR_A_REASON = 1.0  # seconds; a process that fails says why before it leaves, but for one that was killed
_EXCHANGES = 8  # of shared work: none waits for longer, nor goes on after another's failure, than an eighth of it takes
_FOR_THE_FIRST = 60.0  # seconds in which the first says why a run has failed, and the others come to know it


@dataclass
class _Group:
    """The processes, while they are joined."""

    number: int
    count: int
    store: Store
    folders: dict[Path, tempfile.TemporaryDirectory[str]] = field(default_factory=dict)  # for each of the first one's

    joined: ClassVar["_Group | None"] = None
    meeting: ClassVar[Meeting | None] = None
    times: ClassVar[int] = 0


def count() -> int:
    """Return how many processes train together."""
    return _Group.joined.count if _Group.joined else 1


def number() -> int:
    return _Group.joined.number if _Group.joined else 0


def local_number() -> int:
    """Return this process's number among those of its machine."""
    return number_in("LOCAL_RANK", number()) if count() > 1 else 0


def local_count() -> int:
    """Return how many of the processes are on this machine."""
    return number_in("LOCAL_WORLD_SIZE", count()) if count() > 1 else 1


def is_first() -> bool:
    return number() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Train together with the processes that were started with this one, for as long as the block runs.

    What ends one of them ends all: each raises what the first to fail has raised, `process 1: …` before its words.
    Raises SettingsError if they were started by something that does not say how they find each other.
    """
    check_launcher()
    if _Group.joined is not None or started() == 1:
        yield
        return
    if dist.is_initialized():
        raise SettingsError(
            "torch.distributed is initialized already, by the program that trains; let inlay.train do that, or start "
            "one process"
        )
    _Group.times += 1
    own, members = own_number(), started()
    if _Group.meeting is None:
        _Group.meeting = meet(own, members)
    store = PrefixStore(f"{_Group.meeting.place}/{_Group.times}", _Group.meeting.kept)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _connection():
        dist.init_process_group(
            backend, store=store, rank=own, world_size=members, timeout=timedelta(seconds=patience())
        )
    _Group.joined = group = _Group(own, members, store)
    try:
        yield
    except BaseException as problem:
        first = first_failure(problem)
        _leave()
        if own:  # the first, which tells of it, is not to be stopped before it has
            _wait_for(store, ["told"])
            time.sleep(0.5)  # in which it says so
        elif not agent_keeps_store() and not isinstance(first, ProcessLost):  # nor are the others to lose its store
            _wait_for(store, [f"knows/{each}" for each in range(1, members)])
        if first is problem:
            raise
        raise first from problem
    else:
        with suppress(ProcessLost):  # whoever is done may be gone
            gathered(None)
        _leave()
    finally:
        with suppress(RuntimeError):
            store.set("told", "")
        _Group.joined = None
        for each in group.folders.values():
            with suppress(OSError):
                each.cleanup()


def first_failure(problem: BaseException) -> BaseException:
    """Tell the other processes what has ended this one; returns what has ended the first to fail, if that is another.

    Those then fail in what they next send or await, and come here as well.
    """
    group = _Group.joined
    if group is None:
        return problem
    problem = _as_lost(problem)
    expected = isinstance(problem, InlayError | KeyboardInterrupt)
    text = _by_the_first(str(problem)) if expected else "".join(traceback.format_exception(problem))
    mine = f"{group.number}\n{type(problem).__name__}\n{text}"
    lost = isinstance(problem, ProcessLost)
    waits = lost or getattr(problem, _CAME_FROM, group.number) != group.number  # for whoever failed first to say so
    if waits:
        _wait_for(group.store, ["failed"], _FOR_A_REASON)
    try:
        said = group.store.compare_set("failed", "", mine).decode()
        group.store.set(f"knows/{group.number}", "")
    except RuntimeError:  # what keeps the store is gone
        return OthersUnreachable(str(problem)) if lost else problem
    _leave()
    number_of, kind, text = said.split("\n", 2)
    if int(number_of) == group.number or said == mine or not kind:
        return problem
    if kind == KeyboardInterrupt.__name__:
        return KeyboardInterrupt()
    known = _known_errors().get(kind)
    if known is not None and text == _by_the_first(str(problem)) and isinstance(problem, known):
        problem.args = (text,)  # all found the same, in the folder of the first
        return problem
    if known is ProcessLost:
        return ProcessLost(text)
    return known(f"process {number_of}: {text}") if known else ProcessLost(f"process {number_of} failed: {text}")


@contextmanager
def gathering() -> Iterator[None]:
    """Raise ProcessLost if a process is gone with which a call of a shared model in the block gathers its weights."""
    try:
        yield
    except Exception as problem:
        if (lost := _as_lost(problem)) is problem:
            raise
        raise lost from problem


def from_first(compute: Callable[[], T]) -> T:
    """Return what `compute` gives the first process, or raise what it raises there, in all of them."""
    if count() == 1:
        return compute()
    found: list[tuple[T | None, Exception | None]] = [(None, None)]
    failed = None
    if is_first():
        try:
            found = [(compute(), None)]
        except Exception as problem:
            failed = problem
            found = [(None, _to_send(problem))]
    with _connection():
        dist.broadcast_object_list(found, src=0)
    value, problem = found[0]
    if problem is not None:
        raise failed or problem
    return value  # pyright: ignore[reportReturnType]  # it is None only if that was computed


def gathered(value: T) -> list[T]:
    """Return every process's value, by process."""
    if count() == 1:
        return [value]
    found: list[T] = [value] * count()
    with _connection():
        dist.all_gather_object(found, value)
    return found


def any_of(holds: bool) -> bool:
    """Tell whether it holds in one of the processes."""
    return any(gathered(holds))


def check_equal(values: Mapping[str, object]) -> None:
    """Raise ProcessLost, with the name of the first that differs, unless the values are the same in all processes."""
    for other, theirs in enumerate(gathered(values)):
        for name, value in theirs.items():
            if values.get(name) != value:
                raise ProcessLost(f"{name} differs between process {number()} and process {other}")


def shared(items: Sequence[T], compute: Callable[[T], R], *, in_step: bool = False) -> list[R]:
    """Return what `compute` gives for each item, in their order; each process computes its share of them, the same one
    each time.

    The results are sent, so that they should be on the CPU. All compute equally often, as those that hold a shard of
    the model must; items of falling size make fair shares. What one of them raises all do. `in_step` they send each
    other something in `compute`, where nobody would hear what another has raised: whoever does is to leave.
    """
    if count() == 1:
        return [compute(item) for item in items]
    rounds = range(-(-len(items) // count()))
    at_once = max(1, -(-len(rounds) // _EXCHANGES))
    found: list[list[R]] = [[] for _ in range(count())]
    for start in rounds[::at_once]:
        own, failed = list[R](), None
        try:
            for n in rounds[start : start + at_once]:
                own.append(compute(items[min(count() * n + number(), len(items) - 1)]))
        except Exception as problem:
            if in_step:
                raise
            failed = problem
        for of_all, (of_process, problem) in zip(found, gathered((own, failed and _to_send(failed))), strict=True):
            if problem is not None:
                raise failed or problem
            of_all += of_process
    return [found[i % count()][i // count()] for i in range(len(items))]


def exchange(parts: Tensor, counts: Sequence[int]) -> Tensor:
    """Send each process its slice of each of these, and return the slices that this one gets from all of them.

    `parts` is (own, processes, n), `counts` how many of them each process has; the result is (sum of counts, n), in the
    order of the processes.
    """
    own, _, n = parts.shape
    out = parts.new_empty(sum(counts), n)
    with _connection():
        dist.all_to_all_single(
            out.view(-1),
            parts.transpose(0, 1).reshape(-1),
            [each * n for each in counts],
            [own * n] * count(),
        )
    return out


def all_slices(own: Tensor) -> Tensor:
    """Return every process's slice, one after the other."""
    out = own.new_empty(count() * own.numel())
    with _connection():
        _all_gather(out, own)
    return out


def own_folder(folder: Path) -> Path:
    """Return where this process writes what belongs into a folder: the first there, each other in one, always the same,
    that is removed as the processes part.
    """
    group = _Group.joined
    if group is None or is_first() or any(Path(each.name) in folder.parents for each in group.folders.values()):
        return folder
    if folder not in group.folders:
        group.folders[folder] = tempfile.TemporaryDirectory(prefix="inlay-")
    return _inside(group.folders[folder], folder)


def _inside(own: tempfile.TemporaryDirectory[str], folder: Path) -> Path:
    return Path(own.name) / (folder.name or "run")


def mirrored(folder: Path) -> Path:
    """Return where this process finds, and writes, what is in the first one's folder: a copy for each other."""
    own = own_folder(folder)
    if count() > 1:
        for name in from_first(lambda: sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())):
            content = from_first((folder / name).read_bytes)
            if not is_first():
                (own / name).parent.mkdir(parents=True, exist_ok=True)
                (own / name).write_bytes(content)
    return own


def remember(name: str, value: str) -> None:
    """Leave a text for the processes that torchrun starts in place of these, where they join as these have."""
    if (store := _agents_store()) is not None and is_first():
        store.set(name, value)


def remembered(name: str) -> str | None:
    """Return what the processes before these have left; None if they left nothing, or nothing keeps it."""

    def look() -> str | None:
        store = _agents_store()
        return store.get(name).decode() if store is not None and store.check([name]) else None

    return from_first(look)


def _agents_store() -> Store | None:
    """Return the store of torchrun's agent, which outlives these processes."""
    if _Group.meeting is None or not agent_keeps_store():
        return None
    return PrefixStore(f"inlay/{_Group.times}", _Group.meeting.kept)


def _to_send(problem: Exception) -> Exception:
    """Return the error as another process can raise it, with where it came up."""
    try:
        sent = pickle.loads(pickle.dumps(problem))
    except Exception:  # not every error can be
        sent = RuntimeError(f"{type(problem).__name__}: {problem}")
    setattr(sent, _CAME_FROM, number())
    sent.add_note(f"in process {number()}:\n{''.join(traceback.format_exception(problem))}")
    return sent


@contextmanager
def _connection() -> Iterator[None]:
    """Turn what is said of a connection that has ended into an error of ours."""
    try:
        yield
    except RuntimeError as problem:
        if isinstance(problem, InlayError) or out_of_memory(problem) is not None:
            raise
        raise _lost() from problem


def _as_lost(problem: BaseException) -> BaseException:
    """Return ProcessLost for an error that comes from within torch.distributed, which has no class for it; anything
    else as it is."""
    if not isinstance(problem, RuntimeError) or isinstance(problem, InlayError) or out_of_memory(problem) is not None:
        return problem
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(problem.__traceback__)]
    callers = [name for name in modules if name != "torch._ops"]
    return _lost() if callers and callers[-1].startswith("torch.distributed.") else problem


def _lost() -> ProcessLost:
    return ProcessLost(
        "a process that trained with this one is gone: it was killed, has crashed, or its machine cannot be reached"
    )


def _by_the_first(text: str) -> str:
    """Return a text as the first process would say it, whose folders have other names than this one's."""
    for folder, own in _Group.joined.folders.items() if _Group.joined else ():
        text = text.replace(str(_inside(own, folder)), str(folder))
    return text


def _leave() -> None:
    """Close the connections, so that nobody waits for this process."""
    with suppress(RuntimeError, AssertionError, ValueError):
        if dist.is_initialized():
            dist.destroy_process_group()


def _wait_for(store: Store, names: list[str], seconds: float = _FOR_THE_FIRST) -> None:
    """Wait until these are in the store, or the time is over, or the store is gone."""
    until = time.monotonic() + seconds
    with suppress(RuntimeError):
        while not store.check(names) and time.monotonic() < until:
            time.sleep(0.05)


def _known_errors() -> dict[str, type[InlayError]]:
    found: dict[str, type[InlayError]] = {}
    kinds: list[type[InlayError]] = [InlayError]
    while kinds:
        kind = kinds.pop()
        found[kind.__name__] = kind
        kinds += kind.__subclasses__()
    return found
