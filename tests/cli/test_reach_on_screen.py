import io
from typing import cast

import pytest
import torch
import transformers
from rich.text import Text

import inlay
from inlay.api.displays import TerminalDisplay
from inlay.api.progress import ProgressWatcher
from inlay.cli import main, safe_console
from inlay.formats.summary import Summary
from inlay.methods import METHODS
from inlay.report.tiles import tiles
from inlay.show.reach import reach_of, reach_text

from ..shapes import SHAPES, VOCABULARY


def test_what_is_in_reach_is_said_without_a_broken_word(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 8}
    config = transformers.Qwen3MoeConfig(**small, num_experts_per_tok=2, vocab_size=VOCABULARY)
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(config)
    reach = reach_of(inlay.attach(model, inlay.DoRA()).coverage)
    screen = io.StringIO()
    to_screen = {"file": screen, "force_terminal": True, "width": 80}
    safe = safe_console._SafeConsole
    monkeypatch.setattr(safe_console, "_SafeConsole", lambda **kw: safe(**kw | to_screen))
    with safe_console.progress(*TerminalDisplay.columns()) as bars:
        ProgressWatcher(TerminalDisplay(bars))({"event": "reach", **reach})
    shown = Text.from_ansi(screen.getvalue()).plain
    lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
    assert len(lines) > 1
    assert all(len(line) <= 80 for line in lines)
    assert reach_text(reach).split() == " ".join(lines).split()[-len(reach_text(reach).split()) :]
    assert "experts" in shown
    assert "router" in shown


def test_the_loss_of_a_run_that_goes_on_is_shown_from_its_first_step() -> None:
    """And not from zero, which it would take dozens of steps to leave."""
    step = {"event": "step", "steps": 600, "tokens_per_second": 1.0, "memory_bytes": 1, "seconds_left": 1.0}
    with safe_console.progress(*TerminalDisplay.columns()) as bars:
        watcher = ProgressWatcher(TerminalDisplay(bars))
        watcher({**step, "step": 37, "loss": 0.5})
        assert watcher.losses == {"": 0.5}
        watcher({**step, "step": 38, "loss": 1.5})
        assert watcher.losses[""] == pytest.approx(0.6)
        watcher({**step, "step": 1, "loss": 4.0})  # a run may train others
        assert watcher.losses == {"": 4.0}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method().virtual_tokens])
def test_virtual_tokens_lie_in_no_layer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = "no layer of the body is changed; the model reads 20 virtual tokens beside each text"
    assert main(["doctor", "builtin:tiny-lm", "--method", name]) == 0
    shown = " ".join(capsys.readouterr().out.partition("with its own settings")[2].split())
    assert shown == f"{name} {said}"
    reach = reach_of(inlay.attach(SHAPES["llama"].model(), METHODS[name]()).coverage)
    assert reach_text(reach) == said
    (trained,) = [tile for tile in tiles(cast(Summary, {"coverage": reach}), []) if tile.name == "Trained parameters"]
    assert trained.details == [said]
    assert "virtual_tokens" not in reach_of(inlay.attach(SHAPES["llama"].model(), inlay.LoRA()).coverage)
