"""Deep models are planned by shallow ones."""

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, T5Config

from inlay.bases.base import find_base
from inlay.cost import run_cost
from inlay.cost.depth import depth, depths, shallow, turn
from inlay.cost.run_cost import Way
from inlay.methods import METHODS
from inlay.tasks.unread import unread_task


def test_blocks_that_take_turns_stay_whole() -> None:
    kinds = ["sliding_attention", "full_attention"] * 12
    config = Gemma2Config(num_hidden_layers=24, layer_types=kinds)
    assert turn(config) == 2
    assert depths(config) == (2, 4)
    assert shallow(config, 4).layer_types == kinds[:4]
    assert (turn(LlamaConfig(num_hidden_layers=80)), depths(LlamaConfig(num_hidden_layers=80))) == (1, (2, 3))


def test_a_shallow_model_and_one_of_two_stacks_are_followed_whole() -> None:
    assert depths(LlamaConfig(num_hidden_layers=6)) is None
    assert depth(T5Config()) is None
    assert depths(T5Config()) is None


@pytest.mark.parametrize("name", ["full", "lora", "dora", "adalora", "prefix", "last-layers", "oft"])
def test_a_deep_model_takes_what_its_whole_step_takes(
    name: str, tiny_llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = unread_task(find_base(tiny_llama), 8, 16)
    task.config = shallow(task.config, 1)
    task.config.get_text_config().num_hidden_layers = 9
    for own in vars(task.config).values():
        if isinstance(own, list) and len(own) == 1:
            own *= 9
    way = Way(method=METHODS[name](), dtype=torch.float32, batch_size=4)
    told = run_cost.run_cost(task, way)
    monkeypatch.setattr(run_cost, "depths", lambda config: None)
    whole = run_cost.run_cost(task, way)
    assert told.step.memory == whole.step.memory
    assert told.step.trained == whole.step.trained
    assert told.step.saved_bytes == whole.step.saved_bytes
    assert told.step.work.products == pytest.approx(whole.step.work.products, rel=1e-9)
    assert told.tensor_bytes == whole.tensor_bytes
