"""A language model's gain over its base, in the verdict and in the tiles of a run's page."""

from collections.abc import Iterator, Sequence

from ..show.units import counted, text_or_unknown
from .metric import METRICS
from .outcomes import WrittenTexts
from .page import Judged, Tile, Verdict


def verdict(judged: Judged, written: int) -> Verdict:
    """Judge whether the loss fell by more than its uncertainty, and say what else limits that claim; `written` is the
    number of texts."""
    if (none := judged.without_scores) is not None:
        return none
    base, tuned = judged.base["loss"], judged.tuned["loss"]
    perplexities = [text_or_unknown(METRICS["perplexity"].text, of["perplexity"]) for of in (judged.base, judged.tuned)]
    gain = judged.gain or {"low": base - tuned, "high": base - tuned}
    kind = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "unclear"
    sure = f" (95 % interval of the change {METRICS['loss'].change(judged.gain)})" if judged.gain else ""
    sentence = (
        f"{'No clear gain: the' if kind == 'unclear' else 'The'} loss {'fell' if tuned < base else 'rose'} from "
        f"{base:.3f} to {tuned:.3f} nats per learned token on the {judged.rows} rows of the {judged.split} "
        f"split{sure}: perplexity {' became '.join(perplexities)}."
    )
    few = f"Texts were written for the first {counted(written, 'row')} alone, and their scores are of these."
    part = [few] if 0 < written < judged.rows else []
    notes = judged.notes(*_worse_than_copied(judged), *part, score="loss")
    unclear = "no clear gain" if kind == "unclear" else None
    return Verdict(kind=kind, sentence=sentence, unclear=unclear, notes=notes)


def _worse_than_copied(judged: Judged) -> Iterator[str]:
    """Say where the texts are worse than their prompts written again, which a lower loss does not tell."""
    copied = judged.naive.scores if judged.naive is not None else {}
    both = [
        metric for name, metric in METRICS.items() if WrittenTexts in metric.of and name in judged.tuned.keys() & copied
    ]
    ahead = {metric: metric.sign * (judged.tuned[metric.name] - copied[metric.name]) for metric in both}
    if any(gain < 0 for gain in ahead.values()) and not any(gain > 0 for gain in ahead.values()):
        scores = [f"{m.label} {m.text(judged.tuned[m.name])} beside {m.text(copied[m.name])}" for m in both]
        yield f"The texts are worse than their prompts, copied, would be: {', '.join(scores)}."


def tiles(judged: Judged, always: Sequence[str], written: int) -> list[Tile]:
    """Return the tiles of a language model's scores, of which those of texts are of so many that were written."""
    details = {"loss": [f"nats per learned token of the {judged.split} split"]}
    if judged.gain is not None:
        details["loss"].append(f"95 % of the change: {METRICS['loss'].change(judged.gain)}")
    if 0 < written < judged.rows:
        first = f"of the first {counted(written, 'row')}"
        details |= {m.name: [*filter(None, [m.meaning]), first] for m in METRICS.values() if WrittenTexts in m.of}
    return judged.tiles(always, details)
