"""inlay.suggest_rank: ranks before training, as a method that can be trained."""

import json
from pathlib import Path

import pytest

import inlay
from inlay.cli import main

from .test_notebook import QUICK, ROWS


def test_the_suggested_method_is_trained(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = inlay.suggest_rank(tiny_bert, ROWS, inlay.LoRA(rank=2), progress=False)
    assert list(tmp_path.iterdir()) == []  # nothing is written unasked
    assert "attention" in found.table.markdown()
    assert "<table" in found._repr_html_()
    assert "inlay train --config" not in repr(found)
    run = inlay.train(tiny_bert, ROWS, found.method, out="run", **QUICK)
    ranks = {name: len(d.lora_A) for name, d in run.adapter.deltas.items() if hasattr(d, "lora_A")}
    assert ranks == found.ranks

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["rank", tiny_bert, str(data), "--rank", "2", "--out", "by-command-line", "--json"]) == 0
    by_command_line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {layer["name"]: layer["rank"] for layer in by_command_line["layers"]} == found.ranks
    assert json.loads((tmp_path / "by-command-line" / "suggestion.json").read_text()) == by_command_line


def test_with_a_folder_the_command_line_can_train_it(
    tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    found = inlay.suggest_rank(tiny_bert, ROWS, inlay.LoRA(rank=2), out=out, attempt=True, forgetting=False)
    assert found.result.tried is not None
    assert "Tried for 1 epoch" in repr(found)
    settings = ["--no-forgetting", "--epochs", "0.5", "--out", str(tmp_path / "run")]
    assert main(["train", "--config", str(out / "suggested.yaml"), *settings]) == 0
    assert "rows" in json.loads((tmp_path / "run" / "adapter" / "provenance.json").read_text())["data"]["path"]


def test_what_cannot_be_suggested_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    for asked, said in (
        ({"method": "bitfit"}, "bitfit has no rank for each layer"),
        ({"attempt": True}, "attempt trains two runs, which need a folder"),
        ({"origin": "gradient"}, "origin is 'gradient'; did you mean gradients"),
        ({"sede": 1}, "unknown setting sede; did you mean seed"),
        ({"out": tmp_path}, "is not empty"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(inlay.InlayError, match=said):
            inlay.suggest_rank(tiny_bert, ROWS, **asked)
