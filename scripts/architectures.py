"""Every method on every architecture: what is right, what is refused and with which words, and what is a fault.

python scripts/architectures.py                                   all of them, in a few minutes for each ten
python scripts/architectures.py --only llama bert --methods lora prefix
python scripts/architectures.py --markdown docs/architectures.md  writes the page as well

Each architecture has a process of its own, so that one that dies takes no other with it. Exit code 1 if there is a
fault.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Verdict = dict[str, Any]


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
    parser.add_argument("--examine", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.examine:
        _examine(asked.examine, asked.methods)
        return

    from tests.architectures import ARCHITECTURES

    names = [
        name
        for name, a in ARCHITECTURES.items()
        if (not asked.only or any(name == o or name.startswith(o + " ") for o in asked.only))
        and (not asked.kinds or a.kind in asked.kinds)
    ]
    if not names:
        parser.error(f"--only {' '.join(asked.only or ())}: no such architecture; known: {', '.join(ARCHITECTURES)}")
    start = time.monotonic()
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(asked.jobs) as workers:
        for count, (name, found) in enumerate(
            workers.map(lambda n: (n, _in_a_process(n, asked.methods, asked.timeout)), names), start=1
        ):
            verdicts += found
            _keep(asked, verdicts)
            left = (time.monotonic() - start) / count * (len(names) - count)
            tally = f"{sum(_is_right(v) for v in found)} right, {sum(bool(v['refused']) for v in found)} refused"
            faults = sum(bool(v["faults"]) for v in found)
            print(f"[{count}/{len(names)}, {left / 60:.0f} min left] {name}: {tally}, {faults} faulty", flush=True)
    print(summarize(verdicts))
    if asked.markdown:
        from architectures_page import page  # beside this script

        asked.markdown.write_text(page(verdicts))
    sys.exit(any(v["faults"] for v in verdicts))


def _keep(asked: argparse.Namespace, verdicts: list[Verdict]) -> None:
    if asked.faults:
        asked.faults.write_text(summarize(verdicts) + "\n")
    if asked.json:
        asked.json.write_text("".join(json.dumps(v) + "\n" for v in verdicts))


def _examine(name: str, methods: list[str] | None) -> None:
    """In the process of one architecture: print each verdict as it is found."""
    import torch
    import transformers

    import inlay
    from tests.architectures import ARCHITECTURES
    from tests.architectures.cell import examine

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for verdict in examine(ARCHITECTURES[name], methods or list(inlay.METHODS)):
        print("VERDICT " + json.dumps(asdict(verdict)), flush=True)


def _in_a_process(name: str, methods: list[str] | None, timeout: float) -> list[Verdict]:
    command = [sys.executable, "-W", "ignore", __file__, "--examine", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command + (["--methods", *methods] if methods else []),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=ROOT,
        )
        out, ended = done.stdout, f"exit code {done.returncode}: {_last_line(done.stderr)}" if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        ended = f"took more than {timeout:.0f} s"
    verdicts = [json.loads(line.removeprefix("VERDICT ")) for line in out.splitlines() if line.startswith("VERDICT ")]
    if ended:
        fault = {"kind": "crash", "check": "the process", "what": ended}
        last = verdicts[-1]["method"] if verdicts else "the start"
        verdicts.append(
            {"architecture": name, "method": f"after {last}", "refused": "", "faults": [fault], "notes": [], "left_out": []}
        )
    return verdicts


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _is_right(verdict: Verdict) -> bool:
    return not verdict["refused"] and not verdict["faults"]


def summarize(verdicts: list[Verdict]) -> str:
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
    import re

    return re.sub(r"off by \S+", "off", re.sub(r"(?<=\.)\d+(?=\.|\b)", "*", sentence))


if __name__ == "__main__":
    main()
