"""Sentence representations, what they keep and the probe task, against the same written out."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import inlay
from inlay.bases.base import find_base, load_classifier
from inlay.forgetting.geometry import GeometryBaseline, nearest_is_own, states_of
from inlay.forgetting.passages import GeneralText, Passage, general_text
from inlay.show.forgetting import forgetting_text, level

from ..shapes import SHAPES, disturb, method
from ..tiny_models import WORDS, save_tiny_model

ALL = 10**9


def test_the_probe_task_is_the_nearest_centroid_without_the_passage_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    domains = [f"d{i % 4}" for i in range(33)] + ["alone"]
    states = torch.randn(34, 5, generator=generator)
    states[:, 0] += torch.tensor([1.2 * (ord(d[1]) % 4) for d in domains])
    kinds = {domain: [j for j in range(34) if domains[j] == domain] for domain in domains}
    within = sum(float((states[j] - states[of].mean(0)).square().sum()) for of in kinds.values() for j in of) / (34 - 5)
    expected = []
    for i, own in enumerate(domains):
        distances = {}
        for domain, of in kinds.items():
            others = [j for j in of if j != i]
            if others:
                off = float((states[others].mean(0) - states[i]).square().sum())
                distances[domain] = off - within / len(others)
        expected.append(min(distances, key=distances.__getitem__) == own)
    found = nearest_is_own(states, domains)
    assert found.tolist() == expected
    assert 0.3 < found.float().mean() < 0.95


@pytest.mark.parametrize(("each", "tolerance"), [(2, 0.07), (3, 0.035), (20, 0.035)])
def test_of_what_has_no_structure_the_probe_tells_one_in_as_many_as_there_are_kinds(
    each: int, tolerance: float
) -> None:
    """However few passages a kind has: nothing speaks against a passage's own kind, whose mean is of one fewer.
    (Of two, it is a single passage, whose distance varies more than that of a mean.)"""
    generator, kinds = torch.Generator().manual_seed(0), 4
    domains = [f"d{i % kinds}" for i in range(each * kinds)]
    draws = [torch.randn(each * kinds, 50, generator=generator) for _ in range(1200 // each)]
    told = torch.cat([nearest_is_own(states, domains) for states in draws]).double().mean()
    assert told == pytest.approx(1 / kinds, abs=tolerance)  # four standard errors are 0.025


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(SHAPES["bert"], tmp_path_factory.mktemp("bert"))


def sayable(count: int) -> GeneralText:
    """Passages in the words that the small tokenizer knows; those of one kind begin alike."""
    chance = random.Random(0)
    passages = []
    for i in range(count):
        kind = WORDS[i % 4]
        passages.append(Passage(" ".join([kind] * 6 + chance.choices(WORDS, k=8)), kind))
    return GeneralText(source="these", measured=tuple(passages), kept=tuple(passages), max_length=40)


def opened(folder: str) -> tuple[Any, Any]:
    base = find_base(folder)
    tokenizer = base.tokenizer()
    torch.manual_seed(0)
    model, _ = load_classifier(base, base.classifier_config(("a", "b"), 0), torch.float32)
    return model, tokenizer


def test_a_representation_is_the_mean_of_the_text_without_its_padding(folder: str) -> None:
    model, tokenizer = opened(folder)
    rows = [tokenizer("the film was good " * n) for n in (1, 4, 2)]
    found = states_of(model, tokenizer, [dict(row) for row in rows])
    for state, row in zip(found, rows, strict=True):
        alone = model.bert(torch.tensor([row["input_ids"]])).last_hidden_state[0].mean(0)
        assert torch.allclose(state, alone, atol=1e-5)


def test_nothing_is_further_than_unrelated(folder: str) -> None:
    model, tokenizer = opened(folder)
    baseline = GeometryBaseline(model, tokenizer, sayable(40), ALL)
    torch.manual_seed(0)
    baseline.states_ND = torch.randn_like(baseline.states_ND)
    found = baseline.compare(model)
    assert found["value"] == pytest.approx(1, abs=0.2)
    assert found["interval"][1] == max(1, found["value"])


@pytest.mark.parametrize("name", ["lora", "prompt", "full"])
def test_what_an_adapter_moves_is_seen_and_its_head_is_not(name: str, folder: str) -> None:
    model, tokenizer = opened(folder)
    baseline = GeometryBaseline(model, tokenizer, sayable(40), ALL)
    adapter = inlay.attach(model, method(name, SHAPES["bert"]))
    with torch.no_grad():
        model.classifier.weight.add_(1)
    if name == "lora":
        start = baseline.compare(model)
        assert start["cka"] == pytest.approx(1, abs=1e-12)
        assert start["probe_base"] == start["probe_tuned"]
        told: Any = start | {"source": "x", "seconds": 1.0}
        assert (level(told), "On general text nothing has changed" in forgetting_text(told)) == ("low", True)
    disturb(adapter, 0.3)
    found = baseline.compare(model)
    assert found["value"] == pytest.approx(1 - found["cka"])
    assert 0.001 < found["value"] <= 1.1
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert 0 <= found["interval"][0] <= found["interval"][1] <= max(1, found["value"])
    assert found["passages"] == 40
    assert found["probe_base"] > 0.5 > found["probe_interval"][0]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5"])
def test_decoders_with_a_classifier_have_a_geometry_too(shape: str, tmp_path: Path) -> None:
    folder = save_tiny_model(SHAPES[shape], tmp_path / shape)
    base = find_base(folder)
    tokenizer = base.tokenizer()
    model, _ = load_classifier(base, base.classifier_config(("a", "b"), 0), torch.float32)
    baseline = GeometryBaseline(model, tokenizer, general_text(None, 40), 0)
    assert baseline.states_ND.shape == (24, 32)
    assert baseline.compare(model)["cka"] == pytest.approx(1, abs=1e-9)


def test_without_kinds_of_text_there_is_no_probe_task(folder: str) -> None:
    model, tokenizer = opened(folder)
    baseline = GeometryBaseline(model, tokenizer, general_text(None, 40), 0)
    baseline.domains = [None] * len(baseline.rows)
    found = baseline.compare(model)
    assert found["probe_base"] is found["probe_tuned"] is found["probe_interval"] is None
