"""Every method on every architecture: what is right, what is refused and with which words, and what is a fault.

python scripts/architectures.py                                   all of them, in a few minutes for each ten
python scripts/architectures.py --only llama bert --methods lora prefix
python scripts/architectures.py --markdown docs/architectures.md  writes the page as well

Each architecture has a process of its own, so that one that dies takes no other with it. Exit code 1 if there is a
fault.
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}

import torch  # noqa: E402
import transformers  # noqa: E402
import transformers.modeling_utils  # noqa: E402

import inlay  # noqa: E402
from tests.architectures import ARCHITECTURES  # noqa: E402
from tests.architectures.cell import Fault, Verdict, examine  # noqa: E402

PROCESSES = multiprocessing.get_context("fork")  # each begins with what is imported here, which takes seconds

Found = dict[str, Any]  # a verdict as a dictionary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="these architectures, or those whose name begins so")
    parser.add_argument("--kinds", nargs="*", help="those of these kinds: decoder, hybrid, mixture, encoder, ...")
    parser.add_argument("--methods", nargs="*", help="these methods")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--faults", type=Path, help="write the list of faults here as well")
    parser.add_argument("--json", type=Path, help="write all verdicts here, one a line")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one architecture")
    asked = parser.parse_args()
    names = [
        name
        for name, a in ARCHITECTURES.items()
        if (not asked.only or any(name == o or name.startswith(o + " ") for o in asked.only))
        and (not asked.kinds or a.kind in asked.kinds)
    ]
    if not names:
        parser.error(f"--only {' '.join(asked.only or ())}: no such architecture; known: {', '.join(ARCHITECTURES)}")
    start = time.monotonic()
    verdicts: list[Found] = []
    for count, (name, found) in enumerate(_in_processes(names, asked.methods, asked.jobs, asked.timeout), start=1):
        verdicts += found
        _keep(asked, verdicts)
        left = (time.monotonic() - start) / count * (len(names) - count)
        tally = f"{sum(_is_right(v) for v in found)} right, {sum(bool(v['refused']) for v in found)} refused"
        faults = sum(bool(v["faults"]) for v in found)
        print(f"[{count}/{len(names)}, {left / 60:.0f} min left] {name}: {tally}, {faults} faulty", flush=True)
    verdicts.sort(key=lambda v: names.index(v["architecture"]))  # they come as they end
    print(summarize(verdicts))
    if asked.markdown:
        from architectures_page import page  # beside this script

        asked.markdown.write_text(page(verdicts))
    sys.exit(any(v["faults"] for v in verdicts))


def _keep(asked: argparse.Namespace, verdicts: list[Found]) -> None:
    if asked.faults:
        asked.faults.write_text(summarize(verdicts) + "\n")
    if asked.json:
        asked.json.write_text("".join(json.dumps(v) + "\n" for v in verdicts))


def _in_processes(
    names: list[str], methods: list[str] | None, jobs: int, timeout: float
) -> Iterator[tuple[str, list[Found]]]:
    """What a process for each architecture finds, so many at a time; if one dies or takes too long, a fault says so."""
    waiting, running = list(names), dict[Connection, _Running]()
    while waiting or running:
        while waiting and len(running) < jobs:
            receiving, sending = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(target=_examine, args=(sending, waiting[0], methods), daemon=True)
            process.start()
            sending.close()
            running[receiving] = _Running(waiting.pop(0), process, time.monotonic() + timeout, [])
        for receiving in wait(list(running), timeout=1.0):
            try:
                running[receiving].found.append(receiving.recv())
            except EOFError:
                yield running.pop(receiving).ended()
        for receiving, one in list(running.items()):
            if time.monotonic() > one.deadline:
                one.process.kill()
                yield running.pop(receiving).ended(f"took more than {timeout:.0f} s")


@dataclass
class _Running:
    name: str
    process: Any
    deadline: float
    found: list[Found]

    def ended(self, why: str = "") -> tuple[str, list[Found]]:
        self.process.join()
        if self.process.exitcode:
            fault = Fault("crash", "the process", why or f"exit code {self.process.exitcode}")
            last = self.found[-1]["method"] if self.found else "the start"
            self.found.append(asdict(Verdict(self.name, f"after {last}", faults=[fault])))
        return self.name, self.found


def _examine(sending: Any, name: str, methods: list[str] | None) -> None:
    """Send each verdict as it is found."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for verdict in examine(ARCHITECTURES[name], methods or list(inlay.METHODS)):
        sending.send(asdict(verdict))


def _is_right(verdict: Found) -> bool:
    return not verdict["refused"] and not verdict["faults"]


def summarize(verdicts: list[Found]) -> str:
    """The faults and the refusals, each sentence once with where it came up."""
    cells = [v for v in verdicts if not v["method"].startswith("(")]
    faulty = sum(bool(v["faults"]) for v in cells)
    refused = sum(bool(v["refused"]) and not v["faults"] for v in cells)
    lines = [
        f"{len({v['architecture'] for v in cells})} architectures, {len(cells)} cells: "
        f"{len(cells) - faulty - refused} right, {refused} refused, {faulty} with faults",
    ]
    faults: dict[tuple[str, str], dict[str, dict[str, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for v in verdicts:
        for f in v["faults"]:
            what = _without_numbers(f["what"])
            faults[f["kind"], f["check"]][what].setdefault(v["method"], []).append(v["architecture"])
    lines += ["", "FAULTS, by kind and check"]
    for (kind, check), by_what in sorted(faults.items()):
        lines.append(f"\n== {kind} at {check}")
        for what, where in sorted(by_what.items(), key=lambda item: -sum(map(len, item[1].values()))):
            lines.append(f"  - {what}")
            lines += _places(where)
    lines += ["", "REFUSALS"]
    refusals: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for v in cells:
        for sentence in [v["refused"], *v["notes"]]:
            if sentence:
                refusals[_without_numbers(sentence)].setdefault(v["method"], []).append(v["architecture"])
    for what, where in sorted(refusals.items(), key=lambda item: -sum(map(len, item[1].values()))):
        lines.append(f"  - {what}")
        lines += _places(where)
    return "\n".join(lines)


def _places(where: dict[str, list[str]]) -> list[str]:
    """The methods with the architectures of each, methods with the same ones together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for method, architectures in where.items():
        together.setdefault(tuple(architectures), []).append(method)
    return [f"        {', '.join(methods)}: {', '.join(found)}" for found, methods in together.items()]


def _without_numbers(sentence: str) -> str:
    return re.sub(r"off by \S+", "off", re.sub(r"(?<=\.)\d+(?=\.|\b)", "*", sentence))


if __name__ == "__main__":
    main()
