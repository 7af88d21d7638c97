"""inlay demo: a real adapter on a real pretrained model, offline, within a few minutes on two cores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ..ranges import SEED, check_settings
from ..tasks.demos import DEMOS, Demonstration
from .parse import parse
from .screen import show
from .train import next_steps, parse_settings, train_as_asked

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
    run = [*DEMOS[command.task].run, "--seed", str(command.seed)]
    run += ["--out", command.out] if command.out else []
    settings = parse_settings([*run, *(["--json"] if command.json else [])])
    if not command.json:
        show(f"$ inlay train {' '.join(run)}\n", indent=4)
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
        values = {name: " ".join(v.split()) if isinstance(v, str) else v for name, v in values.items()}
        show(demo.shown.format(**values, base=by_base), indent=4)
