"""What a run says of its forgetting, what turns it off, and what makes it less."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import inlay
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.errors import DataError, SettingsError
from inlay.training.run import train
from inlay.training.settings import RunSettings
from inlay.training.source_tasks import source_tasks

from ..shapes import SHAPES, method
from ..tiny_models import write_reviews, write_rows

COMMON = {"passages_there", "measure", "value", "interval", "source", "passages", "tokens", "seconds"}
OF_LOSS = {*COMMON, "base_loss", "tuned_loss", "kl", "kl_interval", "kl_positions"}
OF_GEOMETRY = {*COMMON, "cka", "probe_base", "probe_tuned", "probe_interval"}


def asked(model: str, data: str, out: Path, name: str = "lora", **changes: Any) -> RunSettings[Any]:
    wanted: dict[str, Any] = {"epochs": 6, "learning_rate": 1e-2, "dtype": "float32", "samples": 0}
    built = method(name, SHAPES["bert" if "bert" in model else "llama"])
    return RunSettings(model=model, data=DataSettings(path=data), method=built, out=str(out), **wanted | changes)


def told(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary["forgetting"].items() if key != "seconds"}


@pytest.mark.parametrize("name", ["lora", "full", "prompt"])
def test_a_writing_run_says_what_it_forgot_and_says_it_again(
    name: str, tiny_llama: str, completions: str, retain: str, tmp_path: Path
) -> None:
    first, again = (
        train(asked(tiny_llama, completions, tmp_path / out, name, retain=retain, epochs=2)) for out in ("a", "b")
    )
    assert first["forgetting"].keys() == OF_LOSS
    assert told(first) == told(again)
    found = first["forgetting"]
    assert found["source"] == retain
    assert found["value"] == pytest.approx(found["tuned_loss"] - found["base_loss"])
    assert found["kl"] > 0 < found["seconds"]
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["forgetting"] == found
    events = map(json.loads, (tmp_path / "a" / "metrics.jsonl").read_text().splitlines())
    (event,) = (e for e in events if e["event"] == "forgetting")
    assert event.items() >= found.items()
    assert "nats per token (95 % " in (tmp_path / "a" / "log.txt").read_text()
    assert "<h2>Forgetting</h2>" in (tmp_path / "a" / "report.html").read_text()


@pytest.mark.parametrize("name", ["lora", "full", "prompt"])
def test_a_classifying_run_says_what_its_geometry_kept_and_says_it_again(
    name: str, tiny_bert: str, reviews_folder: str, retain: str, tmp_path: Path
) -> None:
    first, again = (
        train(asked(tiny_bert, reviews_folder, tmp_path / out, name, retain=retain, epochs=2)) for out in ("a", "b")
    )
    assert first["forgetting"].keys() == OF_GEOMETRY
    assert told(first) == told(again)
    found = first["forgetting"]
    assert 0 < found["value"] < 1.2
    assert found["cka"] == pytest.approx(1 - found["value"])
    assert found["probe_base"] > 0.5
    assert "(1 − CKA; 0: unchanged, 1: unrelated; 95 %" in (tmp_path / "a" / "log.txt").read_text()


def test_builtin_passages_are_measured_if_no_others_are_named(
    tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    found = train(asked(tiny_llama, completions, tmp_path / "r", epochs=1))["forgetting"]
    assert found["source"] == "builtin:passages"
    assert found["passages"] == 12  # a run this short is not worth more
    assert "retain: builtin:passages  # comes with Inlay" in (tmp_path / "r" / "resolved.yaml").read_text()


def test_turned_off_it_leaves_the_training_as_it_was(tiny_llama: str, completions: str, tmp_path: Path) -> None:
    for out, measured in (("on", True), ("off", False)):
        summary = train(asked(tiny_llama, completions, tmp_path / out, epochs=1, forgetting=measured))
        assert (summary["forgetting"] is not None) == measured
    on, off = ((tmp_path / out / "adapter" / "adapter_model.safetensors").read_bytes() for out in ("on", "off"))
    assert on == off
    assert "Forgetting" not in (tmp_path / "off" / "report.html").read_text()


def test_quantized_bases_are_measured_too(tiny_llama: str, completions: str, retain: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = train(asked(tiny_llama, completions, tmp_path / "r", quantize="nf4", retain=retain))["forgetting"]
    assert 0 < found["kl"] < 20


@pytest.mark.parametrize("name", ["lora", "full"])
def test_replay_makes_a_language_model_forget_less(
    name: str, tiny_llama: str, completions: str, retain: str, tmp_path: Path
) -> None:
    plain, held = (
        train(asked(tiny_llama, completions, tmp_path / str(weight), name, retain=retain, retain_weight=weight))
        for weight in (0.0, 1.0)
    )
    assert held["forgetting"]["value"] < plain["forgetting"]["value"] - 0.1
    assert held["metrics"]["tuned"]["loss"] < 0.8 * held["metrics"]["base"]["loss"]
    assert held["forgetting"]["base_loss"] == plain["forgetting"]["base_loss"]


@pytest.mark.parametrize("name", ["lora", "full"])
def test_an_anchor_makes_an_encoder_keep_more_of_its_geometry(
    name: str, tiny_bert: str, reviews_folder: str, retain: str, tmp_path: Path
) -> None:
    plain, held = (
        train(asked(tiny_bert, reviews_folder, tmp_path / str(weight), name, retain=retain, retain_weight=weight))
        for weight in (0.0, 3.0)
    )
    assert held["forgetting"]["value"] < 0.7 * plain["forgetting"]["value"]
    assert held["metrics"]["tuned"]["loss"] < held["metrics"]["base"]["loss"]


def test_micro_batches_count_what_is_held_once(
    tiny_bert: str, reviews_folder: str, retain: str, tmp_path: Path
) -> None:
    found = []
    for size in (16, 4):
        settings = asked(tiny_bert, reviews_folder, tmp_path / str(size), retain=retain, retain_weight=1.0, epochs=1)
        train(replace(settings, micro_batch_size=size, learning_rate=1e-5))
        lines = map(json.loads, (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines())
        found.append([e["loss"] for e in lines if e["event"] == "step"])
    assert found[0] == pytest.approx(found[1], rel=0.02)  # the passages beside them are others


def test_what_could_have_no_effect_is_refused(tiny_llama: str, completions: str, retain: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it would have no part in the run; leave out --retain"):
        asked(tiny_llama, completions, tmp_path / "r", retain=retain, forgetting=False)
    with pytest.raises(SettingsError, match="retain_weight is -1; it must be at least 0"):
        asked(tiny_llama, completions, tmp_path / "r", retain_weight=-1)


def test_a_bad_file_of_general_text_is_refused_before_anything_is_written(
    tiny_llama: str, completions: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "bad.jsonl", [{"text": "a b"}, {"body": "c"}])
    with pytest.raises(DataError, match=r'bad\.jsonl:2: no column "text"'):
        train(asked(tiny_llama, completions, tmp_path / "r", retain=path))
    assert not (tmp_path / "r").exists()


def test_the_flags_are_those_of_a_file_of_settings(
    tiny_llama: str, completions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", tiny_llama, completions, "--epochs", "1", "--samples", "0"]
    assert main([*command, "--no-forgetting", "--out", str(tmp_path / "a")]) == 0
    assert "forgetting: false" in (tmp_path / "a" / "run.yaml").read_text()
    assert main(["train", "--config", str(tmp_path / "a" / "run.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["forgetting"] is None
    (tmp_path / "on.yaml").write_text((tmp_path / "a" / "run.yaml").read_text().replace("false", "true"))
    assert main(["train", "--config", str(tmp_path / "on.yaml"), "--out", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c" / "summary.json").read_text())["forgetting"] is not None
    capsys.readouterr()
    assert main([*command, "--no-forgetting", "--retain", "x.txt", "--out", str(tmp_path / "d")]) == 2
    assert "no part in the run" in capsys.readouterr().err


def test_what_a_method_learns_before_is_not_measured(tiny_bert: str, reviews_folder: str, tmp_path: Path) -> None:
    sources = (reviews_folder, write_reviews(tmp_path / "more"))
    multitask = inlay.METHODS["multitask-prompt"](tokens=4, sources=sources)
    settings = replace(asked(tiny_bert, reviews_folder, tmp_path / "r", retain_weight=1.0), method=multitask)
    for source in source_tasks(settings, tmp_path / "r"):
        assert (source.run.settings.forgetting, source.run.settings.retain_weight) == (False, 0)
