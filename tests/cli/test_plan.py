"""inlay plan: what each method would take, from files without weights; what does not fit, and what cannot be asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inlay.cli import main
from inlay.cost.storages import PARTS

FEW = ("--methods", "lora", "lora:rank=4", "full")


@pytest.fixture(scope="module")
def bare(tiny_llama: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a config alone: neither weights nor a tokenizer."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copy(Path(tiny_llama) / "config.json", folder)
    return str(folder)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return " ".join(shown.err.split())


def test_a_config_is_enough_and_nothing_fits_the_methods_of_another_rank(
    bare: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--rows", "32", "--dtype", "float32", *FEW)
    assert (found["device"], found["dtype"], found["batch_size"], found["longest"]) == ("cpu", "float32", 16, 16)
    methods = found["methods"]
    assert list(methods) == sorted(methods, key=lambda name: methods[name]["process_bytes"])
    assert methods["lora"]["trained_parameters"] == 4 * methods["lora:rank=4"]["trained_parameters"]
    for each in methods.values():
        assert set(each["memory"]) == set(PARTS)
        assert each["tensor_bytes"] == max(sum(each["memory"].values()), each["evaluation_bytes"])
        assert each["process_bytes"] > each["tensor_bytes"]
        assert each["fits"]
        assert each["change"] == {}
        assert each["run_seconds"] >= each["steps"] * each["step_seconds"] > 0
    assert methods["full"]["memory"]["adapter"] == 4 * methods["full"]["trained_parameters"]


def test_the_rows_of_data_count(tiny_bert: str, reviews_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = planned(capsys, tiny_bert, reviews_folder, "--methods", "bitfit", "--batch-size", "2")
    many = planned(capsys, tiny_bert, reviews_folder, "--methods", "bitfit", "--batch-size", "8")
    assert few["data"] == reviews_folder
    assert many["methods"]["bitfit"]["memory"]["activations"] > 2 * few["methods"]["bitfit"]["memory"]["activations"]
    assert few["methods"]["bitfit"]["steps"] == pytest.approx(4 * many["methods"]["bitfit"]["steps"], abs=8)


def test_a_device_that_is_not_here_has_memory_and_no_time(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--device", "cuda", "--memory", "8GB", "--methods", "lora", "qlora")
    assert (found["device"], found["dtype"], found["memory_bytes"]) == ("cuda", "bfloat16", 8_000_000_000)
    lora, qlora = (found["methods"][name] for name in ("lora", "qlora"))
    assert lora["step_seconds"] is lora["run_seconds"] is None
    assert lora["process_bytes"] == lora["tensor_bytes"]
    assert qlora["memory"]["weights"] < lora["memory"]["weights"]
    assert all(each["memory"][part] % 512 == 0 for each in (lora, qlora) for part in PARTS)
    free = planned(capsys, bare, "--tokens", "16", "--device", "cuda", "--methods", "lora")
    assert free["memory_bytes"] is None
    assert free["methods"]["lora"]["fits"]


def test_what_does_not_fit_says_what_would(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (bare, "--tokens", "64", "--device", "cuda", "--methods", "lora", "full")
    whole = planned(capsys, *asked)["methods"]["lora"]["tensor_bytes"]
    found = planned(capsys, *asked, "--memory", f"{whole // 2000}k")
    change = found["methods"]["lora"]["change"]
    assert not found["methods"]["lora"]["fits"]
    flags = [word for name, value in change.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert planned(capsys, *asked, "--memory", f"{whole // 2000}k", *flags)["methods"]["lora"]["fits"]
    assert main(["plan", *asked, "--memory", f"{whole // 2000}k"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "too much" in text
    assert f"fit with {' '.join(flags)}" in text or f"fits with {' '.join(flags)}" in text
    assert main(["plan", *asked, "--memory", "9k"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "lora and full: what stays from step to step" in text or "full: what stays from step to step" in text


def test_a_method_that_does_not_fit_the_model_has_its_reason(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--methods", "bitfit", "lora")
    assert "no biases" in found["methods"]["bitfit"]["problem"]
    assert main(["plan", bare, "--tokens", "16", "--methods", "bitfit"]) == 0
    assert "left out bitfit: " in " ".join(capsys.readouterr().out.split())


def test_a_page_has_every_method_and_opens_offline(
    bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "plan.html"
    arguments = (bare, "--tokens", "16", "--methods", "lora", "bitfit", "--memory", "40GB", "--device", "cuda")
    assert planned(capsys, *arguments, "--page", str(page))["page"] == str(page)
    text = page.read_text(encoding="utf-8")
    assert "lora fits in 37.3 GiB" in " ".join(text.split())
    assert "no biases" in text
    assert text.count("<rect") >= 5
    assert "http" not in text
    assert "is there already" in refused(capsys, *arguments, "--page", str(page))
    assert ".html: name it so" in refused(capsys, *arguments, "--page", str(tmp_path / "plan.pdf"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there are no rows to plan for: name DATA, or give --tokens"),
        (("DATA", "--tokens", "16"), "tokens and rows are for a plan without DATA"),
        (("--tokens", "16", "--data.text", "words"), "data.text is given without DATA"),
        (("--tokens", "16", "--memory", "much"), "memory is 'much', which is no amount"),
        (("--tokens", "16", "--memory", "0GB"), "memory is '0GB', which is no amount"),
        (("--tokens", "2"), "tokens"),
        (("--tokens", "16", "--recompute", "some"), "recompute"),
        (("--tokens", "16", "--device", "abacus"), "device"),
        (("--tokens", "16", "--methods", "lroa"), "did you mean lora"),
        (("--tokens", "16", "--max-memory", "8GB"), "did you mean --memory"),
        (("--tokens", "16", "--tokns", "8"), "did you mean --tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    arguments: tuple[str, ...], said: str, bare: str, reviews_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, bare, *(reviews_folder if each == "DATA" else each for each in arguments))
