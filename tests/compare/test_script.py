"""A comparison called from a script: its processes must not run the script again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import inlay
from inlay.errors import SettingsError
from inlay.lab.compare.script import check_can_start, not_run_again

_SCRIPT = """
import inlay
print("the script runs")
rows = [{"text": f"{word} {number}", "label": word} for number in range(12) for word in ("good", "bad")]
found = inlay.compare(MODEL, rows, methods=["bitfit", "ia3"], epochs=0.5, out="runs", forgetting=False)
print(len(found.table.rows))
"""


def _run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, path], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_plain_script_can_compare(tiny_bert: str, tmp_path: Path) -> None:
    """It trained once more in every process, and said that another process was writing the folder."""
    done = _run(tmp_path, _SCRIPT.replace("MODEL", repr(tiny_bert)))
    assert done.stdout.splitlines() == ["the script runs", "2"], done.stderr


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the main script be a file of ours."""
    path = tmp_path / "main.py"
    path.write_text("import inlay")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(path), raising=False)
    return path


def test_a_script_is_hidden_unless_it_asks_whether_it_is_the_main_one(script: Path) -> None:
    own = sys.modules["__main__"]
    with not_run_again():
        assert not hasattr(sys.modules["__main__"], "__file__")
    assert sys.modules["__main__"] is own
    script.write_text('if __name__ == "__main__":\n    import inlay')
    with not_run_again():
        assert sys.modules["__main__"] is own


def test_a_method_of_the_script_itself_needs_that_question(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(inlay.LoRA):
        """A method."""

    check_can_start([Own()])
    monkeypatch.setattr(Own, "__module__", "__main__")
    with pytest.raises(SettingsError, match='Own is from the script itself.* under `if __name__ == "__main__":`'):
        check_can_start([Own()])
    script.write_text('if __name__ == "__main__":\n    import inlay')
    check_can_start([Own()])
