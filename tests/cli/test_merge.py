"""inlay merge: what it writes is a plain checkpoint that computes what base and adapter did."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import inlay
from inlay.cli import main
from inlay.data.settings import DataSettings
from inlay.inference import merge as merge_module
from inlay.inference.opened import find_adapter, open_adapter
from inlay.tasks.task import Task
from inlay.training.run import train
from inlay.training.settings import RunSettings

from ..edited import unseal
from ..shapes import SHAPES
from ..test_quantized import WIDE
from ..tiny_models import save_tiny_model, write_rows

TEXTS = ["the film was so good", "a very awful plot", "bad"]


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> str:
    nouns = {"film": "great", "plot": "poor", "cast": "fine"}
    rows = [
        {"prompt": f"{the} {noun} {was}", "completion": f"so very {word}"}
        for the in ("the", "a")
        for was in ("was", "is")
        for noun, word in nouns.items()
    ]
    folder = tmp_path_factory.mktemp("completions")
    write_rows(folder / "train.jsonl", rows[:9] * 4)
    write_rows(folder / "valid.jsonl", rows[9:])
    return str(folder)


def trained(model: str, data: str, out: Path, method: Any, **changes: Any) -> Path:
    wanted: dict[str, Any] = {"epochs": 4, "learning_rate": 1e-2, "dtype": "float32", "evaluations_per_epoch": 1}
    train(RunSettings(model=model, data=DataSettings(path=data), method=method, out=str(out), **wanted | changes))
    return out


@pytest.fixture(scope="module")
def causal(completions: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal")
    return trained(save_tiny_model(SHAPES["llama"], folder / "base"), completions, folder / "run", inlay.LoRA(rank=4))


@pytest.fixture(scope="module")
def classifier(tiny_bert: str, reviews_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_bert, reviews_folder, tmp_path_factory.mktemp("classifier") / "run", inlay.LoRA(rank=4))


@pytest.fixture(scope="module")
def quantized(completions: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("quantized")
    base = save_tiny_model(WIDE["llama"], folder / "base")
    return trained(base, completions, folder / "run", inlay.LoRA(rank=4), quantize="nf4")


def merged(run: Path, out: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, dict[str, Any]]:
    """The events, by name."""
    capsys.readouterr()
    assert main(["merge", str(run), str(out), "--json", *flags]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {event["event"]: event for event in events}


def refused(run: Path, out: Path, capsys: pytest.CaptureFixture[str], *flags: str, code: int = 2) -> str:
    """What is said; nothing is written beside `out` or into it."""
    before = {p: p.stat().st_mtime_ns for p in out.parent.rglob("*")}
    capsys.readouterr()
    assert main(["merge", str(run), str(out), *flags]) == code
    assert {p: p.stat().st_mtime_ns for p in out.parent.rglob("*")} == before
    return capsys.readouterr().err


@torch.no_grad()
def logits(model: Any, tokenizer: Any, texts: list[str] = TEXTS) -> Tensor:
    rows = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
    return torch.cat([model(**row).logits.float().flatten(end_dim=-2) for row in rows])


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def load(kind: str, out: Path) -> tuple[Any, Any]:
    model, info = getattr(transformers, kind).from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    return model.eval(), transformers.AutoTokenizer.from_pretrained(out)


def test_a_language_model_computes_what_base_and_adapter_do(
    causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    events = merged(causal, out, capsys)
    opened = open_adapter(causal)
    expected = logits(opened.model, opened.task.tokenizer)
    model, tokenizer = load("AutoModelForCausalLM", out)
    close(logits(model, tokenizer), expected, 1e-5)
    with inlay.using(opened.model):
        assert (logits(opened.model, opened.task.tokenizer) - expected).abs().max() > 0.1
    assert type(model) is transformers.LlamaForCausalLM
    assert model.dtype == torch.float32  # as the base is stored
    assert model.generation_config.eos_token_id == opened.provenance["stop"]
    assert events["checked"]["largest_difference"] < 1e-5
    assert events["checked"]["rms_change"] > 0.1
    assert events["checked"]["of"] == "run"
    assert "changed" not in events
    assert events["finished"]["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_classifier_has_its_new_head_and_its_labels(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    merged(classifier / "adapter", out, capsys)
    opened = open_adapter(classifier)
    model, tokenizer = load("AutoModelForSequenceClassification", out)
    close(logits(model, tokenizer), logits(opened.model, opened.task.tokenizer), 1e-6)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert not hasattr(model, "_inlay")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["llama", "gpt2"])  # GPT-2's head is its embedding
def test_what_full_fine_tuning_has_trained_becomes_a_plain_language_model(
    shape: str, dtype: torch.dtype, completions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES[shape], tmp_path / "base")
    transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(base)
    run = trained(base, completions, tmp_path / "run", inlay.Full(), epochs=1)
    events = merged(run, tmp_path / "out", capsys)
    model, tokenizer = load("AutoModelForCausalLM", tmp_path / "out")
    opened = open_adapter(run)
    exact = dtype == torch.float32
    close(logits(model, tokenizer), logits(opened.model, opened.task.tokenizer), 1e-6 if exact else 5e-2)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert events["model"]["total_parameters"] == sum(p.numel() for p in model.parameters())
    assert events["checked"]["rms_change"] > 0.1
    assert ("changed" in events) == (not exact)


def test_what_full_fine_tuning_has_trained_becomes_a_plain_classifier(
    tiny_bert: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tiny_bert, reviews_folder, tmp_path / "run", inlay.Full(), epochs=1)
    merged(run, tmp_path / "out", capsys)
    model, tokenizer = load("AutoModelForSequenceClassification", tmp_path / "out")
    opened = open_adapter(run)
    close(logits(model, tokenizer), logits(opened.model, opened.task.tokenizer), 1e-6)


def test_what_it_says(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["merge", str(classifier), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert [line.split()[0] for line in said.out.splitlines()] == ["model", "merge", "check", "done"]
    assert "in float32, as its files have them" in said.out
    assert f'transformers.AutoModelForSequenceClassification.from_pretrained("{tmp_path / "out"}")' in said.out


def test_the_dtype_is_that_of_the_base_and_what_that_changes_is_measured(
    completions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES["llama"], tmp_path / "base")
    transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    run = trained(base, completions, tmp_path / "run", inlay.LoRA(rank=4))
    events = merged(run, tmp_path / "out", capsys)
    model, _ = load("AutoModelForCausalLM", tmp_path / "out")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert events["model"]["dtype"] == events["finished"]["dtype"] == "bfloat16"
    assert (events["changed"]["trained_dtype"], events["changed"]["trained_quantize"]) == ("float32", "none")
    assert 0 < events["changed"]["divergence"] < 0.01
    assert 0 < events["checked"]["largest_difference"] < 0.1


def test_what_was_trained_on_4_bits_is_merged_into_the_base_as_it_was(
    quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    events = merged(quantized, out, capsys)
    model, tokenizer = load("AutoModelForCausalLM", out)
    plain = transformers.AutoModelForCausalLM.from_pretrained(quantized.parent / "base").eval()
    inlay.load(plain, quantized)
    close(logits(model, tokenizer), logits(plain, tokenizer), 1e-5)

    rows = [json.loads(line) for line in (quantized / "predictions.jsonl").read_text().splitlines()]
    texts = [row["prompt"] + row["text"] for row in rows]
    as_trained = logits(open_adapter(quantized).model, tokenizer, texts).log_softmax(-1)
    now = logits(model, tokenizer, texts).log_softmax(-1)
    expected = (as_trained.exp() * (as_trained - now)).sum(-1).mean().item()
    changed = events["changed"]
    assert (changed["trained_quantize"], changed["into"]) == ("nf4", "base")
    assert changed["divergence"] == pytest.approx(expected, rel=1e-3)
    assert changed["divergence"] > 1e-4
    assert changed["agreement"] == pytest.approx((as_trained.argmax(-1) == now.argmax(-1)).float().mean().item())
    assert changed["outputs"] == len(as_trained)


def test_it_can_be_merged_into_the_weights_that_the_4_bits_stand_for(
    quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = merged(quantized, tmp_path / "out", capsys, "--into", "dequantized")
    model, tokenizer = load("AutoModelForCausalLM", tmp_path / "out")
    close(logits(model, tokenizer), logits(open_adapter(quantized).model, tokenizer), 1e-5)
    assert events["changed"]["divergence"] < 1e-6
    assert main(["merge", str(quantized), str(tmp_path / "again"), "--into", "dequantized"]) == 0
    assert "trained on a base in nf4, merged into the weights that its 4 bits stand for" in capsys.readouterr().out


def test_what_loftq_corrects_is_not_corrected_in_a_base_that_does_not_need_it(
    completions: str, quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = inlay.LoRA(rank=4, initialization="loftq")
    run = trained(str(quantized.parent / "base"), completions, tmp_path / "run", method, quantize="nf4")
    for asked in (run, run / "adapter"):
        assert "--into dequantized" in refused(asked, tmp_path / "out", capsys)
    merged(run, tmp_path / "out", capsys, "--into", "dequantized")
    model, tokenizer = load("AutoModelForCausalLM", tmp_path / "out")
    close(logits(model, tokenizer), logits(open_adapter(run).model, tokenizer), 1e-5)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(Task, "load", refuse)


@pytest.mark.usefixtures("no_weights")
def test_an_out_that_is_not_empty_is_left_alone(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    assert "exists and is not empty" in refused(classifier, tmp_path / "out", capsys)
    assert "exists and is not empty" in refused(classifier, tmp_path / "out" / "kept.txt", capsys)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (inlay.Pfeiffer(reduction_factor=2), "pfeiffer changes activations, not weights"),
        (inlay.PrefixTuning(tokens=4), "prefix changes activations, not weights"),
        (inlay.Parallel(), "parallel changes activations, not weights"),
        (inlay.PromptTuning(tokens=4), "prompt changes activations, not weights"),
        (inlay.BitFit(add_missing=True), "has no bias to merge into"),
    ],
    ids=lambda value: value.name if isinstance(value, inlay.Method) else None,
)
def test_a_method_that_cannot_be_merged_is_refused(
    method: Any,
    message: str,
    causal: Path,
    completions: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    run = trained(str(causal.parent / "base"), completions, tmp_path / "run", method, epochs=1)
    request.getfixturevalue("no_weights")
    assert message in refused(run, tmp_path / "out", capsys)


def truncated(run: Path) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    unseal(path.parent)
    path.write_bytes(path.read_bytes()[:2000])


def without_tensors(run: Path) -> None:
    (run / "adapter" / "adapter_model.safetensors").unlink()


def with_another_rank(run: Path) -> None:
    path = run / "adapter" / "adapter_config.json"
    unseal(path.parent)
    path.write_text(path.read_text().replace('"r": 4', '"r": 8'))


def with_nan(run: Path) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    unseal(path.parent)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "bytes that cannot be read"),
        (without_tensors, "no such file"),
        (with_another_rank, "has shape"),
        (with_nan, "are not finite"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_broken_adapter_is_refused(
    damage: Callable[[Path], None],
    message: str,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(classifier, tmp_path / "run")
    damage(tmp_path / "run")
    assert message in refused(tmp_path / "run", tmp_path / "out", capsys)


@pytest.mark.usefixtures("no_weights")
def test_dequantized_is_refused_where_nothing_was_quantized(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "was not quantized" in refused(classifier, tmp_path / "out", capsys, "--into", "dequantized")


def test_what_does_not_compute_the_same_is_not_kept(
    causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def base_alone(found: Any, adapter: inlay.Adapter, device: Any, keep: bool) -> Iterator[Any]:
        adapter.detach()
        yield adapter.model

    monkeypatch.setattr(merge_module, "_plain", base_alone)
    assert "should have the logits of base + adapter, but" in refused(causal, tmp_path / "out", capsys, code=5)


def test_a_head_that_is_not_in_the_checkpoint_is_noticed(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = transformers.BertForSequenceClassification.save_pretrained
    monkeypatch.setattr(
        transformers.BertForSequenceClassification,
        "save_pretrained",
        lambda model, folder: save(
            model, folder, state_dict={n: p for n, p in model.state_dict().items() if "classifier" not in n}
        ),
    )
    assert "but they differ by up to" in refused(classifier, tmp_path / "out", capsys, code=5)


def test_nothing_is_left_of_what_was_interrupted(
    causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = transformers.LlamaForCausalLM.save_pretrained

    def interrupted(model: Any, folder: Path) -> None:
        save(model, folder)
        assert (folder / "model.safetensors").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", interrupted)
    refused(causal, tmp_path / "out", capsys, code=130)


def test_without_the_runs_texts_it_compares_on_random_tokens(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(classifier / "adapter", tmp_path / "adapter")
    assert merged(tmp_path / "adapter", tmp_path / "out", capsys)["checked"]["of"] == "random"


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_other_architectures_merge_too(
    name: str, reviews_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(SHAPES[name], tmp_path / "base")
    run = trained(base, reviews_folder, tmp_path / "run", inlay.LoRA(rank=4), epochs=1)
    merged(run, tmp_path / "out", capsys)
    opened = open_adapter(run)
    model, tokenizer = load("AutoModelForSequenceClassification", tmp_path / "out")
    close(logits(model, tokenizer), logits(opened.model, opened.task.tokenizer), 1e-5)


def test_the_texts_that_are_compared_are_spread_over_all_predictions(classifier: Path, tmp_path: Path) -> None:
    """The first eight were all easy: they agreed to a millionth where 200 rows differed by 4e-5."""
    run = shutil.copytree(classifier, tmp_path / "run")
    line = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    lines = [json.dumps(line | {"text": f"good {number}"}) for number in range(640)]
    (run / "predictions.jsonl").write_text("\n".join(lines))
    texts = merge_module._texts_of_run(find_adapter(run), 64)
    assert texts == [(f"good {number}", None) for number in range(0, 640, 10)]
    rows, of = merge_module._rows(find_adapter(run))
    assert (len(rows), of) == (64, "run")


@pytest.mark.parametrize("kind", ["classifier", "causal"])
def test_the_tokenizer_that_is_written_cuts_no_shorter_than_in_training(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comparison of logits had left its own length in the file, at which programs that read it themselves cut."""
    run: Path = request.getfixturevalue(kind)
    events = merged(run, tmp_path / "out", capsys)
    for folder in (run / "adapter", tmp_path / "out"):
        written = json.loads((folder / "tokenizer.json").read_text())
        cut = written["truncation"] and written["truncation"]["max_length"]
        assert cut == (None if kind == "causal" else find_adapter(run).provenance["max_length"])
        assert written["padding"] is None
    assert events["checked"]["tokens"] == (64 if kind == "causal" else None)


def test_texts_with_a_label_are_compared_whole(classifier: Path, tmp_path: Path) -> None:
    run = shutil.copytree(classifier, tmp_path / "run")
    line = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    (run / "predictions.jsonl").write_text(json.dumps(line | {"text": "good " * 500}))
    found = find_adapter(run)
    (row,), _ = merge_module._rows(found)
    assert row["input_ids"].shape[1] == found.provenance["max_length"]
