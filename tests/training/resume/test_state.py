"""Settings, scores, random state and order come back as they were."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import inlay
from inlay.batches.batch import LengthGroups
from inlay.batches.packing import Shuffled
from inlay.data.settings import DataSettings
from inlay.formats.files import as_json
from inlay.methods import METHODS
from inlay.tasks.metric import scores_from_json
from inlay.training.random_state import random_numbers, random_tensors, set_random_state
from inlay.training.settings import from_dict, to_dict

from .runs import short


@pytest.mark.parametrize("name", METHODS)
def test_settings_come_back_from_json(name: str) -> None:
    asked = short("m", "d", Path("out"), name, micro_batch_size=4, quantize="nf4", checkpoint_minutes=2.5)
    asked = replace(asked, data=DataSettings(path="d", format="labelled-text", text="t", label="l"))
    assert from_dict(json.loads(json.dumps(to_dict(asked)))) == asked


def test_settings_with_lists_and_patterns_come_back_from_json() -> None:
    lora = inlay.LoRA(targets=("query", "value"), rank_pattern={"query": 3}, alpha_pattern={"value": 2.0})
    for built in (lora, inlay.MultitaskPrompt(sources=("a", "b"))):
        asked = short("m", "d", Path("out"), method=built)
        assert from_dict(json.loads(json.dumps(to_dict(asked)))) == asked


@pytest.mark.parametrize("perplexity", [2.0, float("inf")])
def test_scores_come_back_from_json(perplexity: float) -> None:
    scores = {"loss": 0.7, "perplexity": perplexity, "chrf": 1 / 3}
    assert scores_from_json(json.loads(as_json(scores)), "loss") == scores


def test_random_states_come_back_from_json() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.standard_normal()  # each draws two, and keeps the second
    tensors, numbers = random_tensors(torch.device("cpu")), json.loads(json.dumps(random_numbers()))

    def draw() -> list[float]:
        drawn = [random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.random()]
        return [*map(float, drawn), *torch.randn(3).tolist()]

    first = draw()
    assert draw() != first
    set_random_state(tensors, numbers, torch.device("cpu"))
    assert draw() == first


@pytest.mark.parametrize("order", [LengthGroups([3, 1, 2] * 40, 16, 5), Shuffled(120, 16, 5)])
def test_an_order_goes_on_in_the_middle_of_an_epoch(order: Any) -> None:
    order.set_epoch(2)
    whole = list(order)
    order.skip = 3
    assert list(order) == whole[3:]
    assert len(order) == len(whole)
