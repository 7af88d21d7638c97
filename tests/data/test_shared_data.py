"""The real data sets beside the repository, where there are any."""

import re
from pathlib import Path

import pytest

from inlay.data.classification import load_classification
from inlay.data.describe import describe
from inlay.data.generation import load_generation
from inlay.data.problems import Problems
from inlay.data.rows import read_rows
from inlay.data.settings import DataSettings
from inlay.data.tokens import tokenize_generation

from .chat_tokenizers import CHATML, byte_level

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PAIRS = {
    "rte": ("sentence1", "sentence2"),
    "mrpc": ("sentence1", "sentence2"),
    "boolq": ("question", "passage"),
}
CLASSES = {
    "sst2": 2,
    "cr": 2,
    "mpqa": 2,
    "subj": 2,
    "trec": 6,
    "ag_news": 4,
    "emotion": 6,
    "banking77": 77,
    "cola": 2,
    "rte": 2,
    "mrpc": 2,
    "boolq": 2,
    "clinc150": 150,
}

# The columns of prompt-completion sets: prompt, completion.
PROMPTS = {"e2e_nlg": ("input", "target"), "webnlg": ("input", "target"), "gsm8k": ("question", "answer")}
INSTRUCTIONS = ["alpaca", "dolly"]
TEXTS = {"chilit": (59, 3, 3), "tinystories": (2519, 1, 200), "tinyshakespeare": (1, 1, 1)}

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED}")


def documented_counts(name: str) -> dict[str, int]:
    """`train 6909 / valid 872 / test 1821` of the line about `name` in the README there."""
    line = next(line for line in (SHARED / "README.md").read_text().splitlines() if line.startswith(f"| {name} |"))
    return {split: int(count) for split, count in re.findall(r"(train|valid|test) (\d+)", line)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_classification_set_loads_as_documented(name):
    data = load_classification(DataSettings(path=str(SHARED / name)))
    assert {split: len(examples) for split, examples in data.splits.items()} == documented_counts(name)
    assert data.labels == tuple(str(i) for i in range(CLASSES[name]))
    assert (data.columns["text"], data.columns.get("text_pair")) == PAIRS.get(name, ("text", None))
    assert "label_name" in data.ignored_columns
    assert data.valid_from == "valid.jsonl"


@pytest.mark.parametrize("name", CLASSES)
def test_every_classification_set_is_described_without_errors(name):
    found = describe(DataSettings(path=str(SHARED / name)))
    assert {split: report.rows for split, report in found.splits.items()} == documented_counts(name)
    assert [problem for problem in found.problems if problem.severity == "error"] == []
    assert not [duplicates for duplicates in found.duplicates if len(duplicates.splits) == 2]


def test_a_file_that_is_no_split_is_listed_as_ignored():
    assert describe(DataSettings(path=str(SHARED / "clinc150"))).ignored_files == ("SOURCE.md", "oos.jsonl")


@pytest.mark.parametrize("name", ["sst2", "banking77", "trec"])
def test_a_train_file_alone_is_split_with_every_label_in_both_parts(name):
    data = load_classification(DataSettings(path=str(SHARED / name / "train.jsonl")))
    rows = documented_counts(name)["train"]
    assert len(data.splits["valid"]) == min(round(rows * 0.05), 500)
    assert {e.label for e in data.splits["valid"]} == {e.label for e in data.splits["train"]}
    assert not {e.text for e in data.splits["valid"]} & {e.text for e in data.splits["train"]}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_are_described(name):
    found = describe(DataSettings(path=str(SHARED / name)))
    assert (found.format, found.problems) == ("instruction", ())
    assert found.columns == {"instruction": "instruction", "input": "input", "output": "output"}


@pytest.mark.parametrize("name", [*PROMPTS, *INSTRUCTIONS])
def test_every_set_of_prompts_and_answers_loads_as_documented(name):
    data = load_generation(DataSettings(path=str(SHARED / name)))
    counts = {split: len(examples) for split, examples in data.splits.items()}
    documented = documented_counts(name)
    if "valid" not in documented:
        counts["train"] += counts.pop("valid")
    assert counts == documented
    assert data.warnings == ()
    assert data.format == ("prompt-completion" if name in PROMPTS else "instruction")
    if name in PROMPTS:
        assert (data.columns["prompt"], data.columns["completion"]) == PROMPTS[name]


@pytest.mark.parametrize(("name", "inputs", "references"), [("e2e_nlg", 630, 4693), ("webnlg", 1862, 4928)])
def test_every_reference_of_a_test_set_is_there(name, inputs, references):
    named = DataSettings(path=str(SHARED / name), prompt="input", completion="target")
    for settings in (DataSettings(path=str(SHARED / name)), named):
        test = load_generation(settings).splits["test"]
        assert (len(test), sum(len(example.references) for example in test)) == (inputs, references)
        assert all(example.texts[-1] == example.references[0] for example in test)


@pytest.mark.parametrize("name", TEXTS)
def test_every_plain_text_is_as_many_documents_as_documented(name):
    data = load_generation(DataSettings(path=str(SHARED / name)))
    assert tuple(len(data.splits[split]) for split in ("train", "valid", "test")) == TEXTS[name]
    assert (data.format, data.warnings) == ("text", ())
    assert "<|endoftext|>" not in "".join(example.texts[0] for example in data.splits["train"])


def test_a_plain_text_alone_has_its_end_held_out():
    with pytest.raises(ValueError, match="no train file"):
        load_generation(DataSettings(path=str(SHARED / "wikitext2")))
    data = load_generation(DataSettings(path=str(SHARED / "wikitext2" / "valid.txt")))
    train, valid = (len(data.splits[split][0].texts[0]) for split in ("train", "valid"))
    assert 0.045 < valid / (train + valid) < 0.055


@pytest.mark.parametrize("template", [None, CHATML], ids=["plain", "chatml"])
@pytest.mark.parametrize("name", [*PROMPTS, *INSTRUCTIONS, "tinystories"])
def test_every_answer_is_learned_with_its_end(name, template):
    examples = load_generation(DataSettings(path=str(SHARED / name))).splits["test"][:100]
    tokenizer = byte_level(template)
    tokens = tokenize_generation(tokenizer, examples, 100_000)
    assert (len(tokens.rows), tokens.cut, tokens.left_out, tokens.problems) == (100, 0, 0, ())
    for example, row in zip(examples, tokens.rows, strict=True):
        learned = [i for i, trained in zip(row["input_ids"], row["trained"], strict=True) if trained]
        end = "<|im_end|>" if template and example.form != "text" else "</s>"
        assert tokenizer.decode(learned).lstrip(" ") == example.texts[-1].lstrip(" ") + end


@pytest.mark.parametrize("name", ["mrpc", "sts"])
def test_pairs_in_a_file_without_quoting(name: str, tmp_path: Path) -> None:
    rows = [row.values for row in read_rows(SHARED / name / "train.jsonl", Problems())]
    lines = ["\t".join(map(str, values)) for values in ([*rows[0]], *(row.values() for row in rows))]
    (tmp_path / "pairs.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    found = read_rows(tmp_path / "pairs.tsv", problems := Problems())
    assert [row.values for row in found] == [{k: str(v) for k, v in row.items()} for row in rows]
    assert [problem.severity for problem in problems.found()] == ["note"]
