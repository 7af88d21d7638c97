"""What `inlay demo` trains, by the name of its choice: a built-in model on built-in data, and what it is then asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Demonstration:
    """A run of a task, and questions to what it has trained."""

    run: tuple[str, ...]
    """The arguments of `inlay train`."""
    inputs: tuple[str, ...]
    shown: str
    """How an answer is shown, by the names of its values; `base` is what the base alone answers."""
    with_base: bool = False


DEMOS = {
    "classify": Demonstration(
        ("builtin:minilm", "builtin:tickets", "--epochs", "6", "--evaluations-per-epoch", "2"),
        (
            "you charged me twice for the same order?? i want to know why",
            "hi! before i buy: can i send it back if it doesnt fit",
            "the app says delivered but theres nothing here, where is it",
        ),
        "  {label:<16} {probability:>7}  {text}",
    ),
    "generate": Demonstration(
        ("builtin:tiny-lm", "builtin:captions", "--evaluations-per-epoch", "1"),
        (
            "animal: fox | colour: red | action: sleeping | place: under the bridge",
            "person: tailor | mood: happy | object: lantern",
            "number: three | animal: rabbits | action: dancing | time: midnight",
        ),
        "  {prompt}\n    base   {base}\n    tuned  {text}",
        with_base=True,
    ),
}
