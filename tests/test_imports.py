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

def check(arguments, code, heavy, says=""):
    with redirect_stdout(StringIO()) as shown, redirect_stderr(shown):
        try:
            done = main(arguments)
        except SystemExit as stop:
            done = stop.code
    assert (done, says in shown.getvalue()) == (code, True), (arguments, shown.getvalue())
    assert not (found := [name for name in heavy if name in sys.modules]), (arguments, found)

of_models = ("transformers", "accelerate", "torch.distributed.fsdp", "torch.distributed.tensor", "torch._dynamo")
heavy = (*of_models, "scipy", "jinja2", "datasets")
of_methods = ("train", "compare", "plan")
for verb in (verb for verb in VERBS if verb not in of_methods):
    check([verb, "--help"], 0, ("torch", *heavy))
    check([verb, "--nothing"], 2, ("torch", *heavy), "unknown setting --nothing")
for verb in of_methods:
    check([verb, "--help"], 0, heavy)
    check([verb, "no-model", "no-data", "--nothing"], 2, heavy, "unknown setting --nothing")
check(["train", "no-model", "no-data", "--method", "nothing"], 2, heavy, "unknown method 'nothing'")
check(["train", "no-model", "no-data", "--method.rank", "0"], 2, heavy, "method.rank is 0")
check(["methods", "nothing"], 2, heavy, "unknown method 'nothing'")
"""


def test_help_and_a_wrong_flag_wait_for_no_heavy_library() -> None:
    """The flags of a method wait for PyTorch, whose modules a method is made of, and for nothing that has models."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
