"""The file that a report is: well formed, complete in itself, the same every time, and written whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inlay.errors import DataError
from inlay.report import html, write_report
from inlay.show import page as page_module

from .fake_runs import HOSTILE_TEXTS, RUNS, learning, many_labels, prediction, summary, tickets, write_run
from .reading import parsed, plots, section, table, words


@pytest.mark.parametrize("name", RUNS)
def test_every_page_is_well_formed(pages, name):
    root = parsed(pages[name])  # raises unless it is XML as well
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(e.tag[1]) for e in root.iter() if e.tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("name", RUNS)
def test_no_page_asks_for_anything_from_elsewhere(pages, name):
    root = parsed(pages[name])
    tags = {element.tag for element in root.iter()}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "image", "base"})
    styles = "".join(element.text or "" for element in root.iter("style"))
    assert "@import" not in styles
    assert "http" not in styles
    for element in root.iter():
        for attribute, value in element.attrib.items():
            assert "://" not in value, (element.tag, attribute, value)
            assert "url(" not in value.replace("url(#", ""), (element.tag, attribute, value)
            if attribute in ("href", "src"):
                assert value.startswith("#")
    policy = next(m.get("content") for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("name", RUNS)
def test_plots_take_their_colours_from_the_page_and_can_be_heard(pages, name):
    for figure in plots(pages[name]).values():
        image = figure.find("div")
        assert image is not None
        assert image.get("role") == "img"
        assert len(image.get("aria-label", "")) > 20
        for element in figure.iter():
            assert not {"fill", "stroke", "style"} & set(element.keys()), element.tag
            assert element.tag != "path" or element.get("class")


@pytest.mark.parametrize("name", RUNS)
def test_every_header_cell_of_a_table_has_a_scope(pages, name):
    assert all(th.get("scope") in ("row", "col") for th in parsed(pages[name]).iter("th"))


def test_texts_of_the_data_are_shown_and_never_run(tmp_path):
    hostile = "<script>alert(1)</script>"
    found = summary(status="failed", reason=hostile, model=hostile, labels=["a", hostile], command=hostile)
    rows = [prediction("a", hostile, text=text, pair=hostile) for text in HOSTILE_TEXTS]
    page = write_report(write_run(tmp_path, found, predictions=rows)).read_text()
    assert "<script" not in page
    assert words(parsed(page)).count(hostile) >= 6
    shown = [row[0] for row in table(section(page, "Mistakes"), "mistakes")]
    assert "my parcel 📦 never came 😡😡 {{ 7 * 7 }} {% raw %}" + hostile in shown
    assert "אני רוצה החזר כספי עבור ההזמנה שלי (מספר 4417)" + hostile in shown
    assert "a lone surrogate \ufffd, a bell \ufffd and a line\u2028separator" + hostile in shown


def test_a_line_cut_inside_a_character_is_left_out(tmp_path):
    run = tickets(tmp_path)
    whole = (run / "predictions.jsonl").read_bytes()
    cut = (json.dumps(prediction("refund", "cancel", text="€"), ensure_ascii=False)).encode()
    (run / "predictions.jsonl").write_bytes(whole + cut[: cut.index("€".encode()) + 2])
    text = words(parsed(write_report(run).read_text()))
    assert "180 rows of the valid split" in text
    assert "1 line of predictions.jsonl could not be read and is left out" in text


def test_a_text_with_a_line_separator_in_it_stays_one_row(tmp_path):
    run = write_run(tmp_path, summary())
    row = json.dumps(prediction("refund", "cancel", text="one\u2028two"), ensure_ascii=False)
    (run / "predictions.jsonl").write_text(row + "\n")
    page = write_report(run).read_text()
    assert table(section(page, "Mistakes"), "mistakes")[1][0] == "one\u2028two"


def test_steps_repeated_by_a_resumed_run_are_drawn_once(tmp_path):
    events = learning(20, 10)
    before = [e | {"loss": 99.0} for e in events if e["step"] > 15]
    repeated = write_report(write_run(tmp_path / "a", summary(), before + events)).read_text()
    assert repeated == write_report(write_run(tmp_path / "b", summary(), events)).read_text()


def test_events_of_another_split_and_of_other_kinds_do_not_matter(tmp_path):
    events = learning(20, 10)
    other = {"event": "evaluate", "step": 20, "epoch": 3, "split": "test", "loss": 9, "accuracy": 0, "macro_f1": 0}
    more = write_report(write_run(tmp_path / "a", summary(), [*events, other, {"event": "saved"}])).read_text()
    assert more == write_report(write_run(tmp_path / "b", summary(), events)).read_text()


def test_the_same_files_give_the_same_bytes_whatever_the_process(tmp_path, pages):
    run = many_labels(tmp_path)
    code = (
        "import sys; from pathlib import Path; from inlay.report import write_report; write_report(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, run], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (run / "report.html").read_text() == pages["many_labels"]


def test_a_report_that_cannot_be_written_leaves_the_old_one_alone(tmp_path, monkeypatch):
    run = tickets(tmp_path)
    (run / "report.html").write_text("old")
    before = sorted(run.iterdir())

    def full(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="disk full"):
            write_report(run)
    assert (run / "report.html").read_text() == "old"
    assert sorted(run.iterdir()) == before
    assert write_report(run) == run / "report.html"
    assert sorted(run.iterdir()) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="found no summary.json; name the folder of a run"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "finished",\n "task"')
    with pytest.raises(DataError, match=r"summary\.json:2: .* not JSON"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_templates_and_the_style_sheet_are_beside_the_code():
    assert "report.html.j2" in {path.name for path in Path(html.__file__).parent.iterdir()}
    assert {"page.html.j2", "page.css"} <= {path.name for path in Path(page_module.__file__).parent.iterdir()}
