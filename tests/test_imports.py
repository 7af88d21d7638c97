"""Every module can be imported by itself: no ring hides behind the order in which others are imported."""

import subprocess
import sys

import pytest

ALONE = """
import importlib, pkgutil, sys, torch, transformers
import inlay
for module in pkgutil.walk_packages(inlay.__path__, "inlay."):
    if not module.name.endswith("__main__"):
        for name in [name for name in sys.modules if name.partition(".")[0] == "inlay"]:
            del sys.modules[name]
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 300


LIGHT = """
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from inlay.cli import VERBS, main

heavy = lambda: [name for name in ("torch", "transformers", "scipy", "jinja2") if name in sys.modules]
for verb in [verb for verb in VERBS if verb not in ("train", "compare", "plan")]:
    with redirect_stdout(StringIO()):
        try:
            main([verb, "--help"])
        except SystemExit:
            pass
    with redirect_stderr(StringIO()) as wrong:
        assert main([verb, "--nothing"]) == 2, verb
    assert "unknown setting --nothing" in wrong.getvalue(), wrong.getvalue()
    assert not heavy(), (verb, heavy())
"""


def test_help_and_a_wrong_flag_wait_for_no_heavy_library() -> None:
    """Of the verbs whose flags are not those of a method, which is made of PyTorch's modules."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
