"""inlay demo: a real adapter on a real pretrained model, offline, within a few minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..ranges import SEED, check_settings
from .console import watching
from .parse import parse
from .train import next_steps, parse_settings

_RUNS = {
    "classify": ("builtin:minilm", "builtin:tickets", "--epochs", "6", "--evaluations-per-epoch", "2"),
    "generate": ("builtin:tiny-lm", "builtin:captions", "--learning-rate", "5e-3", "--evaluations-per-epoch", "1"),
}
_TEXTS = (
    "you charged me twice for the same order?? i want to know why",
    "hi! before i buy: can i send it back if it doesnt fit",
    "the app says delivered but theres nothing here, where is it",
)
_PROMPTS = (
    "animal: fox | colour: red | action: sleeping | place: under the bridge",
    "person: tailor | mood: happy | object: lantern",
    "number: three | animal: rabbits | action: dancing | time: midnight",
)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train LoRA offline on a model and data that come with Inlay, and use it on new texts."""

    task: Literal["classify", "generate"] = "classify"
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
    run = [*_RUNS[command.task], "--seed", str(command.seed)]
    run += ["--out", command.out] if command.out else []
    settings = parse_settings(run)
    if not command.json:
        print(f"$ inlay train {' '.join(run)}\n")
    with watching(command.json) as watcher:
        from ..training.run import train

        summary = train(settings, watcher, command=["inlay", "train", *run])
    if not command.json:
        print()
        (_label_texts if command.task == "classify" else _answer_prompts)(Path(summary["folder"]))
        print("\n" + next_steps(summary))
    return 0


def _label_texts(folder: Path) -> None:
    from ..inference.classifier import open_classifier

    classifier = open_classifier(folder)
    for text, row in zip(_TEXTS, classifier.log_probabilities([(t, None) for t in _TEXTS]).exp(), strict=True):
        print(f"  {classifier.labels[int(row.argmax())]:<16} {row.max().item():>6.1%}  {text}")


def _answer_prompts(folder: Path) -> None:
    """By the base alone, and with the adapter."""
    from ..core.active import using
    from ..inference.generator import open_generator

    generator = open_generator(folder)
    asked = [[{"role": "user", "content": prompt}] for prompt in _PROMPTS]
    with using(generator.opened.model):
        before = generator.answers(asked)
    for prompt, base, tuned in zip(_PROMPTS, before, generator.answers(asked), strict=True):
        print(f"  {prompt}\n    base   {' '.join(base.split())[:90]}\n    tuned  {' '.join(tuned.split())}")
