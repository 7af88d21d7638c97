"""inlay demo: a real adapter on a real pretrained model, offline, within a few minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..ranges import SEED, check_settings
from ..tasks.demos import DEMOS, Demonstration
from .console import watching
from .parse import parse
from .train import next_steps, parse_settings


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train LoRA offline on a model and data that come with Inlay, and use it on new texts."""

    task: Literal[tuple(DEMOS)] = next(iter(DEMOS))  # pyright: ignore[reportInvalidTypeForm]
    """classify: builtin:minilm learns the intents of builtin:tickets, support messages. generate: builtin:tiny-lm
    learns to make the attributes of builtin:captions into sentences."""
    out: str | None = None
    """Folder for the run; must be new or empty. Default: runs/DATA-lora, with a number if that exists."""
    seed: Annotated[int, SEED] = 0
    """Of the new head, the adapter's start, the order of the rows and dropout."""
    json: bool = False
    """Print one JSON event per line instead of text."""

    def __post_init__(self) -> None:
        check_settings(self)


def main(arguments: list[str]) -> int:
    command = parse(Demo, arguments, "demo")
    run = [*DEMOS[command.task].run, "--seed", str(command.seed)]
    run += ["--out", command.out] if command.out else []
    settings = parse_settings(run)
    if not command.json:
        print(f"$ inlay train {' '.join(run)}\n")
    with watching(command.json) as watcher:
        from ..training.run import train

        summary = train(settings, watcher, command=["inlay", "train", *run])
    if not command.json:
        print()
        _show_answers(DEMOS[command.task], Path(summary["folder"]))
        print("\n" + next_steps(summary["folder"]))
    return 0


def _show_answers(demo: Demonstration, folder: Path) -> None:
    """Show what the tuned model answers, and the base alone where that says something."""
    from ..core.active import using
    from ..inference.opened import open_adapter

    opened = open_adapter(folder)
    tuned = [answer.values for answer in opened.answer(demo.inputs)]
    base = [""] * len(tuned)
    if demo.with_base:
        with using(opened.model):
            base = [answer.line for answer in opened.answer(demo.inputs)]
    for values, by_base in zip(tuned, base, strict=True):
        values = {name: " ".join(v.split()) if isinstance(v, str) else v for name, v in values.items()}
        print(demo.shown.format(**values, base=by_base))
