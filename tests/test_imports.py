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
