"""Bugs that were made or could have been, each planted in a copy of the project to see that a test catches it.

python scripts/planted_bugs.py                          all of them; first the tests themselves, without a bug
python scripts/planted_bugs.py --only scale pfeiffer    those with such a word in their name
python scripts/planted_bugs.py --kinds 3 7              those of these kinds

The bugs and their kinds are those of bugs.py. Exit code 1 if a bug is not caught, or if its line has changed and it
cannot be planted: then it needs its new text there.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bugs import BUGS, KINDS, Bug

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="bugs with one of these words in their name")
    parser.add_argument("--kinds", nargs="*", type=int, choices=list(KINDS), help="bugs of these kinds")
    parser.add_argument("--at-once", action="store_true", help="without running the tests without a bug first")
    asked = parser.parse_args()
    bugs = [
        bug
        for bug in BUGS
        if (not asked.only or any(word in bug.name for word in asked.only))
        and (not asked.kinds or bug.kind in asked.kinds)
    ]
    if not bugs:
        parser.error("no bug of that name or kind")
    with tempfile.TemporaryDirectory() as folder:
        tree = copied_tree(Path(folder))
        if not asked.at_once:
            code, said = run_tests(tree, sorted({bug.test for bug in bugs}))
            if code != 0:
                sys.exit(f"without a bug the tests do not pass:\n{said}")
        results = [(bug, *examine(bug, tree)) for bug in bugs]
    print(f"\n| bug | kind | caught by | |\n|---|---|---|---|\n{table(results)}")
    missed = [bug for bug, verdict, _ in results if verdict != "caught"]
    caught_kinds = {bug.kind for bug in BUGS}
    print(f"\n{len(bugs) - len(missed)} of {len(bugs)} caught")
    if without := [f"{kind} ({what})" for kind, what in KINDS.items() if kind not in caught_kinds]:
        print(f"kinds without a bug: {', '.join(without)}")
    sys.exit(bool(missed))


def copied_tree(folder: Path) -> Path:
    """The project's code and tests in `folder`."""
    for name in ("src", "tests", "scripts", "examples", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def examine(bug: Bug, tree: Path) -> tuple[str, float]:
    """`caught`, or why not, and the seconds that it took."""
    start = time.monotonic()
    file = tree / "src" / "inlay" / bug.file
    sound = file.read_text(encoding="utf-8") if file.is_file() else ""
    if problem := cannot_be_planted(bug, sound):
        verdict = problem
    else:
        file.write_text(sound.replace(bug.old, bug.new), encoding="utf-8")
        try:
            code, said = run_tests(tree, [bug.test])
        finally:
            file.write_text(sound, encoding="utf-8")
        verdict = {0: "NOT CAUGHT", 1: "caught"}.get(code, f"pytest ended with {code}: {said[-300:]}")
    print(f"{verdict:<12} {bug.name}", flush=True)
    return verdict, time.monotonic() - start


def cannot_be_planted(bug: Bug, sound: str) -> str:
    """Why, or nothing."""
    found = sound.count(bug.old)
    return "" if found == 1 else f"its text is in {bug.file} {found} times"


def run_tests(tree: Path, tests: list[str]) -> tuple[int, str]:
    """The largest exit code of pytest over `tests`, and what it said."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file that is changed twice within a second would be taken from there
        "OMP_NUM_THREADS": "1",
    }
    code, said = 0, ""
    for test in tests:
        path, *choice = shlex.split(test)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", f"tests/{path}"]
        done = subprocess.run(command + choice, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode > code:
            code, said = (
                done.returncode,
                f"{test}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-500:]}",
            )
    return code, said


def table(results: Iterable[tuple[Bug, str, float]]) -> str:
    return "\n".join(
        f"| {bug.name} | {bug.kind} | {bug.test.split(' ')[0]} | {verdict}, {seconds:.0f} s |"
        for bug, verdict, seconds in results
    )


if __name__ == "__main__":
    main()
