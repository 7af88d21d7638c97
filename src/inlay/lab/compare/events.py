"""What happens in a comparison, as sentences: its runs begin and end, and a search finds learning rates."""

from ...formats.summary import Metrics
from ...show.units import seconds_text
from ...tasks.metric import METRICS
from ...training.journal import Event

KINDS = ("compare", "expected", "rates", "trial")
"""The events of a comparison itself; the others are those of its runs, with the name of the trial."""


def sentence(event: Event) -> str | None:
    """Return the event in words; None if there is nothing to say, as of a run that begins."""
    match event["event"]:
        case "compare":
            notes = "".join(f"\nnote     {note}" for note in event["notes"])
            search = f", of which {event['searching']} look for learning rates" if event["searching"] else ""
            return f"compare  {event['runs']} runs in {event['folder']}{search}{notes}"
        case "expected":
            runs = "the run" if event["runs"] == 1 else f"{event['runs']} runs"
            return f"time     about {seconds_text(event['seconds'])} for {runs}, if all are like the first"
        case "rates":
            found = ", ".join(f"{label} {rate:.3g}" for label, rate in event["learning_rates"].items())
            return f"rates    {found}: the best on valid of those tried"
        case "trial" if event["state"] != "begins":
            count = f"{event['number']}/{event['of']}"
            trial = event["trial"] + (f" ({event['tried_rate']:.3g})" if "tried_rate" in event else "")
            if event["state"] == "failed":
                return f"{count:>7}  {trial} failed: {event['reason']}"
            took = f" in {seconds_text(event['seconds'])}" if event["seconds"] else ", as before"
            left = f", about {seconds_text(event['seconds_left'])} left" if event["seconds_left"] else ""
            if (in_all := event.get("seconds_in_all")) is not None and event["of"] > 1:
                left = f", {seconds_text(in_all)} in all"
            return f"{count:>7}  {trial} {_score(event['metrics'], event['score'])}{took}{left}"
    return None


def _score(metrics: Metrics, score: str) -> str:
    metric, tuned = METRICS[score], metrics["test"] or metrics["tuned"]
    assert tuned is not None  # of a run that is finished
    split, rows = ("test", "test_rows") if metrics["test"] else (metrics["split"], "rows")
    return f"{metric.label} {metric.text_on(tuned[score], metrics.get(rows))} on {split}"
