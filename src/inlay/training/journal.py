"""What happens in a run, as events: to the run's files, and to whoever watches. log.txt has them as sentences."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

from ..formats.event import Event, Watcher
from ..formats.files import as_json, make_folder, sync, write_whole
from ..formats.read import guarded
from ..outside import shown, shown_lines
from ..show.budget import Chosen, Spent, chosen_text, spent_text
from ..show.divided import divided_text
from ..show.forgetting import Forgetting, forgetting_text
from ..show.peak import peak_text
from ..show.reach import Reach, reach_text
from ..show.units import bytes_text, count_text, counted, percent_text, seconds_text
from ..tasks.metric import METRICS, score_text

_EVENTS, _LOG = "metrics.jsonl", "log.txt"
_WORTH_TELLING = 5  # seconds after the training
_AFTER = ("last texts", "forgetting")  # in runs of earlier versions


class Journal:
    """Passes each event to the watcher, and from `opened` on to the run's folder."""

    def __init__(self, watcher: Watcher):
        self.watcher = watcher
        self.folder: Path | None = None
        self._unwritten: dict[str, list[str]] = {
            _EVENTS: [],
            _LOG: [],
        }  # lines by file: there was no folder, or no room
        self._identity: tuple[int, int] | None = None  # the folder's, by which another in its place is known

    @contextmanager
    def opened(self, folder: Path, new: bool = False) -> Iterator[None]:
        """Write into the folder, which must be this run's alone.

        Raises OSError if that is not possible; but what a new run cannot write comes with its next event, which fails.
        """
        self.begin(folder)
        with suppress(OSError) if new else nullcontext():
            self._write()
        yield

    def sync(self) -> None:
        """Return when all that was told is on the disk."""
        self._write()
        assert self.folder is not None
        for name in (_EVENTS, _LOG):
            sync(self.folder / name)

    def begin(self, folder: Path) -> None:
        """Go on in this folder, made if it is not there."""
        make_folder(folder)
        self.folder, self._identity = folder, _identity(folder)
        for name in (_EVENTS, _LOG):
            _remove_half_line(folder / name)

    def withdraw(self, keep: Callable[[Event], bool]) -> None:
        """Remove the events that are not to be kept, as they will be told again; log.txt has them all."""
        assert self.folder is not None
        path = self.folder / _EVENTS
        if path.is_file():
            lines = path.read_bytes().split(b"\n")
            left = [line for line in lines if (event := _event(line)) is None or keep(event)]
            if len(left) < len(lines):
                write_whole(path, lambda new: new.write_bytes(b"\n".join(left)))

    @property
    def has_its_folder(self) -> bool:
        """Whether the folder is still the one that was opened."""
        return self.folder is not None and _identity(self.folder) == self._identity

    def check_folder(self) -> None:
        """Raise OSError if the folder was removed, whether or not another is in its place."""
        if self.folder is not None and not self.has_its_folder:
            raise FileNotFoundError(errno.ENOENT, "this folder was removed while the run was writing it", self.folder)

    def record(self, event: str, **values: object) -> None:
        """Raise OSError, when the watcher has heard it, if it cannot be written; it is then written with the next."""
        entry: Event = {"event": event, "time": round(time.time(), 3), **values}
        at = time.strftime("%H:%M:%S", time.localtime(entry["time"]))
        self._unwritten[_EVENTS].append(as_json(entry) + "\n")
        self._unwritten[_LOG].append(f"{at} {shown_lines(sentence(entry))}\n")
        try:
            if self.folder is not None:
                self._write()
        finally:
            self.watcher(entry)

    def tell(self, event: str, **values: object) -> None:
        """Record the event if that is possible; if not, the watcher hears it all the same."""
        with suppress(OSError):
            self.record(event, **values)

    def _write(self) -> None:
        assert self.folder is not None
        self.check_folder()
        for name, lines in self._unwritten.items():
            _append(self.folder / name, "".join(lines))
            lines.clear()


def first_event(run: Path, name: str) -> Event:
    """Return the first of this name that a run tells of; empty if there is none. Raises CheckpointError for a damaged
    line before it; the half of one at the end is what a killed run leaves.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return {}
    with guarded(path, "a run's events"), path.open(encoding="utf-8", newline="\n") as file:
        events = (json.loads(line) for line in file if line.endswith("\n"))
        return next((event for event in events if event["event"] == name), {})


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _append(path: Path, lines: str) -> None:
    """Append all of it, or leave the file as it is."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        left = lines.encode("utf-8", "backslashreplace")
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(before)
            raise


def _remove_half_line(path: Path) -> None:
    """Remove the line without its end that a killed run may have left."""
    if path.is_file() and not (found := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, found.rfind(b"\n") + 1)


def _event(line: bytes) -> Event | None:
    """Read a line; None for one that no run has written."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _share_text(event: Event) -> str:
    held = event.get("held_bytes")
    return "" if held is None else f", shared out among the processes: {bytes_text(held)} of it on each"


def _each(event: Event) -> str:
    """Say of which processes a figure of memory is, if there are several."""
    count = event.get("processes", 1)
    return f" in each of {count} processes" if count > 1 else ""


def left_text(event: Event) -> str:
    """Write the time that a step leaves: `about 35.0 s left` while it is mostly the plan that tells it."""
    about = "about " if event.get("left_is_rough") else ""  # runs of earlier versions do not say
    return f"{about}{seconds_text(event['seconds_left'])} left"


def sentence(event: Event) -> str:
    """Return the event in one line for people."""
    match event["event"]:
        case "data":
            rows = " · ".join(f"{split} {count:,}" for split, count in event["rows"].items())
            cut = f" · {counted(event['cut'], 'text')} cut at {event['max_length']} tokens" if event["cut"] else ""
            labels = f" · {counted(len(event['labels']), 'label')}" if event["labels"] else ""
            out = f" · {counted(out, 'row')} left out" if (out := event.get("left_out")) else ""
            return f"data    {shown(event['source'])}: {rows}{labels}{cut}{out}"
        case "model":
            packed = "" if event.get("quantize", "none") == "none" else f", linear layers in {event['quantize']},"
            ways = f", attention by {event['attention']}" if "attention" in event else ""
            ways += ", float32 products in TF32" if event.get("tf32") else ""
            return (
                f"model   {shown(event['model'])}: {event['class']}, {count_text(event['total_parameters'])} "
                f"parameters in {event['dtype']}{packed} on {event['device']}{ways}"
                + (", its blocks read from the files in each pass" if event.get("stream") else "")
                + _share_text(event)
            )
        case "method":
            share = event["trainable_parameters"] / event["total_parameters"]
            return (
                f"method  {event['method']}: trains {count_text(event['trainable_parameters'])} parameters "
                f"({percent_text(share)}) at learning rate {event['learning_rate']:g}"
            )
        case "reach":
            return f"reach   {reach_text(cast(Reach, event))}"
        case "plan":
            memory = f"{bytes_text(event['memory_bytes'])} of memory{_each(event)}"
            about = f"about {seconds_text(event['seconds'])} and {memory}"
            after = event.get("after_seconds", 0)  # runs of earlier versions do not say
            more = (
                f"; then {seconds_text(after)} or more for {' and '.join(event.get('after', _AFTER))}"
                if after >= _WORTH_TELLING
                else ""
            )
            return f"plan    {counted(event['steps'], 'step')} in {counted(event['epochs'], 'epoch')}, {about}{more}"
        case "resume":
            return (
                f"resume  after step {event['step']} of {event['steps']}, {seconds_text(event['seconds'])} of training"
            )
        case "evaluate":
            best = "  best so far" if event["best"] else ""
            at_0 = "start  " if event.get("start") else "base   "
            when = f"step {event['step']}" if event["step"] else at_0
            return f"{when} {event['split']}: {score_text(event)}{_baseline(event)}{best}"
        case "step":
            return (
                f"step {event['step']}/{event['steps']}  loss {event['loss']:.4f}  lr {event['learning_rate']:.2e}  "
                f"gradient {event['gradient_norm']:.2f}  {event['tokens_per_second']:,.0f} tokens/s  "
                f"{bytes_text(event['memory_bytes'])} now  {left_text(event)}"
            )
        case "back":
            to = f"step {event['to']}" if event["to"] else "the start"
            return (
                f"back    after step {event['step']} to {to} and on at learning rate {event['learning_rate']:.2g}: "
                f"{event['why']}"
            )
        case "shrink":
            return f"memory  {divided_text(event['step'], event['micro_batch_size'], event['recomputes'])}"
        case "forgetting":
            return forgetting_text(cast(Forgetting, event))
        case "spent":
            return f"step {event['step']} {spent_text(cast(Spent, event))}"
        case "budget":
            return f"budget  {chosen_text(cast(Chosen, event))}"
        case "note" | "failed" | "interrupted":
            return f"{event['event']:<7} {event['text']}"
        case "finished":
            taken, planned = event.get("steps"), event.get("planned_steps")
            when = peak_text(event.get("raised_peak"), event["peak_memory_bytes"])
            early = f" ({taken:,} of {planned:,} planned steps)" if planned and taken < planned else ""
            kept = f"step {event['best_step']}" if event["best_step"] else "the start"
            took = f"({kept}), trained in {seconds_text(event['train_seconds'])}{early}"
            at_most = f"{each} at most" if (each := _each(event)) else ""
            peak = f"peak memory {bytes_text(event['peak_memory_bytes'])}{at_most}{f' ({when})' if when else ''}"
            return f"done    {_result(event)} {took}, {peak}"
    raise ValueError(f"no sentence for the event {event['event']!r}")


def _baseline(event: Event) -> str:
    """Say that the base's new head answers at random, and what is scored without reading the inputs."""
    said = ["its head is new and answers at random"] if event.get("base_is_random") else []
    if "baseline" in event:
        said.append(f"baseline: {event['baseline']}, {METRICS[event['score']].text(event['baseline_score'])}")
    return f"  ({'; '.join(said)})" if said else ""


def _result(event: Event) -> str:
    """Say what the tuned model scores beside its baseline, or that it is no better."""
    score, baseline = event["score"], event["baseline"]
    if baseline["finding"]:
        return baseline["finding"]
    floor, name = (baseline[event["split"]] or {}).get(score), baseline["name"]
    if floor is None:
        floor, name = event["base"][score], "the base model"
    metric, gain = METRICS[score], event.get("gain")
    tuned = metric.text_on(event["tuned"][score], event.get("rows"))
    change = f" (95 % of the change: {metric.change(gain)})" if gain and not metric.is_share_of_rows else ""
    unclear = f", {event['unclear']}" if event.get("unclear") else ""
    return f"{metric.label} {metric.text(floor)} ({shown(name)}) -> {tuned}{change} on {event['split']}{unclear}"
