"""inlay eval RUN_OR_ADAPTER [DATA]: the tuned model's scores, beside its base's."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import SettingsError
from ..formats.paths import path_of
from ..outside import shown
from ..ranges import Range, check_settings
from ..show.table import Column, Table
from ..show.units import counted
from .arguments import OtherData
from .console import progress_shown
from .parse import parse
from .screen import print_json, show, width

if TYPE_CHECKING:
    from ..inference.evaluation import AdapterScores
    from ..tasks.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Score a trained adapter beside its base: on the data that it was trained with, or on DATA."""

    adapter: Annotated[Positional[str], arg(metavar="RUN_OR_ADAPTER")]
    """The folder of a run or of an adapter."""
    data: OtherData = OtherData()
    split: Literal["train", "valid", "test"] | None = None
    """Which part of the run's data, or of a folder. Default: valid, or the only one there."""
    samples: Annotated[int | None, Range(0, 10_000_000)] = None
    """Rows to generate text for; BLEU and the like are computed on them. Default: as many as in training."""
    model: str | None = None
    """The base model, if it has moved."""
    allow_download: bool = False
    """Download what only the adapter's files name and this machine lacks."""
    device: str = "auto"
    """Where to compute."""
    report: bool = False
    """Only write the run's report again, from the files in its folder; nothing is computed."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        check_settings(self)


def main(arguments: list[str]) -> int:
    command = parse(Eval, arguments, "eval")
    if command.report:
        return _make_report(command)
    result = _evaluate(command)
    if command.json:
        print_json(result)
        return 0
    of_split = f" of {result['split']}" if result["split"] else ""
    show(f"{counted(result['rows'], 'row')}{of_split} from {result['data']}", 2)
    print(_scores(result).screen(width()))
    baseline = result["baseline"]
    if baseline is not None and baseline["answer"] is not None:
        print(f"baseline: every row gets {baseline['name']}, {shown(baseline['answer'])}")
    elif baseline is not None and baseline["scores"] != result["base"]:
        print(f"baseline: {baseline['name']}; its texts here are the prompts, copied")
    if _is_chance(result):
        show(f"base: its head is new and answers at random{_chance(result)}; it is no baseline", 2)
    if any(metric.is_share_of_rows for metric in _metrics(result).values()):
        print("in brackets: 95 % interval")
    elif result["gain"] is not None:
        metric = next(iter(_metrics(result).values()))
        print(f"95 % of the {metric.label}'s change from base to tuned: {metric.change(result['gain'])}")
    if result["unclear"] and not result["warning"]:
        print(f"tuned: {result['unclear']}")
    if result["base"] is None:
        print("base: none to compare with; full fine-tuning changed the base itself")
    if result["samples"] is not None and result["samples"] < result["rows"]:
        which = f"the first {counted(result['samples'], 'row')}" if result["samples"] else "no row"
        default = ", as in training" if command.samples is None else ""
        show(
            f"texts: written for {which}{default}; their scores are of these alone (--samples {result['rows']} for all)"
        )
    for note in result["notes"]:
        show(f"note: {note}", 2)
    if result["warning"]:
        show(f"warning: {result['warning']}", 2)
    return 0


def _scores(result: "AdapterScores") -> Table:
    """Return the scores, with those of the baseline where it is not the base itself, and of the base where it is not
    one with a new head."""
    models = {"baseline": (result["baseline"] or {}).get("scores"), "base": result["base"], "tuned": result["tuned"]}
    if models["baseline"] in (None, result["base"]):
        del models["baseline"]
    if _is_chance(result):
        del models["base"]
    columns = [Column(name=""), *(Column(name=name, right=True) for name in models), Column(name="")]

    def text(model: str, metric: "Metric", value: float | None) -> str | None:
        counted_on = None if model == "baseline" else result["rows"]
        return None if value is None else metric.text_on(value, counted_on, tell_rows=False)

    rows = [
        [metric.label, *(text(model, metric, (of or {}).get(name)) for model, of in models.items()), metric.meaning]
        for name, metric in _metrics(result).items()
    ]
    return Table(columns=columns, rows=rows)


def _metrics(result: "AdapterScores") -> "dict[str, Metric]":
    from ..tasks.metric import METRICS

    return {name: metric for name, metric in METRICS.items() if name in result["tuned"]}


def _is_chance(result: "AdapterScores") -> bool:
    """Tell whether the base's scores are those of a new head, beside which there is a baseline."""
    return result["base_is_random"] and result["base"] is not None and result["baseline"] is not None


def _chance(result: "AdapterScores") -> str:
    """Write what such a base scores, by the first metric."""
    name, metric = next(iter(_metrics(result).items()))
    return f" ({metric.label} {metric.text((result['base'] or {})[name])})"


def _make_report(command: Eval) -> int:
    from ..api.run import Run

    if others := sorted(name for name, value in vars(command).items() if value != vars(Eval(adapter="")).get(name)):
        given = [name for name in others if name not in ("adapter", "report", "json")]
        if given:
            raise SettingsError(f"--report makes a page of what the run has written; leave out {', '.join(given)}")
    page = Run(path_of(command.adapter)).report()
    if command.json:
        print_json({"report": str(page)})
    else:
        print(f"report  {page}")
    return 0


def _evaluate(command: Eval) -> "AdapterScores":
    from ..api.run import open
    from .assumptions import say

    run = open(command.adapter, command.model, device=command.device, allow_download=command.allow_download)
    say(run)
    with progress_shown():
        return run.evaluate(command.data.path, command.split, command.samples, **command.data.asked())
