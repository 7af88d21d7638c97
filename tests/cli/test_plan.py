"""inlay plan: what each method would take, from files without weights; what does not fit, and what cannot be asked."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from inlay import LoRA, plan
from inlay.cli import main
from inlay.cost import calibration
from inlay.cost.storages import PARTS
from inlay.training import forecast

from ..plans import plan_of
from ..plans import planned as planned_by_hand

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


def test_a_config_is_enough(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--rows", "32", "--dtype", "float32", *FEW)
    assert (found["device"], found["dtype"], found["batch_size"], found["longest"]) == ("cpu", "float32", 16, 16)
    methods = found["methods"]
    assert list(methods) == sorted(methods, key=lambda name: methods[name]["process_bytes"])
    assert methods["lora"]["trained_parameters"] == 4 * methods["lora:rank=4"]["trained_parameters"]
    for each in methods.values():
        assert set(each["memory"]) == set(PARTS)
        assert each["tensor_bytes"] == sum(each["memory"].values())
        assert each["process_bytes"] > each["tensor_bytes"]
        assert each["fits"]
        assert each["change"] == {}
        assert each["run_seconds"] >= each["steps"] * each["step_seconds"] > 0
    assert methods["full"]["memory"]["adapter"] == 4 * methods["full"]["trained_parameters"]


def test_the_rows_of_data_count(tiny_bert: str, reviews_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = planned(capsys, tiny_bert, reviews_folder, "--methods", "bitfit", "--epochs", "2", "--batch-size", "2")
    many = planned(capsys, tiny_bert, reviews_folder, "--methods", "bitfit", "--epochs", "2", "--batch-size", "8")
    assert few["data"] == reviews_folder
    assert many["methods"]["bitfit"]["memory"]["activations"] > 2 * few["methods"]["bitfit"]["memory"]["activations"]
    assert few["methods"]["bitfit"]["steps"] == pytest.approx(4 * many["methods"]["bitfit"]["steps"], abs=8)


def test_a_method_that_is_named_twice_has_two_rows(bare: str) -> None:
    found = plan(bare, methods=["lora", LoRA(rank=4)], tokens=16, dtype="float32")
    assert [row.label for row in found.planned] == ["lora-2", "lora"]
    assert list(found.as_json()["methods"]) == ["lora-2", "lora"]  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_device_that_is_not_here_has_memory_and_no_time(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--device", "cuda", "--memory", "8GB", "--methods", "lora", "qlora")
    assert (found["device"], found["dtype"], found["memory_bytes"]) == ("cuda", "bfloat16", 8_000_000_000)
    lora, qlora = (found["methods"][name] for name in ("lora", "qlora"))
    assert lora["step_seconds"] is lora["run_seconds"] is None
    reserved = lora["process_bytes"] - 500 * 2**20  # its context
    assert reserved >= lora["tensor_bytes"]
    assert reserved % 2**21 == 0
    assert qlora["memory"]["weights"] != lora["memory"]["weights"]
    assert qlora["trained_parameters"] == lora["trained_parameters"]
    assert all(each["memory"][part] % 512 == 0 for each in (lora, qlora) for part in PARTS)
    free = planned(capsys, bare, "--tokens", "16", "--device", "cuda", "--methods", "lora")
    assert free["memory_bytes"] is None
    assert free["methods"]["lora"]["fits"]


def test_what_does_not_fit_says_what_would(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (bare, "--tokens", "64", "--device", "cuda", "--methods", "bitfit", "lora", "--batch-size", "64")
    whole = planned(capsys, *asked)["methods"]["lora"]["process_bytes"]
    found = planned(capsys, *asked, "--memory", f"{whole - 1}")["methods"]["lora"]
    assert not found["fits"]
    assert found["change"]
    flags = [word for name, value in found["change"].items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert planned(capsys, *asked, "--memory", f"{whole - 1}", *flags)["methods"]["lora"]["fits"]


@pytest.mark.parametrize("processes", ["1", "4"])
def test_what_makes_it_fit_may_be_fewer_rows_at_once_however_many_processes_share_them(
    processes: str, bare: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        bare,
        "--tokens",
        "64",
        "--device",
        "cuda",
        "--methods",
        "lora",
        "--batch-size",
        "256",
        "--recompute",
        "all",
    )
    asked = (*asked, "--processes", processes)
    whole = planned(capsys, *asked)["methods"]["lora"]["process_bytes"]
    change = planned(capsys, *asked, "--memory", f"{whole - 1}")["methods"]["lora"]["change"]
    assert list(change) == ["micro_batch_size"]
    assert change["micro_batch_size"] < 256 // int(processes)
    flags = ("--memory", f"{whole - 1}", "--micro-batch-size", str(change["micro_batch_size"]))
    assert planned(capsys, *asked, *flags)["methods"]["lora"]["fits"]


def test_the_free_memory_of_a_cpu_is_shared_out_among_processes(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "available_memory_bytes", lambda device: 40_000_000_000)
    limits = [plan(bare, methods=["lora"], tokens=16, processes=count, device="cpu").result for count in (1, 4)]
    assert limits[0].memory - limits[1].memory == pytest.approx(30e9, abs=1e9)


def test_what_to_change_is_told_once_for_all_that_it_helps() -> None:
    smaller: dict[str, object] = {"micro_batch_size": 4}
    rows = [planned_by_hand(name, 1000, 9000, smaller) for name in ("lora", "dora", "ia3")]
    assert plan_of(*rows).changes == ["ia3, lora and dora fit with --micro-batch-size 4"]
    assert plan_of(planned_by_hand("lora", 1000, 9, None)).changes == []
    (line,) = plan_of(planned_by_hand("lora", 1000, 9000, {"micro_batch_size": 2, "recompute": "all"})).changes
    assert line == "lora fits with --micro-batch-size 2 --recompute all"


def test_a_method_of_no_known_family_comes_last_and_is_not_left_out() -> None:
    class Strange(LoRA):
        family = "strange"  # pyright: ignore[reportAssignmentType]

    rows = [planned_by_hand("lora", 1, 1, None, label="own", method=Strange()), planned_by_hand("full", 1, 1, None)]
    assert [row[0] for row in plan_of(*rows).table.rows] == ["full", "own"]


def test_processes_have_a_part_of_the_rows_and_of_the_base_each(
    bare: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((Path(bare) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 24}))
    asked = (str(tmp_path), "--tokens", "16", "--rows", "32", "--dtype", "float32", "--methods", "lora", "full")
    alone, several = planned(capsys, *asked), planned(capsys, *asked, "--processes", "4", "--shard")
    one, each = (found["methods"]["lora"]["memory"] for found in (alone, several))
    assert each["activations"] < one["activations"] / 3
    assert each["weights"] < one["weights"] / 2
    assert each["adapter"] == one["adapter"]
    assert "full trains the base's own weights" in str(several["methods"]["full"])
    assert main(["plan", *asked, "--processes", "4", "--shard"]) == 0
    assert "on each of 4 processes, which share the base out" in " ".join(capsys.readouterr().out.split())
    assert "there is one; give more by processes" in refused(capsys, *asked, "--shard")


@pytest.mark.parametrize(("number", "part"), [(2, 0.5), (3, 0.5), (4, 0.25)])
def test_processes_share_the_time_of_a_step(
    number: int, part: float, bare: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (bare, "--tokens", "16", "--rows", "32", "--micro-batch-size", "2", "--batch-size", "8")
    asked = (*asked, "--dtype", "float32", "--methods", "ia3")
    alone, several = planned(capsys, *asked), planned(capsys, *asked, "--processes", str(number))
    one, each = (found["methods"]["ia3"]["step_seconds"] for found in (alone, several))
    assert each / one == pytest.approx(part, abs=0.1)


@pytest.mark.parametrize(("more", "part"), [(("--processes", "2"), 0.5), (("--micro-batch-size", "2"), 1.0)])
def test_evaluations_take_their_time_however_the_rows_are_divided(
    more: tuple[str, ...], part: float, tiny_bert: str, reviews_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (tiny_bert, reviews_folder, "--methods", "ia3", "--dtype", "float32", "--batch-size", "4")

    def evaluations(*more: str) -> float:
        found = planned(capsys, *asked, *more)["methods"]["ia3"]
        return found["run_seconds"] - found["steps"] * found["step_seconds"]

    assert evaluations(*more) / evaluations() == pytest.approx(part, rel=0.8)  # small batches take longer for a row
    assert evaluations(*more) > 0.9 * part * evaluations()


def test_a_method_that_does_not_fit_the_model_has_its_reason(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, bare, "--tokens", "16", "--methods", "bitfit", "lora")
    assert "no biases" in found["methods"]["bitfit"]["problem"]
    assert main(["plan", bare, "--tokens", "16", "--methods", "bitfit"]) == 2
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
    assert "://" not in text
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
        (("--tokens", "16", "--memory", "12"), "memory is '12', which has no unit; write it as 12GB or 12MiB"),
        (("--tokens", "2"), "tokens"),
        (("--tokens", "1000000"), "tokens is 1000000; the model has room for"),
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


def test_rows_that_are_not_read_are_counted_and_not_made(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (bare, "--tokens", "16", "--methods", "lora", "--epochs", "1", "--batch-size", "4")
    few, many = (planned(capsys, *asked, "--rows", rows)["methods"]["lora"] for rows in ("4", "1000000000000"))
    assert (few["steps"], many["steps"]) == (1, 250_000_000_000)
    assert many["tensor_bytes"] == few["tensor_bytes"]


def test_a_streamed_base_is_there_one_block_at_a_time(bare: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (bare, "--tokens", "16", "--methods", "lora")
    kept, streamed = (planned(capsys, *asked, *more)["methods"]["lora"] for more in ((), ("--stream",)))
    assert streamed["memory"]["weights"] < kept["memory"]["weights"]
    assert streamed["memory"]["activations"] < kept["memory"]["activations"]
    assert main(["plan", *asked, "--stream"]) == 0
    assert "its blocks read from its files" in " ".join(capsys.readouterr().out.split())
    for more, why in (
        (("--recompute", "none"), "recompute is none"),
        (("--quantize", "nf4"), "quantize is nf4"),
        (("--processes", "2", "--shard"), "stream and shard are both on"),
    ):
        assert why in refused(capsys, *asked, "--stream", *more)
    assert main(["plan", bare, "--tokens", "16", "--methods", "lora", "qlora", "full", "--stream"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "full: stream is on, and full trains the base's own weights" in shown
    assert "qlora: stream is on, which reads the base as its files have it, and quantize is nf4" in shown


def test_a_terminal_says_that_the_machine_is_measured(
    bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first plan takes much longer than others, and nothing said what for."""
    monkeypatch.setenv("INLAY_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "STEPS", calibration.STEPS[:2])
    monkeypatch.setenv("TERM", "xterm")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in range(2):
        calibration.measured_speed.cache_clear()
        main(["plan", bare, "--tokens", "16", "--rows", "32", "--dtype", "float32", "--methods", "lora"])
    calibration.measured_speed.cache_clear()
    measuring = [f"measuring this machine, once: {done} of 2 …" for done in range(2)]
    lines = [line for line in terminal.getvalue().split("\r\033[2K") if line]
    begins = ["starting …", "planning lora …"]
    assert lines == [*begins, *measuring, "planning lora …", *begins]
