import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from inlay.report import write_report
from inlay.report.tiles import tiles
from inlay.show.forgetting import forgetting_section, forgetting_text

from .fake_runs import summary, write_run


def of_loss(value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "measure": "loss",
        "value": value,
        "interval": [low, high],
        "source": "builtin:passages",
        "passages": 168,
        "tokens": 12_345,
        "seconds": 1.2,
        "base_loss": 3.0,
        "tuned_loss": 3.0 + value,
        "kl": 0.031,
        "kl_interval": [0.027, 0.035],
        "kl_positions": 336,
    }


def of_geometry(cka: float, base: float | None, tuned: float | None, interval: list[float] | None) -> dict[str, Any]:
    return {
        "measure": "geometry",
        "value": 1 - cka,
        "interval": [1 - cka - 0.02, 1 - cka + 0.02],
        "source": "general.txt",
        "passages": 168,
        "tokens": 12_345,
        "seconds": 1.2,
        "cka": cka,
        "probe_base": base,
        "probe_tuned": tuned,
        "probe_interval": interval,
    }


@pytest.mark.parametrize(
    ("value", "low", "high", "level", "said"),
    [
        (0.02, 0.01, 0.03, "low", "forgot little: its loss on general text is 0.020 nats per token above the base's"),
        (0.05, 0.04, 0.06, "moderate", "forgot something"),
        (0.15, 0.10, 0.20, "high", "so its perplexity there is 16.2 % higher"),
        (3.448, 3.385, 3.511, "high", "so its perplexity there is 31.4 times as high"),
        (0.01, -0.01, 0.03, "low", "No measurable forgetting"),
        (0.01, -0.1, 0.12, "unclear", "Inconclusive: the loss on general text changed by +0.010"),
        (-0.2, -0.3, -0.1, "low", "forgot nothing: on general text its loss fell by 0.200"),
    ],
)
def test_a_loss_is_put_into_words(value: float, low: float, high: float, level: str, said: str) -> None:
    section = forgetting_section(of_loss(value, low, high))
    assert section.level == level
    assert said in section.sentence
    assert any("--retain-weight" in note for note in section.notes) == (level in ("moderate", "high"))


def test_a_geometry_is_judged_by_the_probe_task_alone() -> None:
    fell = forgetting_section(of_geometry(0.6, 0.9, 0.7, [-0.3, -0.1]))
    held = forgetting_section(of_geometry(0.6, 0.9, 0.88, [-0.06, 0.02]))
    unclear = forgetting_section(of_geometry(0.6, 0.583, 0.417, [-0.385, 0.077]))
    without = forgetting_section(of_geometry(0.6, None, None, None))
    assert [s.level for s in (fell, held, unclear, without)] == ["moderate", "low", "unclear", "unknown"]
    assert (
        "On general text the model lost something: it recognises the kind of 70.0 % of the passages, the base that of "
        "90.0 % (−20.0 points, 95 % −30.0 to −10.0)." in fell.sentence
    )
    assert "On general text no loss was found: it recognises the kind of 88.0 %" in held.sentence
    assert "On general text a loss is unclear" in unclear.sentence
    assert "95 % −38.5 to +7.7" in unclear.sentence
    assert without.sentence == (
        "On general text the embeddings moved by 0.400 (1 − CKA; 0: unchanged, 1: unrelated; 95 % 0.380 to 0.420)."
    )
    assert len(without.table.rows) == 1


def test_the_log_has_it_in_one_line() -> None:
    assert forgetting_text(of_loss(0.02, 0.01, 0.03)) == (
        "forgot  On general text the loss went from 3.000 to 3.020: +0.020 nats per token (95 % +0.010 to +0.030), "
        "low; KL 0.031; 168 passages of builtin:passages"
    )
    assert forgetting_text(of_loss(0.0, -0.01, 0.01)).startswith("general On general text the loss went from")
    fell = of_geometry(0.6, 0.9, 0.7, [-0.3, -0.1])
    assert forgetting_text(fell) == (  # the report's own words
        f"forgot  {forgetting_section(fell).sentence} Measured on 168 passages of general.txt."
    )
    short = of_loss(0.02, 0.01, 0.03) | {"passages": 24, "passages_there": 168}
    assert forgetting_text(short).endswith(
        "; 24 of 168 passages of builtin:passages (more would take over a twentieth of the training's time)"
    )
    assert (
        "on 24 of 168 passages of builtin:passages, 12,345 tokens: more would take"
        in forgetting_section(short).notes[2]
    )
    unclear = forgetting_text(of_geometry(0.6, 0.583, 0.417, [-0.385, 0.077]))
    assert unclear.startswith("unclear On general text a loss is unclear")
    assert forgetting_text(of_geometry(0.6, None, None, None)).startswith(
        "changed On general text the embeddings moved"
    )


@pytest.mark.parametrize("found", [of_loss(0.2, 0.1, 0.3), of_geometry(0.6, 0.9, 0.7, [-0.3, -0.1]), None])
def test_page_and_tiles_have_it_if_it_was_measured(found: dict[str, Any] | None, tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path, summary(forgetting=found), [], [])).read_text()
    text = " ".join(ET.fromstring(page).itertext()).replace("\xa0", " ")  # noqa: S314
    assert ("Forgetting in figures" in page) == (found is not None)
    names = [tile.name for tile in tiles(summary(forgetting=found), [])]
    assert ("Forgetting" in names) == (found is not None)
    if found is not None:
        tile = next(tile for tile in tiles(summary(forgetting=found), []) if tile.name == "Forgetting")
        assert float(tile.value.replace("+", "")) == pytest.approx(found["value"])  # one scale on every screen
        assert forgetting_section(found).sentence in text
        assert "12,345 tokens" in text
