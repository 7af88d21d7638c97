"""The loss and the KL of a language model against the same written out, one passage at a time."""

import pytest
import torch
import transformers
from torch.nn import functional as F

import inlay
from inlay.bases.base import find_base
from inlay.forgetting import language
from inlay.forgetting.language import LanguageBaseline
from inlay.forgetting.passages import GeneralText, Passage, general_text

from ..shapes import SHAPES, disturb, method

ALL = 10**9  # tokens


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return find_base("builtin:tiny-lm").tokenizer()


def tiny(vocabulary: int, **changes: object) -> object:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPES["llama"].config.to_dict() | {"vocab_size": vocabulary} | changes)
    return transformers.LlamaForCausalLM(config).double().eval()


def some(count: int, max_length: int = 512) -> GeneralText:
    passages = general_text(None, max_length).measured
    varied = [Passage(" ".join(p.text.split()[: 8 + 3 * i]), p.domain) for i, p in enumerate(passages[:count])]
    return GeneralText(source="these", measured=tuple(varied), kept=(), max_length=max_length)


def test_loss_and_divergence_are_those_of_every_token_alone(tokenizer: object) -> None:
    model, text = tiny(4096), some(12, max_length=24)
    model.lm_head.weight.data.mul_(20)  # the divergence of two flat distributions is nearly the same both ways
    baseline = LanguageBaseline(model, tokenizer, text, ALL)
    adapter = inlay.attach(model, method("lora", SHAPES["llama"]))
    disturb(adapter, 0.3)
    found = baseline.compare(model)

    losses, divergences = {"base": [], "tuned": []}, []
    for passage in text.measured:
        ids = torch.tensor([tokenizer(passage.text)["input_ids"][:24]])
        with torch.no_grad():
            tuned = model(ids).logits[0].log_softmax(-1)
            with inlay.using(model):
                base = model(ids).logits[0].log_softmax(-1)
        for name, of in (("base", base), ("tuned", tuned)):
            losses[name] += [-float(of[t, ids[0, t + 1]]) for t in range(ids.shape[1] - 1)]
        divergences += [float((base[t].exp() * (base[t] - tuned[t])).sum()) for t in range(ids.shape[1] - 1)]
    mean = {name: sum(values) / len(values) for name, values in losses.items()}
    assert found["base_loss"] == pytest.approx(mean["base"], rel=1e-9)
    assert found["tuned_loss"] == pytest.approx(mean["tuned"], rel=1e-9)
    assert found["value"] == pytest.approx(mean["tuned"] - mean["base"], abs=1e-9)
    assert found["kl"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)  # the base's are in float32
    assert found["tokens"] == found["kl_positions"] == len(divergences)
    assert found["passages"] == 12
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert found["kl_interval"][0] < found["kl"] < found["kl_interval"][1]
    assert abs(found["value"]) > 1e-3 < found["kl"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_at_its_start_has_forgotten_nothing_to_the_last_bit(dtype: torch.dtype, tokenizer: object) -> None:
    model = tiny(4096).to(dtype)
    baseline = LanguageBaseline(model, tokenizer, some(8), ALL)
    inlay.attach(model, method("lora", SHAPES["llama"]))
    found = baseline.compare(model)
    assert found["value"] == found["kl"] == 0
    assert found["interval"] == found["kl_interval"] == [0, 0]


@pytest.mark.parametrize("name", ["prompt", "prefix", "full"])
def test_soft_prompts_and_full_fine_tuning_are_measured_alike(name: str, tokenizer: object) -> None:
    model = tiny(4096).float()
    baseline = LanguageBaseline(model, tokenizer, some(8), ALL)
    disturb(inlay.attach(model, method(name, SHAPES["llama"])), 0.1)
    found = baseline.compare(model)
    assert found["tuned_loss"] == pytest.approx(found["base_loss"] + found["value"])
    assert 0 < found["kl"] < 20


def test_with_a_large_vocabulary_a_few_positions_of_each_passage_stand_for_all(
    tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for kept in (2**23, 1):
        monkeypatch.setattr(language, "_KEPT", kept)
        model = tiny(4096).float()
        baseline = LanguageBaseline(model, tokenizer, some(40), ALL)
        disturb(inlay.attach(model, method("lora", SHAPES["llama"])), 0.3)
        results.append(baseline.compare(model))
    everything, sample = results
    assert sample["kl_positions"] == 80
    assert sample["value"] == everything["value"]
    low, high = sample["kl_interval"]
    assert low < everything["kl"] < high
    assert all(kept.shape == (2, 4096) for kept in baseline.kept.values())
    assert baseline._spread(torch.zeros(40, 4096)).tolist() == [10, 30]


def test_memory_holds_the_logits_of_one_passage_at_once(tokenizer: object) -> None:
    model, rows, logits = tiny(4096).float(), [], []
    model.model.register_forward_pre_hook(lambda _, __, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, __, z: logits.append(z.shape[:2].numel()))
    LanguageBaseline(model, tokenizer, some(8, max_length=32), ALL)
    assert rows == [8]
    assert max(logits) <= 32


def test_as_many_passages_are_measured_as_the_tokens_allow(tokenizer: object) -> None:
    model, text = tiny(4096, num_hidden_layers=1).float(), general_text(None, 64)
    few, more = (LanguageBaseline(model, tokenizer, text, tokens) for tokens in (0, 50 * 64))
    assert len(few.rows) == 12
    assert len(more.rows) in (50, 51, 52)
    assert sum(len(row["input_ids"]) for row in more.rows) <= 50 * 64


def test_loss_of_a_model_is_that_of_transformers(tokenizer: object) -> None:
    model, text = tiny(4096), some(9)
    baseline = LanguageBaseline(model, tokenizer, text, ALL)
    total, count = 0.0, 0
    for passage in text.measured:
        ids = tokenizer(passage.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    assert baseline.compare(model)["base_loss"] == pytest.approx(total / count, rel=1e-9)
