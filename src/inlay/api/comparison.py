"""Comparisons from Python: several methods on the same data, split and budget.

comparison = inlay.compare("builtin:minilm", rows, methods=["lora", inlay.DoRA(rank=8), "full"], seeds=3)
comparison.table; comparison.best; comparison.advice
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError
from ..formats.paths import path_of
from ..lab.compare.comparison import ComparisonResult, default_folder
from ..lab.compare.comparison import compare as compare_all
from ..lab.compare.settings import CompareSettings, Contender
from ..lab.compare.tables import EQUAL, equals, equals_text, methods_table, shown
from ..lab.compare.trial import run_settings
from ..machine import refusals
from ..models.tokenizer import Tokenizer
from ..show.page import paragraphs
from ..show.table import Table
from ..training.journal import Watcher
from ..training.prepared import read_task
from .asked import named_method, settings_of, with_rows_in
from .given_data import given_data
from .given_model import given_model
from .progress import watching
from .run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compare(
    model: "str | Path | PreTrainedModel",
    data: object,
    methods: Sequence[str | Method | Contender] = (),
    *,
    tokenizer: Tokenizer | None = None,
    progress: bool | Watcher = True,
    command: Sequence[str] = (),
    **settings: object,
) -> "Comparison":
    """Train every method with every seed, and say what the figures allow one to say.

    `methods` are names, or methods with their settings; by default one of each family and full fine-tuning. Model, data
    and progress are those of `inlay.train`; settings those of `inlay compare`. The same call again goes on where it was
    stopped. A model given as an object is trained in processes of their own, and stays as it is.
    """
    if isinstance(methods, str):
        raise SettingsError(f"methods is {methods!r}; give a list of them")
    contenders = [each if isinstance(each, Contender) else _contender(each) for each in methods]
    labels = tuple(contender.label for contender in contenders)
    given = given_model(model, tokenizer)
    with given_data(data if not isinstance(data, DataSettings) else data.path) as rows:
        of_data = data if isinstance(data, DataSettings) else rows
        asked = settings_of(CompareSettings, given.name, of_data, {"methods": labels, **settings})
        if asked.quantize != "none" and any(c.quantize != "none" for c in contenders):
            raise SettingsError(
                "qlora is lora on a base in NF4, and with --quantize nf4 every method is; leave one out"
            )
        if given.base is not None and asked.then:
            raise SettingsError("then needs a model by its name, which its later runs open again; save the model first")
        task = None
        if rows.own:
            asked = with_rows_in(asked, path_of(default_folder(asked)))
        if rows.own or given.base is not None:
            with refusals():
                task = read_task(run_settings(asked, _contender("lora")), given.base, path=rows.path)
        with watching(progress) as watcher:
            found = compare_all(asked, contenders, watcher, command, task=task, begin=rows.keep)
    return Comparison(found)


@dataclass(frozen=True, repr=False)
class Comparison:
    """What came of a comparison; its folder has every run, and report.html."""

    result: ComparisonResult

    @property
    def folder(self) -> Path:
        return self.result.folder

    @property
    def table(self) -> Table:
        """One row a method: its scores and what it cost, with the deviation over seeds."""
        return methods_table(self.result.table, shown(self.result.table))

    @property
    def advice(self) -> str | None:
        """What can be said of the methods, in words; None if nothing was finished."""
        return self.result.advice.text if self.result.advice else None

    @property
    def best(self) -> str | None:
        """The method with the best score."""
        return self.result.advice.best if self.result.advice else None

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The finished runs of each method, one for each seed."""
        return {row.label: [Run(run.folder) for run in row.runs] for row in self.result.table.rows}

    def __repr__(self) -> str:
        said = (f"Comparison in {self.folder}", str(self._marked), self._legend, self.advice)
        return "\n".join(filter(None, said))

    def _repr_html_(self) -> str:
        said = filter(None, (self._legend, self.advice, f"Everything is in {self.folder / 'report.html'}."))
        return self._marked.html() + paragraphs(said)

    @property
    def _marked(self) -> Table:
        """The table with a sign behind the methods that cannot be told from the best."""
        return methods_table(self.result.table, shown(self.result.table), marked=equals(self.result))

    @property
    def _legend(self) -> str | None:
        means = equals_text(self.result)
        return means and f"{EQUAL} {means}."


def _contender(asked: str | Method) -> Contender:
    """Take a name, or a method with its settings, which stand in its label."""
    method, implied = named_method(asked)
    quantize: Literal["none", "nf4"] = implied.get("quantize", "none")
    if isinstance(asked, str):
        return Contender(label=asked, method=method, quantize=quantize)
    fields = {field.name: getattr(asked, field.name) for field in dataclasses.fields(type(asked))}
    own = ",".join(f"{name}={value}" for name, value in fields.items() if value != getattr(type(asked)(), name))
    return Contender(label=f"{asked.name}:{own}" if own else asked.name, method=method, quantize=quantize)
