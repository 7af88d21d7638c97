"""The rank of what was learned, and a rank for each layer before anything is trained, as objects to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ..core.method import Method
from ..data.settings import DataSettings
from ..errors import SettingsError, did_you_mean
from ..formats.files import check_free, write_json
from ..formats.paths import path_of
from ..lab.rank.advice import advice
from ..lab.rank.analysis import Analysis
from ..lab.rank.page import curve_table, layer_table
from ..lab.rank.screen import analysis_screen, ranks_table, role_table, suggestion_notes, suggestion_screen
from ..lab.rank.suggestion import From, Suggestion, suggest
from ..lab.rank.suggestion import attempt as train_both
from ..machine import refusals
from ..methods.ranked import Ranked
from ..models.tokenizer import Tokenizer
from ..show.page import paragraphs
from ..show.table import Table
from ..training.journal import Watcher
from ..training.prepared import read_task
from ..training.settings import RunSettings
from .asked import named_method, settings_of, with_rows_in
from .given_data import given_data
from .given_model import given_model
from .progress import watching

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, repr=False)
class RankAnalysis:
    """The rank of what a run has learned, and what a smaller one would score; `page` shows all of it."""

    result: Analysis
    page: Path
    """rank.html, beside which rank.json has the same for programs."""

    @property
    def layers(self) -> Table:
        """One row for each layer: the ranks of its update, its size, and how it lies to the base's directions."""
        return layer_table(self.result.layers)

    @property
    def roles(self) -> Table:
        """One column for each role that a layer has in the model, one row for each figure."""
        return role_table(self.result)

    @property
    def curve(self) -> Table | None:
        """The score of the whole update, and of each cut; None if that was not measured."""
        return curve_table(self.result.curve) if self.result.curve else None

    @property
    def advice(self) -> Sequence[str]:
        """What follows, in sentences."""
        return [*advice(self.result), *self.result.notes]

    def text(self, columns: int | None = None) -> str:
        """Return it for a terminal of so many columns; without, no line is broken."""
        return analysis_screen(self.result, columns)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        curve = self.curve.html() if self.curve else ""
        return self.roles.html() + curve + paragraphs([*self.advice, f"Everything is in {self.page}."])


@dataclass(frozen=True, repr=False)
class RankSuggestion:
    """A rank for each layer, in as many parameters as one rank everywhere would take."""

    result: Suggestion

    @property
    def method(self) -> Method:
        """The method with these ranks, to be trained."""
        return self.result.method

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer, by its name."""
        return self.result.ranks

    @property
    def table(self) -> Table:
        """One row for each role that a layer has in the model."""
        return ranks_table(self.result)

    @property
    def notes(self) -> Sequence[str]:
        """What the figures say, and what they cannot say."""
        return suggestion_notes(self.result)

    def text(self, columns: int | None = None) -> str:
        """Return it for a terminal of so many columns; without, no line is broken."""
        return suggestion_screen(self.result, columns)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.table.html() + paragraphs(self.notes)


def suggest_rank(
    model: "str | Path | PreTrainedModel",
    data: object,
    method: str | Method = "lora",
    *,
    origin: From = "gradients",
    out: str | Path | None = None,
    attempt: bool = False,
    tokenizer: Tokenizer | None = None,
    progress: bool | Watcher = True,
    **settings: object,
) -> RankSuggestion:
    """Suggest a rank for each layer before anything is trained.

    Args:
        model: As for `inlay.train`, which `data`, `tokenizer` and `progress` are as for, too.
        data: The rows to train on, which the suggestion is made from.
        method: The method with the rank that every layer would have, such as `inlay.LoRA(rank=8)`; the ranks are of
            the layers that it targets.
        origin: What the ranks follow: the first "gradients", or the "activations" of each layer (EVA).
        out: A new or empty folder for suggested.yaml, which `inlay train --config` reads; without one nothing is
            written.
        attempt: Train with the suggestion and with one rank everywhere, in `out`, and compare the scores; `epochs`, by
            default 1, are for these two runs.
        tokenizer: Of a model that is given as an object.
        progress: How these runs are shown.
        settings: Those of `inlay train`, and of the data.

    Raises InlayError before weights are loaded for what cannot work.
    """
    chosen, quantized = named_method(method)
    if not isinstance(chosen, Ranked):
        raise SettingsError(f"{chosen.name} has no rank for each layer; give a method that has, such as inlay.LoRA()")
    if attempt and out is None:
        raise SettingsError("attempt trains two runs, which need a folder; give one as out")
    if origin not in get_args(From):
        raise SettingsError(f"origin is {origin!r}{did_you_mean(origin, get_args(From))}")
    folder = None if out is None else path_of(str(out))
    if folder is not None:
        check_free(folder, "--out")
    given = given_model(model, tokenizer)
    with given_data(data if not isinstance(data, DataSettings) else data.path) as rows:
        of_data = data if isinstance(data, DataSettings) else rows
        asked = settings_of(
            RunSettings, given.name, of_data, quantized | {"epochs": 1.0} | settings | {"method": chosen}
        )
        task = None
        if rows.own or given.base is not None:
            if rows.own and folder is not None:
                asked = replace(with_rows_in(asked, folder), out=None)
            with refusals():
                task = read_task(asked, given.base, path=rows.path)
        found = suggest(replace(asked, epochs=None), origin, folder, task)
        if folder is not None:
            rows.keep(folder)
            if attempt:
                with watching(progress) as watcher:
                    found = train_both(found, asked, folder, watcher, task)
            write_json(folder / "suggestion.json", found.as_dict())
    return RankSuggestion(found)
