"""inlay demo: a real adapter on a real pretrained model, offline, within a minute and a half on two cores."""

from dataclasses import dataclass
from pathlib import Path

from .console import watching
from .parse import parse
from .train import next_steps, parse_settings

_SHORT = ("--epochs", "6", "--evaluations-per-epoch", "2")
_EXAMPLES = (
    "you charged me twice for the same order?? i want to know why",
    "hi! before i buy: can i send it back if it doesnt fit",
    "the app says delivered but theres nothing here, where is it",
)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train LoRA on builtin:minilm with builtin:tickets (support messages, 10 intents), offline, and label texts."""

    out: str | None = None
    """Folder for the run; must be new or empty. Default: runs/tickets-lora, with a number if that exists."""
    seed: int = 0
    """Of the new head, the adapter's start, the order of the rows and dropout."""
    json: bool = False
    """Print one JSON event per line instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Demo, arguments, "demo")
    run = ["builtin:minilm", "builtin:tickets", *_SHORT, "--seed", str(command.seed)]
    run += ["--out", command.out] if command.out else []
    settings = parse_settings(run)
    if not command.json:
        print(f"$ inlay train {' '.join(run)}\n")
    with watching(command.json) as watcher:
        from ..training.run import train

        summary = train(settings, watcher, command=["inlay", "train", *run])
    if not command.json:
        print()
        _label_examples(summary["folder"])
        print("\n" + next_steps(summary))
    return 0


def _label_examples(folder: str) -> None:
    from ..inference.classifier import open_classifier

    classifier = open_classifier(Path(folder))
    for text, row in zip(_EXAMPLES, classifier.log_probabilities([(t, None) for t in _EXAMPLES]).exp(), strict=True):
        print(f"  {classifier.labels[int(row.argmax())]:<16} {row.max().item():>6.1%}  {text}")
