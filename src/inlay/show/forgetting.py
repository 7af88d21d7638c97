"""What a run has forgotten, in words: the figures of summary.json's `forgetting`, and what they mean."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, NotRequired, TypedDict

from .table import Column, Table
from .units import percent_text, points_text, signed

Level = Literal["low", "moderate", "high", "unclear", "unknown"]

# Nats per token. In PEFT's benchmark (MetaMathQA, Llama-3.2-3B) full fine-tuning has 0.03, LoRA of rank 32 0.05 and
# rsLoRA of rank 64, the best at the task, 0.11; above 0.15 lie runs that have damaged the model.
_LESS = "To forget less: bound it (--forget-at-most), a lower learning rate, fewer epochs, or --retain-weight."
MODERATE, HIGH = 0.05, 0.15
_UNMOVED = 1e-6  # of a figure that is 0 but for rounding
_CLEAR = 0.1  # of the probe's accuracy: a loss as large as this must be ruled out before none is reported


MOVED = "1 − CKA; 0: unchanged, 1: unrelated"
"""What an encoder's figure is and what the ends of its scale mean, said wherever it is shown."""


class Passages(TypedDict):
    """The general text that forgetting was measured on, and the time that it took."""

    source: str
    seconds: float
    passages_there: NotRequired[int]
    """How many there are to measure; a short run takes the first of them."""


class LossChange(TypedDict):
    """A language model's losses on general text, in nats per token, as summary.json has them under `forgetting`."""

    measure: Literal["loss"]
    value: float
    """The tuned model's loss less the base's."""
    interval: Sequence[float]
    passages: int
    tokens: int
    base_loss: float
    tuned_loss: float
    kl: float
    kl_interval: Sequence[float]
    kl_positions: int


class ProbeScores(TypedDict):
    """The shares of passages whose kind is told from their representations; None where all are of one kind."""

    probe_base: float | None
    probe_tuned: float | None
    probe_interval: Sequence[float] | None
    """The 95 % interval of the change."""


class GeometryChange(ProbeScores):
    """A model's sentence representations of general text beside the base's, in the same place."""

    measure: Literal["geometry"]
    value: float
    """1 - CKA."""
    interval: Sequence[float]
    passages: int
    tokens: int
    cka: float


class LossForgetting(LossChange, Passages):
    """A measurement of a language model, complete."""


class GeometryForgetting(GeometryChange, Passages):
    """A measurement of an encoder, complete."""


Forgetting = LossForgetting | GeometryForgetting


@dataclass(frozen=True, kw_only=True)
class ForgettingSection:
    level: Level
    sentence: str
    table: Table
    notes: list[str]
    """What the figures are, and what can be done."""


def forgetting_text(found: Forgetting) -> str:
    """Write the figures in one line, which begins with what they come to."""
    on = passages_text(found)
    if _is_part(found):
        on += " (more would take over a twentieth of the training's time)"
    if found["measure"] == "loss":
        return (
            f"{_head(found)} On general text the loss went from {found['base_loss']:.3f} to "
            f"{found['tuned_loss']:.3f}: {_signed(found['value'])} nats per token (95 % {interval_text(found)}), "
            f"{level(found)}; "
            f"KL {found['kl']:.3f}; {on}"
        )
    return f"{_head(found)} {_of_encoder(found)} Measured on {on}."


def _is_unmoved(found: GeometryForgetting) -> bool:
    """Tell whether the embeddings are the base's, as of an adapter that is kept as it began."""
    return abs(found["interval"][1]) < _UNMOVED and found["probe_base"] == found["probe_tuned"]


def _of_encoder(found: GeometryForgetting) -> str:
    """Say whether general text is still told apart, which is a loss or none, and how far its embeddings moved."""
    if _is_unmoved(found):
        return "On general text nothing has changed: the embeddings are those of the base."
    moved = f"embeddings moved by {_plain(found['value'])} ({MOVED}; 95 % {interval_text(found)})."
    if (probe := _probe(found)) is None:
        return f"On general text the {moved}"
    outcome = {"moderate": "the model lost something", "low": "no loss was found"}.get(
        level(found), "a loss is unclear"
    )
    return (
        f"On general text {outcome}: it recognises the kind of {percent_text(probe.tuned)} of the passages, the base "
        f"that of {percent_text(probe.base)} ({points_text(probe.tuned - probe.base)} points, 95 % "
        f"{_between(probe.interval, points_text)}). The {moved}"
    )


def _head(found: Forgetting) -> str:
    """Return the word that the line begins with, in as many columns as that of every event: what came of the general
    text if something did, else what the line is about."""
    found_out = level(found)
    if found["measure"] == "loss" and found_out == "low" and found["interval"][0] > 0:
        found_out = "moderate"  # a little was lost
    heads = {"low": "general", "moderate": "forgot", "high": "forgot", "unclear": "unclear", "unknown": "changed"}
    return f"{heads[found_out]:<7}"


def forgetting_section(found: Forgetting) -> ForgettingSection:
    """Return the part of a run's page."""
    return _of_loss(found) if found["measure"] == "loss" else _of_geometry(found)


def level(found: Forgetting) -> Level:
    """Judge a loss by its size; a geometry, for whose CKA nobody has a scale, by whether the probe task has lost.
    `unclear` is what may as well be nothing as something that matters."""
    if found["measure"] == "loss":
        low, high = found["interval"]
        if low <= 0 and high >= MODERATE:
            return "unclear"
        return "low" if found["value"] < MODERATE else "moderate" if found["value"] < HIGH else "high"
    if _is_unmoved(found):
        return "low"
    if (probe := _probe(found)) is None:
        return "unknown"
    low, high = probe.interval
    return "moderate" if high < 0 else "low" if low > -_CLEAR else "unclear"


def interval_text(found: Forgetting) -> str:
    """Write the 95 % interval of the loss's change, or of how far embeddings moved."""
    return _between(found["interval"], _signed if found["measure"] == "loss" else _plain)


def _of_loss(found: LossForgetting) -> ForgettingSection:
    value, (low, high) = found["value"], found["interval"]
    spread = f"95 % interval {_between((low, high))}"
    if low <= 0 <= high:
        found_it = "Inconclusive" if level(found) == "unclear" else "No measurable forgetting"
        sentence = f"{found_it}: the loss on general text changed by {_signed(value)} nats per token ({spread})."
    elif value < 0:
        sentence = f"The model forgot nothing: on general text its loss fell by {-value:.3f} nats per token ({spread})."
    else:
        how_much = {"low": "little", "moderate": "something", "high": "much"}[level(found)]
        times = math.exp(value)
        higher = f"{percent_text(times - 1)} higher" if times < 2 else f"{times:.3g} times as high"
        sentence = (
            f"The model forgot {how_much}: its loss on general text is {value:.3f} nats per token above the base's "
            f"({spread}), so its perplexity there is {higher}."
        )
    notes = [
        f"Below {MODERATE} is low, above {HIGH} high, as in PEFT's benchmark, which measures the same on other text.",
        "KL: how far the predictions of the next token have moved from the base's, for better or worse.",
        _measured_on(found),
    ]
    if level(found) in ("moderate", "high"):
        notes.append(_LESS)
    rows = [
        [
            "loss on general text, nats per token",
            _plain(found["base_loss"]),
            _plain(found["tuned_loss"]),
            _signed(value),
            _between((low, high)),
        ],
        ["KL from the base, nats per token", "", _plain(found["kl"]), "", _between(found["kl_interval"], _plain)],
    ]
    return ForgettingSection(level=level(found), sentence=sentence, table=_table(rows), notes=notes)


def _of_geometry(found: GeometryForgetting) -> ForgettingSection:
    rows = [["embeddings moved, 1 − CKA", "", _plain(found["value"]), "", interval_text(found)]]
    notes = [
        "1 − CKA says how far other texts lie near each other than before: 0 is unchanged but for rotation and size, 1 "
        "is unrelated. Nobody has a scale of what is much or little between; it compares runs on the same base.",
        _measured_on(found),
    ]
    if (probe := _probe(found)) is not None:
        rows.append(
            [
                "kind of text recognised, by which kind's mean embedding is nearest",
                percent_text(probe.base),
                percent_text(probe.tuned),
                f"{points_text(probe.tuned - probe.base)} points",
                _between(probe.interval, points_text),
            ]
        )
        notes.insert(
            0,
            "It is called a loss if fewer kinds are recognised and the whole interval is below 0, and no loss if one "
            "of ten points is ruled out; else it is unclear, and more passages would tell.",
        )
        if level(found) == "moderate":
            notes.append(_LESS)
    return ForgettingSection(level=level(found), sentence=_of_encoder(found), table=_table(rows), notes=notes)


def _measured_on(found: Forgetting) -> str:
    more = ": more would take over a twentieth of the training's time" if _is_part(found) else ""
    return (
        f"Measured before and after training on {passages_text(found)}, {found['tokens']:,} tokens{more}. The "
        "intervals are over passages."
    )


def passages_text(found: Forgetting) -> str:
    """Write what was measured, such as `24 of 168 passages of builtin:passages`."""
    there = f" of {found.get('passages_there', 0):,}" if _is_part(found) else ""
    return f"{found['passages']:,}{there} passages of {found['source']}"


def _is_part(found: Forgetting) -> bool:
    """Tell whether there are more passages than a run of this length measures."""
    return found.get("passages_there", 0) > found["passages"]


class _Probe(NamedTuple):
    base: float
    tuned: float
    interval: Sequence[float]


def _probe(found: GeometryForgetting) -> _Probe | None:
    base, tuned, interval = found["probe_base"], found["probe_tuned"], found["probe_interval"]
    return None if base is None or tuned is None or interval is None else _Probe(base, tuned, interval)


def _table(rows: list[list[str]]) -> Table:
    names = ("", "base", "tuned", "change", "95 % interval")
    return Table(columns=[Column(name=name, right=bool(name)) for name in names], rows=rows)


def _signed(value: float) -> str:
    return signed(value, 3)


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _between(interval: Sequence[float], text: Callable[[float], str] = _signed) -> str:
    return f"{text(interval[0])} to {text(interval[1])}"
