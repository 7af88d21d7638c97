"""The report of a comparison: well-formed, complete, and working in a browser without a network."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inlay.lab.compare.plots import pareto_plot
from inlay.lab.compare.report import write_comparison

from ..report.fake_runs import HOSTILE_TEXTS
from .fakes import accuracies, comparison_of, write_language_model

SCORES = {
    "bitfit": accuracies(0.945, 0.004),
    "pfeiffer": accuracies(0.957, 0.004, seed=1),
    "lora": accuracies(0.970, 0.004, seed=2),
    "prefix": accuracies(0.953, 0.008, seed=3),
    "full": accuracies(0.967, 0.004, seed=4),
}
BROWSER = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


def classifiers(folder: Path) -> Path:
    failures = {"prefix-2": "step 37: loss is nan <b>&</b>", "bitfit-0": "x" * 300}
    return write_comparison(comparison_of(folder, SCORES, failures=failures, then=("data/sst2",)))


def one_seed(folder: Path) -> Path:
    return write_comparison(comparison_of(folder, {"lora": (0.9,), "full": (0.8,)}, forgetting=False))


def language_models(folder: Path) -> Path:
    scores = {"lora": (0.70, 0.71), "full": (0.60, 0.68), "prefix": (1.4, 1.5)}
    return write_comparison(comparison_of(folder, scores, write=write_language_model))


def all_failed(folder: Path) -> Path:
    failures = {"lora-0": "killed", "full-0": "killed"}
    return write_comparison(comparison_of(folder, {"lora": (0.9,), "full": (0.8,)}, failures=failures))


PAGES = {build.__name__: build for build in (classifiers, one_seed, language_models, all_failed)}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in PAGES.items()}


def parsed(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text())  # noqa: S314


def headings(path: Path) -> list[str]:
    return [h.text or "" for h in parsed(path).iter("h2")]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_well_formed_and_names_nothing_outside(paths: dict[str, Path], name: str) -> None:
    root = parsed(paths[name])  # raises unless it is XML as well
    for element in root.iter():
        assert not {"src", "href"}.intersection(element.keys())
    assert "url(" not in paths[name].read_text()
    assert {p.name for p in paths[name].parent.iterdir()} >= {"report.html", "report.md", "report.csv"}


def test_the_markdown_marks_the_methods_that_the_page_marks(paths: dict[str, Path]) -> None:
    page, text = paths["classifiers"].read_text(), paths["classifiers"].with_name("report.md").read_text()
    marked = re.findall(r"<bdi>(\w+)</bdi> <span class=\"equal\" title", page)
    assert set(marked) == set(re.findall(r"^\| (\w+) ≈ \|", text, re.MULTILINE)) == {"full", "pfeiffer", "prefix"}
    assert "over 3 seeds. ≈ marks methods that cannot be told from lora, the best by accuracy (test), at 95 %" in text
    assert "≈" not in paths["all_failed"].with_name("report.md").read_text()


def test_a_full_page_has_all_that_was_found(paths: dict[str, Path]) -> None:
    assert headings(paths["classifiers"]) == [
        *("Advice", "Methods", "Score against cost", "Learning curves", "Tasks one after another"),
        *("Predicted and actual cost", "Where the methods disagree", "Learning rates that were tried"),
        "How to reproduce",
    ]
    page = paths["classifiers"].read_text()
    assert "seed 2 failed: step 37: loss is nan &lt;b&gt;&amp;&lt;/b&gt;" in page
    assert "2 failed" in page


def test_every_pair_of_axes_has_its_plot(paths: dict[str, Path]) -> None:
    root = parsed(paths["classifiers"])
    pairs = {(e.get("data-x"), e.get("data-y")) for e in root.iter("div") if e.get("class") == "choice"}
    options = {s.get("id"): [o.get("value") for o in s.iter("option")] for s in root.iter("select")}
    wanted = {(x, y) for x in options["axis-x"] for y in options["axis-y"] if x != y}
    assert pairs == wanted
    assert {"trainable_parameters", "peak_memory_bytes", "train_seconds", "forgetting"} <= set(options["axis-x"])
    assert {"accuracy", "forgetting"} <= set(options["axis-y"])
    plot = next(e for e in root.iter("div") if e.get("data-x") == "train_seconds")
    assert {t.text for t in plot.iter("text") if t.get("class") == "name"} == set(SCORES)


def test_bars_end_where_a_score_or_a_cost_does(tmp_path: Path) -> None:
    table = comparison_of(tmp_path, {"lora": (1.0, 0.9), "full": (0.04, 0.0), "prefix": (0.5, 0.6)}).table
    accuracy = table.score
    for key in ("train_seconds", "forgetting"):
        x = next(q for q in table.quantities if q.key == key)
        chart = pareto_plot(table.finished, x, accuracy)
        assert chart.y.high <= 1.005
        assert chart.y.low >= 0
    top, bottom = chart.place(chart.x.low, 1.0)[1], chart.place(chart.x.low, 0.0)[1]
    upright = [(a, b) for (x1, a), (x2, b) in _bars(chart.svg()) if x1 == x2]
    assert len(upright) == 3
    assert min(min(pair) for pair in upright) == pytest.approx(top, abs=0.1)
    assert max(max(pair) for pair in upright) == pytest.approx(bottom, abs=0.1)


def _bars(svg: str) -> list[list[tuple[float, float]]]:
    paths = re.findall(r'class="bar [^"]*" d="M([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (at.split() for at in path.split("L"))] for path in paths]


def test_the_best_is_named_and_only_the_others_are_marked_as_like_it(paths: dict[str, Path]) -> None:
    page = paths["classifiers"].read_text()
    best = re.search(r"cannot be told from ([\w-]+), the best by", page)
    assert best
    marked = re.findall(r'<bdi>([\w-]+)</bdi> <span class="equal"', page)
    assert marked
    assert best[1] not in marked


def test_the_chosen_plot_has_the_place_of_the_first_default_one(paths: dict[str, Path]) -> None:
    defaults = next(e for e in parsed(paths["classifiers"]).iter("div") if e.get("class") == "figures defaults")
    chosen, *figures = list(defaults)
    assert chosen.get("class") == "chosen"
    assert chosen.find("div[@class='choice']/figure/figcaption/h3").text == figures[0].find("figcaption/h3").text  # type: ignore[union-attr]
    assert '".defaults > figure"' in paths["classifiers"].read_text()  # which the script hides


def test_headings_and_sentences_have_no_absolute_path(tmp_path: Path) -> None:
    text = write_comparison(
        comparison_of(tmp_path, {"lora": (0.9,), "full": (0.8,)}, then=("/srv/data/sst2",))
    ).read_text()
    assert "/srv/data/sst2" not in re.sub(r' title="[^"]*"|<pre.*?</pre>', "", text, flags=re.DOTALL)


def test_without_measured_forgetting_the_page_says_so(paths: dict[str, Path]) -> None:
    page = paths["one_seed"].read_text()
    assert "Forgetting was not measured" in page
    assert 'value="forgetting"' not in page


def test_texts_stand_side_by_side(paths: dict[str, Path]) -> None:
    root = parsed(paths["language_models"])
    first = next(e for e in root.iter("article"))
    assert [dt.find("bdi").text for dt in list(first.iter("dt"))[1:]] == ["base", "lora", "full", "prefix"]  # type: ignore[union-attr]
    assert HOSTILE_TEXTS[0] in [dd.text for dd in first.iter("dd")]


def test_a_page_without_a_finished_run_has_the_reasons(paths: dict[str, Path]) -> None:
    assert headings(paths["all_failed"]) == ["Advice", "Methods", "Learning rates that were tried", "How to reproduce"]
    assert paths["all_failed"].read_text().count("seed 0 failed: killed") == 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser's test needs Playwright")
    path = next((p for p in BROWSER if Path(p).is_file()), None)
    if path is None:
        pytest.skip("the browser's test needs Chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (1180, "dark"), (390, "light"), (390, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(browser: Any, paths: dict[str, Path], name: str, width: int, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(paths[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth + 1)")
    if name != "all_failed":
        page.focus("#axis-x")
        page.keyboard.press("ArrowDown")
        page.select_option("#axis-y", "loss")
        shown = page.locator(".choice:visible")
        assert shown.count() == 1
        assert (shown.get_attribute("data-x"), shown.get_attribute("data-y")) == ("adapter_bytes", "loss")
    for summary in page.locator("summary").all():
        summary.click()
    assert said == []
    assert asked == [paths[name].as_uri()]
    context.close()


def test_the_same_quantity_on_both_axes_is_said(browser: Any, paths: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(paths["classifiers"].as_uri())
    page.select_option("#axis-x", "forgetting")
    page.select_option("#axis-y", "forgetting")
    assert page.locator(".choice:visible").inner_text() == "Both axes are the same; choose another one."
    page.close()


def test_without_scripts_the_default_plots_are_there(browser: Any, paths: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(paths["classifiers"].as_uri())
    assert page.locator(".defaults figure:visible").count() == 4
    assert page.locator("select:visible").count() == 0
    context.close()
