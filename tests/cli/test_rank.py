"""inlay rank, as a user calls it: the result's files, the cut adapter's score, and what is refused."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import inlay
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.lab.rank import export as export_module
from inlay.training.run import train
from inlay.training.score_parts import read_parts
from inlay.training.settings import RunSettings

from ..shapes import SHAPES
from ..tiny_models import save_tiny_model, write_rows


def trained(model: str, data: str, out: Path, method: Any, **changes: Any) -> Path:
    wanted: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-2, "dtype": "float32", "evaluations_per_epoch": 1}
    train(RunSettings(model=model, data=DataSettings(path=data), method=method, out=str(out), **wanted | changes))
    return out


@pytest.fixture(scope="module")
def classifier(tiny_bert: str, reviews_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained so little that a rank of 1 is too small for what it has learned."""
    out = tmp_path_factory.mktemp("rank") / "run"
    return trained(tiny_bert, reviews_folder, out, inlay.LoRA(rank=8), epochs=2, learning_rate=4e-3)


@pytest.fixture(scope="module")
def other(tiny_bert: str, reviews_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = inlay.LoRA(rank=4, targets=("attention",))
    return trained(tiny_bert, reviews_folder, tmp_path_factory.mktemp("rank") / "run", method, seed=1)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    nouns = {"film": "great", "plot": "poor", "cast": "fine"}
    rows = [
        {"prompt": f"{the} {noun} {was}", "completion": f"so very {word}"}
        for the in ("the", "a")
        for was in ("was", "is")
        for noun, word in nouns.items()
    ]
    write_rows(folder / "data" / "train.jsonl", rows * 3)
    write_rows(folder / "data" / "valid.jsonl", rows * 4)
    base = save_tiny_model(SHAPES["llama"], folder / "base")
    return trained(base, str(folder / "data"), folder / "run", inlay.LoRA(rank=4))


def result(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["rank", str(run), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert main(["eval", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["tuned"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(["rank", *arguments]) == code
    return capsys.readouterr().err


def test_the_whole_update_has_the_run_s_score(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(classifier, capsys)
    summary = json.loads((classifier / "summary.json").read_text())
    assert found["curve"]["whole"] == summary["metrics"]["tuned"]
    assert [point["rank"] for point in found["curve"]["points"]] == [8, 4, 2, 1]
    first = found["curve"]["points"][0]
    assert first["scores"]["loss"] == pytest.approx(summary["metrics"]["tuned"]["loss"], abs=1e-5)
    assert first["gain"]["value"] == 0
    assert len({point["scores"]["loss"] for point in found["curve"]["points"]}) == 4
    layers = found["layers"]
    assert len(layers) == 13
    assert {layer["place"]["role"] for layer in layers} == {"attention", "feedforward", "outside"}
    assert all(layer["way"] == "thin" and len(layer["values"]) == 8 for layer in layers)
    assert all(layer["base"]["overlap"]["directions"] == 8 for layer in layers)
    assert found == json.loads((classifier / "rank.json").read_text())


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_the_cut_adapter_loaded_anew_has_exactly_the_score_of_the_curve(
    kind: str, rank: int, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = request.getfixturevalue(kind), tmp_path / "new" / "cut"
    found = result(run, capsys, "--to", str(rank), "--out", str(out), "--ranks", str(rank))
    cut = found["cut"]
    chosen = cut["by_energy" if cut["per_layer"] else "uniform"]
    assert found["curve"]["points"][0]["scores"] == cut["uniform"]["scores"]
    written = scores(out, capsys)
    for key in ("loss", "accuracy", "macro_f1"):
        assert written.get(key) == chosen["scores"].get(key) == cut["again"].get(key)
    assert cut["by_energy"]["parameters"] <= cut["uniform"]["parameters"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["r"] == max(cut["ranks"].values()) >= rank
    better = "accuracy" if kind == "classifier" else "loss"
    other = cut["uniform" if cut["per_layer"] else "by_energy"]["scores"]
    sign = 1 if better == "accuracy" else -1
    assert sign * chosen["scores"][better] >= sign * other[better]


@pytest.mark.parametrize("name", ["full", "dora", "loha"])
def test_other_methods_are_cut_to_a_plain_lora(
    name: str, tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = 1e-3 if name == "full" else 1e-2
    run = trained(tiny_bert, reviews_folder, tmp_path / "run", inlay.METHODS[name](), epochs=1, learning_rate=rate)
    found = result(run, capsys, "--to", "4", "--out", str(tmp_path / "cut"), "--base", "never")
    assert found["curve"]["whole"] == json.loads((run / "summary.json").read_text())["metrics"]["tuned"]
    cut = found["cut"]
    chosen = cut["by_energy" if cut["per_layer"] else "uniform"]
    assert scores(tmp_path / "cut", capsys) == chosen["scores"]
    assert (found["others"] > 0) == (name == "full") == any("biases" in note for note in found["notes"])
    assert json.loads((tmp_path / "cut" / "provenance.json").read_text())["method"] == "lora"


def test_a_cut_adapter_is_plain_if_asked(
    writer: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(writer, capsys, "--to", "2", "--out", str(tmp_path / "cut"), "--plain")
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["lora_alpha"] == config["r"]
    assert not any(config[key] for key in ("use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save"))
    tensors = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {len(a_RI) for key, a_RI in tensors.items() if ".lora_A." in key} == {config["r"]}
    assert scores(tmp_path / "cut", capsys)["loss"] == pytest.approx(found["cut"]["again"]["loss"], abs=1e-6)
    said = refused(capsys, str(classifier), "--to", "1", "--out", str(tmp_path / "head"), "--plain")
    assert "classifier is trained whole" in said
    assert not (tmp_path / "head").exists()


def test_two_runs_are_compared_where_both_change_a_layer(
    classifier: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(classifier, capsys, "--with", str(other), "--no-curve")
    assert found["curve"] is None
    compared = {layer["place"]["role"] for layer in found["layers"] if layer["other"]}
    assert compared == {"attention"}
    assert any("not changed by the other run" in note for note in found["notes"])
    same = result(classifier, capsys, "--with", str(classifier), "--no-curve")
    for layer in same["layers"]:
        assert layer["other"]["overlap"]["right"] == pytest.approx(1)
        assert layer["other"]["cosine"] == pytest.approx(1)


def test_the_page_is_well_formed_asks_for_nothing_and_has_the_figures(
    classifier: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result(classifier, capsys, "--with", str(other), "--to", "2", "--out", str(tmp_path / "cut"))
    page = (classifier / "rank.html").read_text()
    root = ET.fromstring(page)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {element.tag for element in root.iter()}.isdisjoint({"script", "link", "img", "iframe"})
    titles = ["".join(h.itertext()).strip() for h in root.iter("h3")]
    assert [title for title in titles if title.startswith(("Singular", "Accuracy", "Cut to"))] == [
        "Singular values",
        "Accuracy by rank",
        "Cut to 2",
    ]
    maps = [t for t in root.iter("table") if t.get("class") == "confusion"]
    assert len(maps) == 5
    rows = [["".join(cell.itertext()) for cell in row] for row in maps[0].iter("tr")]
    assert rows[0][1:] == ["attention", "feedforward", "outside"]
    assert [row[0] for row in rows[2:]] == ["0", "1", "outside"]


def test_the_screen_says_what_follows_and_how_sure_it_is(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["rank", str(classifier)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"median \(range\) +attention +feedforward +outside\nlayers +8 ", shown)
    assert re.search(r"numerical rank +8 ", shown)
    assert max(map(len, shown.partition("\nmeasured")[0].split("\n\n")[1].split("\n"))) <= 80  # of a terminal
    assert re.search(
        r"(Rank \d (may keep the score, which cannot be told|keeps the score)|Even at rank \d the cut adapter is worse)"
        r" on the 30 rows of valid: .*95 % ",
        shown,
    )
    assert re.search(rf"^report  {classifier}/rank(-\d)?\.html$", shown, re.MULTILINE)


def test_a_smaller_analysis_leaves_a_fuller_one_as_it_is(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier, run, ignore=shutil.ignore_patterns("rank*"))
    capsys.readouterr()

    def page(*flags: str) -> str:
        assert main(["rank", str(run), *flags]) == 0
        return capsys.readouterr().out.splitlines()[-1].rpartition("/")[2]

    assert page("--ranks", "4", "2") == "rank.html"
    fuller = (run / "rank.json").read_bytes()
    assert page("--no-curve", "--base", "never") == "rank-2.html"
    assert (run / "rank.json").read_bytes() == fuller
    assert page("--no-curve") == "rank-2.html"  # which has more than what is there
    assert page("--ranks", "4", "--base", "never") == "rank-3.html"
    assert page("--ranks", "8", "4", "2") == "rank.html"


def test_data_that_are_named_are_evaluated(
    classifier: Path, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(reviews_folder, tmp_path / "data")
    found = result(classifier, capsys, "--data", str(copy), "--split", "test", "--ranks", "1")
    summary = json.loads((classifier / "summary.json").read_text())
    assert found["curve"]["whole"] == summary["metrics"]["test"]
    assert found["curve"]["split"] == "test"


def test_a_cut_that_does_not_have_its_score_is_not_kept(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export_module._write

    def damaged(found: Any, measure: Any, ranks: Any, folder: Path, plain: bool) -> None:
        fewer = {name: rank if i == 0 else 0 for i, (name, rank) in enumerate(ranks.items())}
        write(found, measure, fewer, folder, plain)

    monkeypatch.setattr(export_module, "_write", damaged)
    said = refused(capsys, str(classifier), "--to", "1", "--out", str(tmp_path / "cut"), code=5)
    assert "loaded again, should have accuracy" in said
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_analysed_is_refused_before_weights_are_loaded(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    run = trained(tiny_bert, reviews_folder, tmp_path / "run", inlay.PromptTuning(tokens=4), epochs=1)
    monkeypatch.setattr("inlay.tasks.task.Task.load", None)
    assert "prompt changes no weight matrix" in refused(capsys, str(run))
    assert not (run / "rank.json").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to", "2"], "--to RANK and --out FOLDER belong together"),
        (["--to", "0", "--out", "x"], "--to is 0"),
        (["--to", "8", "--out", "x"], "--to is 8, but no layer's update has a rank above 8"),
        (["--ranks", "0"], "--ranks is 0"),
        (["--try"], "--try is given with RUN; it belongs to inlay rank MODEL DATA"),
        (["--from", "activations"], "--from is given with RUN"),
        (["--split", "dev"], "--split"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    flags: list[str], said: str, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, str(classifier), *flags)


def test_another_base_is_not_compared(classifier: Path, writer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "was trained on another base" in refused(capsys, str(classifier), "--with", str(writer))


def test_a_full_folder_is_not_written_into(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "is not empty" in refused(capsys, str(classifier), "--to", "2", "--out", str(tmp_path))


def test_a_suggestion_is_tried(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--rank", "2", "--try", "--epochs", "2", "--out", str(out)]
    capsys.readouterr()
    assert main(["rank", tiny_bert, reviews_folder, *flags]) == 0
    shown = capsys.readouterr().out
    found = json.loads((out / "suggestion.json").read_text())
    for name in ("suggested", "uniform"):
        summary = json.loads((out / name / "summary.json").read_text())
        assert found["tried"][name] == summary["metrics"]["tuned"]
    right = [read_parts(out / name, "valid").right_N.double() for name in ("suggested", "uniform")]
    assert found["tried"]["gain"]["value"] == pytest.approx((right[0] - right[1]).mean().item())
    assert "by these rows alone the gain is" in shown
    assert shown.index(f"training with the suggested ranks, in {out}/suggested") < shown.index(f"in {out}/uniform")
    sizes = [
        json.loads((out / n / "summary.json").read_text())["trainable_parameters"] for n in ("suggested", "uniform")
    ]
    assert sizes[1] - 80 < sizes[0] <= sizes[1]
    assert "Tried for 2 epochs" in shown
    assert f"inlay train --config {out}/suggested.yaml" in shown
    assert "--to is given with MODEL DATA" in refused(capsys, tiny_bert, reviews_folder, "--to", "3")
