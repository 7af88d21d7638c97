"""inlay demo: a real adapter on a real pretrained model, offline, within a few minutes on two cores."""

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ..ranges import SEED, check_settings
from ..show.units import percent_text
from .demos import DEMOS, Demonstration
from .next_steps import next_steps
from .parse import parse
from .screen import show

if TYPE_CHECKING:
    from ..api.run import Run


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train LoRA offline on a model and data that come with Inlay, and use it on new texts."""

    task: Literal[tuple(DEMOS)] = next(iter(DEMOS))  # pyright: ignore[reportInvalidTypeForm]
    """classify: builtin:minilm learns the intents of builtin:tickets, support messages. generate: builtin:tiny-lm
    learns to write sentences from the attributes of builtin:captions."""
    out: str | None = None
    """Folder for the run; must be new or empty. Default: runs/DATA-lora, with a number if that exists."""
    seed: Annotated[int, SEED] = 0
    """Random seed for the new head, the adapter's start, the order of the rows and dropout."""
    json: bool = False
    """Print one JSON event per line instead of text."""

    def __post_init__(self) -> None:
        check_settings(self)


def main(arguments: list[str]) -> int:
    command = parse(Demo, arguments, "demo")
    from .train import parse_settings, train_as_asked

    run = [*DEMOS[command.task].run, "--seed", str(command.seed)]
    run += ["--out", command.out] if command.out else []
    settings = parse_settings([*run, *(["--json"] if command.json else [])])
    if not command.json:
        show(f"$ inlay train {shlex.join(run)}\n", indent=4)
    trained = train_as_asked(settings, run)
    if not command.json:
        print()
        _show_answers(DEMOS[command.task], trained)
        show("\n" + next_steps(trained))
    return 0


def _show_answers(demo: Demonstration, run: "Run") -> None:
    """Show what the tuned model answers, and the base alone where that says something."""
    from ..core.active import using

    tuned = run.predict(demo.inputs)
    base = [""] * len(tuned)
    if demo.with_base:
        with using(run.model):
            base = [answer.line for answer in run.answer(demo.inputs)]
    for values, by_base in zip(tuned, base, strict=True):
        show(_answer(demo, values, by_base), indent=11)


def _answer(demo: Demonstration, values: Mapping[str, object], base: str) -> str:
    """Write one answer of the tuned model, beside the beginning of the base's."""
    texts = {
        name: percent_text(value) if isinstance(value, float) else " ".join(str(value).split())
        for name, value in values.items()
    }
    return demo.shown.format(**texts, base=textwrap.shorten(base, 90, placeholder=" …"))
