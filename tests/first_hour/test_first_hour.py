"""The first hour of a new user: an Excel file becomes a service, and an adapter of PEFT is scored, merged and analysed.

Each step says what the next one is, or what is wrong and the flag that mends it; the test does what it is told.
"""

import json
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

from inlay.cli import main

from ..tiny_models import reviews

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command and return what it prints; `code` is the exit code that is expected."""

    def run(command: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(shlex.split(command)) == code
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return found.out if code == 0 else found.err

    return run


def excel(path: Path, header: str, rows: list[dict[str, Any]]) -> Path:
    """The file as Excel of a country with decimal commas saves it as CSV UTF-8: with a mark, CRLF and empty rows."""
    lines = [header]
    for i, row in enumerate(rows, 1):
        text = f'"{row["text"]}; ""{row["text"]}"", so"' if i % 3 == 0 else row["text"]
        lines.append(f"{i};{text};{i},5;{row['label']}")
    path.write_bytes("\r\n".join([*lines, ";;;", ""]).encode("utf-8-sig"))
    return path


def labels_in(answers: str) -> list[str]:
    return [line.split("\t")[0] for line in answers.splitlines()]


def suggested(error: str) -> str:
    """The flags that a message ends with."""
    found = re.search(r"--data\.\S+ \S+( --data\.\S+ \S+)*", error)
    assert found is not None, error
    return found[0]


def test_from_an_excel_file_to_a_service(
    tiny_bert: str,
    tmp_path: Path,
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    excel(tmp_path / "tickets.csv", "Id;TEXT;Score;LABEL", reviews(120))

    seen = say("data tickets.csv")
    assert "text = TEXT, label = LABEL" in seen
    assert "ignored   Id, Score" in seen
    assert "fields are separated by semicolons" in seen
    assert "valid is small: an accuracy of 50 % on its 16 rows means 28.0 to 72.0 % (95 %)" in seen
    assert "no problems found" in seen

    short = "--epochs 8 --learning-rate 5e-3 --dtype float32 --no-forgetting --evaluations-per-epoch 1"
    seen = say(f"train {tiny_bert} tickets.csv {short} --out runs/tickets")
    assert "note    tickets.csv: fields are separated by semicolons" in seen
    assert "--data.valid-fraction 0.2 holds out about 24" in " ".join(seen.split())
    assert "done    accuracy" in seen
    (following,) = re.findall(r"^next +inlay (predict .*)\n +inlay (eval .*)$", seen, re.MULTILINE)
    alone = say(following[0])
    assert "positive" in alone
    assert "negative" in alone

    seen = say(following[1])
    assert "16 rows of valid from tickets.csv" in seen
    assert "accuracy" in seen
    assert "trained on" not in seen
    assert re.search(r"^ +baseline +tuned$", seen, re.MULTILINE)
    assert "base: its head is new and answers at random" in seen
    assert "the adapter was trained on 104 of these 120 rows" in say("eval runs/tickets tickets.csv")

    new = reviews(30, start=120)
    excel(tmp_path / "new.csv", "Nr;Message;Points;Category", new)
    refused = say("predict runs/tickets new.csv", code=2)
    assert 'no column "TEXT"; the columns are Nr, Message, Points, Category' in refused
    assert suggested(refused) == "--data.text Message"
    answers = labels_in(say(f"predict runs/tickets new.csv {suggested(refused)}"))
    assert len(answers) == 30
    assert set(answers) == {"positive", "negative"}
    refused = say("eval runs/tickets new.csv", code=2)
    assert suggested(refused) == "--data.text Message --data.label Category"
    seen = say(f"eval runs/tickets new.csv {suggested(refused)} --json")
    right = sum(answer == row["label"] for answer, row in zip(answers, new, strict=True))
    assert json.loads(seen)["tuned"]["accuracy"] == pytest.approx(right / 30)

    seen = say("merge runs/tickets merged")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in [Path("new.csv"), *Path("merged").iterdir()]}
    assert len(modes) == 1, "others may read what is for them"
    assert 'transformers.AutoModelForSequenceClassification.from_pretrained("merged")' in seen
    for verb in ("predict merged new.csv", "eval merged new.csv", "rank merged", "merge merged again"):
        refused = say(verb, code=2)
        assert "merged is a whole model (BertForSequenceClassification) without an adapter, such as inlay me" in refused
    *_, code = shlex.split(refused.partition("with transformers: ")[2].partition("; inlay eval")[0])
    exec(code, {})
    assert re.search("'label': '(positive|negative)'", capsys.readouterr().out)
    classify: Any = transformers.pipeline("text-classification", model="merged", device="cpu")
    rows = map(json.loads, say("predict runs/tickets new.csv --data.text Message --json").splitlines())
    assert [found["label"] for found in classify([row["text"] for row in rows])] == answers


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_peft_is_scored_merged_and_analysed(
    tiny_bert: str, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    base: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert, **names)
    base.save_pretrained("base")
    transformers.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained("base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained("base")
    config: Any = peft.LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained("adapter")
    excel(tmp_path / "rows.csv", "Id;Text;Score;Label", reviews(24))

    assert "name the data to evaluate on" in say("eval adapter", code=2)
    seen = say("eval adapter rows.csv")
    assert "24 rows from rows.csv" in seen
    assert re.search(r"^ +baseline +base +tuned$", seen, re.MULTILINE)  # the base has a head of its own
    assert "answers at random" not in seen
    answers = labels_in(say("predict adapter rows.csv"))
    assert "rank of 90 % of the energy" in say("rank adapter --base never")
    seen = say("merge adapter merged")
    assert "check   loaded again" in seen
    classify: Any = transformers.pipeline("text-classification", model="merged", device="cpu")
    rows = map(json.loads, say("predict adapter rows.csv --json").splitlines())
    assert [found["label"] for found in classify([row["text"] for row in rows])] == answers
