"""Wrong settings and data: exit 2 before weights are loaded, one clear message, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.tasks.task import Task

from ..edited import unseal
from ..shapes import SHAPES
from ..tiny_models import reviews, save_tiny_model, write_reviews, write_rows


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(Task, "load", refuse)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], folder: Path, faults: int = 1) -> str:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) <= 1 + faults
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "Traceback" not in captured.err
    assert captured.err.startswith("inlay: ")
    return captured.err.removeprefix("inlay: ").strip()


def bad_json(folder: Path) -> str:
    path = folder / "rows.jsonl"
    lines = [json.dumps(row) for row in reviews(30)]
    lines[16] = '{"text": "half a row", "label": '
    path.write_text("\n".join(lines))
    return str(path)


def missing_column(folder: Path) -> str:
    rows = reviews(30)
    del rows[4]["label"]
    return write_rows(folder / "rows.jsonl", rows)


def one_class(folder: Path) -> str:
    return write_rows(folder / "rows.jsonl", [row | {"label": "positive"} for row in reviews(30)])


def unknown_label(folder: Path) -> str:
    write_rows(folder / "d" / "train.jsonl", reviews(30))
    write_rows(folder / "d" / "valid.jsonl", [*reviews(5, 30), {"text": "so so", "label": "neutral"}])
    return str(folder / "d")


def empty(folder: Path) -> str:
    return write_rows(folder / "rows.jsonl", [])


def generation_rows(folder: Path) -> str:
    return write_rows(folder / "rows.jsonl", [{"prompt": "a", "completion": "b"}] * 30)


def scores(folder: Path) -> str:
    rows = [{"text": row["text"], "score": i / 7} for i, row in enumerate(reviews(30))]
    return write_rows(folder / "rows.jsonl", rows)


def absent(folder: Path) -> str:
    write_rows(folder / "rows.jsonl", reviews(30))
    return str(folder / "row.jsonl")


@pytest.mark.parametrize(
    ("make", "messages"),
    [
        (absent, ["row.jsonl: no such file", "rows.jsonl"]),
        (empty, ["rows.jsonl", "no rows"]),
        (bad_json, ["rows.jsonl:17", "JSON"]),
        (missing_column, ["rows.jsonl:5", "label"]),
        (one_class, ["positive", "two are needed"]),
        (unknown_label, ["valid.jsonl:6", "neutral"]),
        (generation_rows, ["is an encoder", "texts to write, not labels"]),
        (scores, ["no column that is called a label, which --data.label names", "its other columns are score"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_bad_data(
    make: Callable[[Path], str],
    messages: list[str],
    tiny_bert: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make(tmp_path)
    message = refused(["train", tiny_bert, data, "--out", str(tmp_path / "run")], capsys, tmp_path)
    for part in messages:
        assert part in message


def test_a_model_and_data_that_changed_places_are_told(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", reviews(30))
    order = "MODEL comes before DATA, but for inlay data, where it follows"
    for given in (data, "builtin:tickets", write_reviews(tmp_path / "folder")):
        message = refused(["train", given, tiny_bert], capsys, tmp_path)
        assert message == f"model {given!r} is data; {order}"
    assert refused(["train", tiny_bert, tiny_bert], capsys, tmp_path) == f"{tiny_bert}: a model, not data; {order}"
    assert order in refused(["data", "builtin:minilm", data], capsys, tmp_path)
    for verb in ("eval", "predict", "merge"):
        message = refused([verb, data, str(tmp_path / "run")], capsys, tmp_path)
        assert "is a file; first comes RUN_OR_ADAPTER" in message
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    message = refused(["predict", "so fine", str(tmp_path / "run")], capsys, tmp_path)
    assert "this is a run or an adapter, which comes first" in message


def test_samples_without_a_place_are_refused(
    reviews_folder: str, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(["train", tiny_bert, reviews_folder, "--samples", "5"], capsys, tmp_path)
    assert f"an adapter on {reviews_folder} gives labels, to every row, so leave it out" in message
    message = refused(["data", reviews_folder, "--samples", "5"], capsys, tmp_path)
    assert "there is no MODEL whose tokens are shown" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method.rnak", "3"], "unknown setting --method.rnak; did you mean --method.rank?"),
        (["--epoch", "3"], "unknown setting --epoch; did you mean --epochs?"),
        (
            ["--rank", "8", "--seed", "x", "--epoch", "3", "--whatever"],
            "unknown setting --rank; did you mean --method.rank?\n--seed is 'x'; it must be a whole number\n"
            "unknown setting --epoch; did you mean --epochs?\nunknown setting --whatever; see inlay train --help",
        ),
        (["--method", "lroa"], "unknown method 'lroa'; did you mean lora?"),
        (
            ["--method", "bitfit", "--method.rank", "3"],
            "bitfit has no setting rank; it has add-missing (inlay methods bitfit)",
        ),
        (["--method", "full", "--method.rank", "3"], "full has no setting rank; it has none (inlay methods full)"),
        (["--method.rank", "many"], "--method.rank is 'many'; it must be a whole number"),
        (["--method.rank", "0"], "method.rank is 0; it must be at least 1"),
        (["--dtype", "float8"], "--dtype is 'float8'; known: auto, bfloat16, float16, float32"),
        (["--method.targets", "q_prj"], "'q_prj' match no module of BertForSequenceClassification; it has"),
        (
            ["--method.targets", "query", "valeu"],
            "'valeu' match no module of BertForSequenceClassification; did you mean",
        ),
        (["--method.targets", "classifier"], "trained whole as the model's head"),
        (["--method.rank-pattern", "q_proj", "4"], "pattern 'q_proj' fits none"),
        (["--data.text", "txet"], "txet"),
        (["--max-length", "65"], "the model has room for 64 tokens"),
        (["--device", "cuda"], "device cuda is not there; there is cpu"),
        (["--device", "xpu:1"], "device xpu:1 is not there; there is cpu"),
        (["--device", "gpu"], "device is 'gpu'; did you mean cuda?"),
        (["--attention", "flash_attention_2"], "attention is flash_attention_2, which needs an accelerator and a base"),
        (["--attention", "flash"], "--attention is 'flash'; did you mean flash_attention_2?"),
        (
            ["--method", "prompt", "--method.tokens", "60", "--method.initialization", "random"],
            "leaves 0 of the model's 64 positions to the text",
        ),
        (["--method"], "--method needs a value"),
        (["surplus"], "'surplus' is one argument too many: inlay train MODEL DATA"),
        (["--epochs"], "--epochs needs a value: NUMBER"),
        (["--epochs", "abc"], "--epochs is 'abc'; it must be a number"),
        (["--seed", "1.5"], "--seed is '1.5'; it must be a whole number"),
        (["--method.rank-pattern", "query", "many"], "--method.rank-pattern is 'many'; it must be a whole number"),
        (["--method.rank-pattern", "query"], "--method.rank-pattern needs pairs: NAME N"),
        (["--plain=yes"], "--plain takes no value; it is there or it is not"),
        (["-r", "8"], "unknown setting -r; did you mean --method.rank?"),
        (["--seed", "1", "--seed", "2"], "--seed is given 2 times: 1, 2; give it once"),
        (["--weight-decay", "0.1", "--epochs=2", "--weight_decay=0.1"], "--weight-decay is given 2 times: 0.1, 0.1"),
        (["--no-forgetting", "--epochs", "2", "--no-forgetting"], "--no-forgetting is given 2 times; give it once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_settings(
    flags: list[str],
    message: str,
    tiny_bert: str,
    reviews_folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", tiny_bert, reviews_folder, *flags, "--out", str(tmp_path / "run")]
    found = refused(arguments, capsys, tmp_path, faults=1 + message.count("\n"))
    assert message in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "x", "y"], "unknown verb 'trian'; did you mean train?"),
        (["train", "builtin:minlm", "x"], "'builtin:minlm' is not built in; did you mean minilm?"),
        (["train", "./nowhere", "builtin:tickets"], "model './nowhere' is no folder with a model"),
        (["train", "x"], "DATA is missing"),
        (["data", "builtin:tikets"], "tickets"),
        (["methods", "lorra"], "unknown method 'lorra'; did you mean lora?"),
        (
            ["eval", "./nowhere"],
            "nowhere: no adapter_config.json here or in its folder adapter; there is no such folder",
        ),
        (["predict", "./nowhere", "text"], "there is no such folder"),
        (["predict", "./nowhere", "text", "--device=cpu", "--device", "cuda"], "--device is given 2 times: cpu, cuda"),
        (["train", "--config", "none.yaml"], "none.yaml: a file of settings is needed, and there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_verbs_and_names(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys, tmp_path)


def test_an_error_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "lorra", "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["exit_code"], event["kind"]) == ("error", 2, "SettingsError")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: m\ndata: d\nmethod:\n  name: lora\n  rnak: 3\n",
            "run.yaml:5: unknown setting method.rnak; did you mean method.rank?",
        ),
        ("model: m\ndata: d\nepoch: 3\n", "run.yaml:3: unknown setting epoch; did you mean epochs?"),
        (
            "model: m\ndata: d\nlr: 1e-3\nmethod:\n  name: lora\n  r: 8\n  rnak: 8\n  xyz: 1\n",
            "run.yaml:3: unknown setting lr; did you mean learning_rate?\n{path}:6: unknown setting method.r; did you "
            "mean method.rank?\n{path}:7: unknown setting method.rnak; did you mean method.rank?\n"
            "{path}:8: lora has no setting xyz;",
        ),
        ("model: m\ndata: d\nlr: 1e-3\n", "run.yaml:3: unknown setting lr; did you mean learning_rate?"),
        ("model: m\ndata: d\nmethod:\n  name: lora\n  r: 8\n", "run.yaml:5: unknown setting method.r; did you mean me"),
        ("model: m\ndata: d\nload_in_4bit: true\n", "unknown setting load_in_4bit; did you mean quantize nf4?"),
        ("base_model: m\ndata: d\n", "run.yaml:1: unknown setting base_model; did you mean model?"),
        ("model: m\nmodel: n\n", "run.yaml:2: model is set in line 1 already"),
        ("model: [m\n", "run.yaml: not YAML"),
        ("- m\n", "run.yaml: a run's settings are a mapping"),
        ("model: m\ndata: d\nmethod: lroa\n", "run.yaml: unknown method 'lroa'; did you mean lora?"),
        ("model: m\ndata: d\nepochs: soon\n", "--epochs"),
    ],
)
def test_bad_config_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    found = refused(["train", "--config", str(path)], capsys, tmp_path, faults=1 + message.count("\n"))
    assert message.format(path=path) in found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and its base, in one folder that a test may copy and damage."""
    folder = tmp_path_factory.mktemp("run")
    model = save_tiny_model(SHAPES["bert"], folder / "base")
    data = write_reviews(folder / "data")
    assert main(["train", model, data, "--epochs", "1", "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_another_base_with_the_same_architecture(
    verb: str, run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    import transformers

    shutil.copytree(run / "base", tmp_path / "other")
    model = transformers.BertModel.from_pretrained(tmp_path / "other")
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    arguments = [verb, str(copy), "--model", str(tmp_path / "other")]
    message = refused(arguments, capsys, tmp_path)
    assert "was trained on a base model with fingerprint" in message
    assert "the weights differ" in message


def test_another_base_of_another_shape(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save_tiny_model(SHAPES["gpt2"], tmp_path / "other")
    capsys.readouterr()
    message = refused(["eval", str(copy), "--model", other], capsys, tmp_path)
    assert f"does not fit {other}" in message or "match no module" in message


@pytest.mark.parametrize("kept", [0, 4, 100, 2000, -1])
def test_a_truncated_adapter(kept: int, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "adapter" / "adapter_model.safetensors"
    unseal(path.parent)
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(["predict", str(copy), "text"], capsys, tmp_path)
    assert "adapter_model.safetensors" in message
    assert "bytes that cannot be read" in message


def test_data_with_other_labels(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [row | {"label": i % 2} for i, row in enumerate(reviews(40))])
    assert 'the adapter was trained on "negative", "positive"' in refused(["eval", str(copy), rows], capsys, tmp_path)


def test_a_file_to_label_that_does_not_exist(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "texts.csv: no such file" in refused(["predict", str(copy), "texts.csv"], capsys, tmp_path)
