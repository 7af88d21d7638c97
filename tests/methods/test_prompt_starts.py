"""Prompt tuning that starts from a text or from the labels' names, which takes the model's tokenizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import inlay
from inlay.bases.base import empty_classifier, find_base, load_classifier
from inlay.errors import SettingsError
from inlay.methods.prompts.prefix_start import prefix_start
from inlay.models.sites import Sites

from ..shapes import SHAPES
from ..tiny_models import SPECIAL, WORDS, save_tiny_model

IDS = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(SHAPES["bert"], tmp_path_factory.mktemp("bert"))


def classifier(folder: str, *labels: str) -> Any:
    base = find_base(folder)
    return load_classifier(base, base.classifier_config(labels, 0), torch.float32)[0]


def prompt_and_table(model: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    adapter = inlay.attach(model, inlay.PromptTuning(**settings))
    return next(iter(adapter.deltas.values())).prompt_embeddings.detach(), model.get_input_embeddings().weight.detach()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(7, "the plot was the plot was the"), (3, "the plot was"), (2, "the plot")],
)
def test_a_text_is_repeated_or_cut_to_the_number_of_tokens(folder: str, tokens: int, expected: str) -> None:
    model = classifier(folder, "good", "bad")
    prompt_PD, table_VD = prompt_and_table(model, tokens=tokens, initialization="text", text="the plot was")
    assert torch.equal(prompt_PD, table_VD[[IDS[word] for word in expected.split()]])
    assert prompt_PD.data_ptr() != table_VD.data_ptr()


@pytest.mark.parametrize("method", [inlay.PromptTuning(tokens=4), inlay.MultitaskPrompt(tokens=4)])
def test_with_a_new_head_a_prompt_starts_from_padding(folder: str, method: Any) -> None:
    model = classifier(folder, "good", "bad")
    padding_D = model.get_input_embeddings().weight[model.config.pad_token_id]
    prompt_PD = next(iter(inlay.attach(model, method).deltas.values())).prompt_embeddings
    torch.testing.assert_close(prompt_PD, padding_D.expand(4, -1))


def test_a_model_that_writes_and_one_without_padding_start_from_words(folder: str) -> None:
    writes, labels = SHAPES["llama"].model(), classifier(folder, "good", "bad")
    writes.config.pad_token_id, labels.config.pad_token_id = 0, None
    for model in (writes, labels):
        prompt_PD, _ = prompt_and_table(model, tokens=4)
        assert len(prompt_PD.unique(dim=0)) == 4
    with pytest.raises(SettingsError, match="names no such token"):
        inlay.attach(labels, inlay.PromptTuning(initialization="padding"), "b")


def test_with_a_new_head_a_prefix_starts_from_what_the_base_computes_of_padding(folder: str) -> None:
    model = classifier(folder, "good", "bad").eval()
    sites, hosts = Sites(model), [m for name, m in model.named_modules() if name.endswith("attention.self")]
    found = [prefix_start(sites, hosts, 3) for _ in range(2)]
    with torch.no_grad():
        padding_B1D = model.get_input_embeddings()(torch.full((1, 3), model.config.pad_token_id))
        key_BPD = hosts[0].key(model.bert.embeddings(inputs_embeds=padding_B1D))
    heads, _, channels = found[0][hosts[0]][0].shape
    torch.testing.assert_close(found[0][hosts[0]][0], key_BPD.view(3, heads, channels).transpose(0, 1))
    assert all(torch.equal(found[0][host][0], found[1][host][0]) for host in hosts)  # nothing is drawn


def test_labels_are_the_means_of_their_tokens_and_the_rest_is_from_the_vocabulary(folder: str) -> None:
    model = classifier(folder, "good", "very bad", "so so")
    prompt_PD, table_VD = prompt_and_table(model, tokens=8, initialization="labels")
    for row, words in enumerate(("good", "very bad", "so so")):
        expected_D = table_VD[[IDS[word] for word in words.split()]].mean(dim=0)
        torch.testing.assert_close(prompt_PD[row], expected_D)
    rest = [next(i for i, row in enumerate(table_VD) if torch.equal(row, p)) for p in prompt_PD[3:]]
    assert len(set(rest)) == 5


def test_a_run_s_model_without_values_says_what_is_wrong_already(folder: str, tmp_path: Path) -> None:
    base = find_base(folder)
    empty = empty_classifier(base.classifier_config(("good", "bad"), 0))
    adapter = inlay.attach(empty, inlay.PromptTuning(tokens=4, initialization="labels"))
    assert next(iter(adapter.parameters())).shape == (4, 32)
    adapter.detach()
    with pytest.raises(SettingsError, match=r"method\.text is '   ', which has no tokens"):
        inlay.attach(empty, inlay.PromptTuning(tokens=4, initialization="text", text="   "))
    with pytest.raises(SettingsError, match=r"method\.tokens is 1, fewer than the 2 labels to start from"):
        inlay.attach(empty, inlay.PromptTuning(tokens=1, initialization="labels"))

    empty.config.name_or_path = ""
    with pytest.raises(SettingsError, match=r"needs the model's tokenizer; set model\.config\.name_or_path"):
        inlay.attach(empty, inlay.PromptTuning(initialization="labels"))
    good = inlay.PromptTuning(initialization="text", text="good")
    empty.config.name_or_path = str(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"tokenizer: model '.*nowhere': a tokenizer that cannot be read \("):
        inlay.attach(empty, good)
    (tmp_path / "damaged").mkdir()
    transformers.BertConfig().save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "WordLev')
    empty.config.name_or_path = str(tmp_path / "damaged")
    with pytest.raises(SettingsError, match=r"damaged': a tokenizer that cannot be read \(.*put the tokenizer's files"):
        inlay.attach(empty, good)
    transformers.BertConfig().save_pretrained(tmp_path)
    empty.config.name_or_path = str(tmp_path)  # transformers makes a tokenizer that knows no word
    with pytest.raises(SettingsError, match=r"method\.text is 'good', which has no tokens in the vocabulary"):
        inlay.attach(empty, good)
    assert not inlay.adapters(empty)


def test_labels_without_names_or_tokens_are_refused(folder: str) -> None:
    unnamed = SHAPES["bert"].model()
    unnamed.config.name_or_path = folder
    with pytest.raises(SettingsError, match=r"the model's labels have no names \(config\.id2label\)"):
        inlay.attach(unnamed, inlay.PromptTuning(initialization="labels"))
    with pytest.raises(SettingsError, match="label ' ' has no tokens"):
        inlay.attach(classifier(folder, "good", " "), inlay.PromptTuning(initialization="labels"))


def test_a_start_that_the_settings_do_not_describe_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"method\.initialization is text; say in method\.text which"):
        inlay.PromptTuning(initialization="text")
    with pytest.raises(SettingsError, match=r"method\.text is 'good'; to start from it, set method\.initialization"):
        inlay.PromptTuning(text="good")


def test_loading_needs_no_tokenizer(folder: str, tmp_path: Path) -> None:
    model = classifier(folder, "good", "bad")
    inlay.attach(model, inlay.PromptTuning(tokens=3, initialization="text", text="good film")).save(tmp_path)
    again = classifier(folder, "good", "bad")
    again.config.name_or_path = ""
    prompt_PD = next(iter(inlay.load(again, tmp_path).deltas.values())).prompt_embeddings
    assert torch.equal(prompt_PD, next(iter(inlay.adapters(model)["default"].deltas.values())).prompt_embeddings)


@pytest.mark.parametrize("initialization", ["auto", "padding", "vocabulary"])
def test_from_each_start_a_prompt_learns(initialization: Any) -> None:
    torch.manual_seed(0)
    model = SHAPES["llama"].model()
    model.config.pad_token_id = 0
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=8, initialization=initialization))
    ids_BT = torch.arange(5, 25).view(2, 10)
    optimizer, losses = torch.optim.AdamW(adapter.parameters(), lr=0.1), []
    for _ in range(40):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    (prompt_PD,) = adapter.parameters()
    assert losses[-1] < losses[0] - 0.05
    assert len(prompt_PD.unique(dim=0)) == 8  # vectors that began alike have parted
