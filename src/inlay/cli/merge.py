"""inlay merge RUN_OR_ADAPTER OUT: a plain checkpoint with the adapter folded in, loaded again and compared."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..formats.event import Event
from ..show.units import bytes_text, count_text, counted, percent_text, seconds_text
from .parse import parse
from .screen import print_json, show


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Fold a trained adapter into its base and write that as a plain checkpoint, which transformers loads by itself.

    The checkpoint has the dtype of the base's files. It is loaded again and must give the logits of base + adapter. A
    fully fine-tuned model is written likewise. Soft prompts and bottleneck adapters change no weights and cannot be
    merged.
    """

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """The folder of a run or of an adapter."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """Folder for the checkpoint; must be new or empty."""
    into: Literal["base", "dequantized"] = "base"
    """For an adapter trained on a base in 4 bits: merge into the base as it was before, or into the weights that the 4
    bits stand for, with which it was trained."""
    model: str | None = None
    """The base model, if it has moved."""
    allow_download: bool = False
    """Download what only the adapter's files name and this machine lacks."""
    device: str = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object per step instead of text."""


def main(arguments: list[str]) -> int:
    command = parse(Merge, arguments, "merge")
    from ..api.run import open

    run = open(command.adapter, command.model, device=command.device, allow_download=command.allow_download)
    run.merge(command.out, command.into, print_json if command.json else _line)
    return 0


def _line(event: Event) -> None:
    show(_sentence(event))


def _sentence(event: Event) -> str:
    match event["event"]:
        case "note":
            return f"note    {event['text']}"
        case "model":
            return (
                f"model   {event['model']}: {event['class']}, {count_text(event['total_parameters'])} parameters in "
                f"{event['dtype']}, as its files have them, on {event['device']}"
            )
        case "merged":
            head = f", and the trained head ({', '.join(event['heads'])})" if event["heads"] else ""
            return f"merge   {event['method']} into {counted(event['hosts'], 'layer')}{head}"
        case "checked":
            of = "of the run" if event["of"] == "run" else "of random tokens"
            first = f"the first {tokens} tokens of " if (tokens := event.get("tokens")) else ""
            return (
                f"check   loaded again: on {first}{event['texts']} texts {of} the logits differ from those of base + "
                f"adapter by at most {event['largest_difference']:.2g} (the largest is {event['largest_logit']:.3g}), "
                f"by {event['rms_difference']:.2g} in root mean square; the adapter changes them by "
                f"{event['rms_change']:.2g}"
            )
        case "changed":
            return f"change  {_change(event)}"
        case "finished":
            return (
                f"done    {bytes_text(event['bytes'])} in {event['dtype']} in {seconds_text(event['seconds'])}; use it "
                f'with transformers.{event["auto_class"]}.from_pretrained("{event["folder"]}")'
            )
    raise ValueError(f"no sentence for the event {event['event']!r}")


def _change(event: Event) -> str:
    trained = f"a base in {event['trained_dtype']}"
    into = "one in the dtype of its files"
    if event["trained_quantize"] != "none":
        trained = f"a base in {event['trained_quantize']}"
        into = "the base as it was before" if event["into"] == "base" else "the weights that its 4 bits stand for"
    return (
        f"trained on {trained}, merged into {into}: of {event['outputs']} outputs {percent_text(event['agreement'])} "
        f"have the same most probable token or label, and the distributions differ by {event['divergence']:.2g} nats "
        "(KL) on average"
    )
