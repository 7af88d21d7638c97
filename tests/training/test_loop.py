import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import inlay
from inlay.batches.batch import LengthGroups
from inlay.batches.evaluated import by_length
from inlay.cost.run_cost import Way
from inlay.data.formats import open_data
from inlay.data.settings import DataSettings
from inlay.tasks.metric import better_than, scores_of
from inlay.tasks.outcomes import LabelProbabilities
from inlay.training import loop
from inlay.training.schedule import Plan, learning_rate_share, make_plan
from inlay.training.settings import RunSettings

from ..shapes import SHAPES
from ..tiny_models import save_tiny_model, write_rows


def settings(**changes: Any) -> RunSettings[Any]:
    asked: dict[str, Any] = {"model": "m", "data": DataSettings(path="d"), "method": inlay.LoRA()}
    return RunSettings(**asked | changes)


def plan_of(rows: int, **changes: Any) -> Plan:
    model: Any = SimpleNamespace(writes=False, base=SimpleNamespace(width=384), labels=("yes", "no", "both", "none"))
    return make_plan(rows, settings(**changes), model)


def test_a_plan_evaluates_four_times_an_epoch_and_at_the_end() -> None:
    plan = plan_of(1600)
    assert (plan.epochs, plan.steps, plan.steps_per_epoch) == (3, 300, 100)
    assert sorted(plan.evaluate_after) == list(range(25, 301, 25))


def test_small_data_gets_more_epochs_up_to_ten() -> None:
    assert plan_of(320).epochs == 5
    assert plan_of(32).epochs == 10
    assert plan_of(32, epochs=2).steps == 4
    assert plan_of(1600, method=inlay.PrefixTuning()).epochs == inlay.PrefixTuning.epochs > 3
    assert plan_of(100, epochs=0.5).steps == 4
    assert max(plan_of(100, epochs=0.5).evaluate_after) == 4


def test_the_learning_rate_rises_and_falls_along_a_cosine_to_a_tenth() -> None:
    plan = Plan(1, 100, 100, 1e-3, 5, frozenset({100}))
    shares = [learning_rate_share(step, plan) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[5] == pytest.approx(1.0)
    assert shares[5 + 95 // 2] == pytest.approx(0.55, abs=0.02)
    assert shares[-1] == pytest.approx(0.1, abs=0.01)
    assert learning_rate_share(0, Plan(1, 1, 1, 1e-3, 1, frozenset({1}))) == 1.0


def test_a_rate_follows_the_number_of_labels() -> None:
    plan = plan_of(4000, epochs=1)
    assert plan.learning_rate == 1.4e-3
    assert str(plan.rate_reason).endswith("1.4 for 4 labels")


def test_a_rate_rises_longer_in_a_short_run_of_a_method_that_needs_it() -> None:
    bitfit = inlay.BitFit()
    assert plan_of(600, epochs=2, method=bitfit).warmup_steps == 15  # a fifth of 76
    assert plan_of(3200, epochs=1, method=bitfit).warmup_steps == 20
    assert plan_of(16_000, epochs=1, method=bitfit).warmup_steps == 50  # a twentieth, as of every method
    assert plan_of(600, epochs=2).warmup_steps == 4
    assert plan_of(600, epochs=2, method=bitfit, warmup=0.1).warmup_steps == 8


def test_an_epoch_has_every_row_once_in_batches_of_like_length() -> None:
    lengths = [(7 * i) % 50 for i in range(1003)]
    order = LengthGroups(lengths, 16, seed=3)
    first = list(order)
    assert sorted(i for batch in first for i in batch) == list(range(1003))
    assert len(first) == len(order) == math.ceil(1003 / 16)
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in first]
    assert sorted(spread)[len(spread) // 2] <= 3
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    assert list(LengthGroups(lengths, 16, seed=4)) != first


def test_scores_equal_a_calculation_by_hand() -> None:
    log_probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]).log()
    found = scores_of(LabelProbabilities(log_probabilities, torch.tensor([0, 1, 1, 0])))
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-sum(map(math.log, (0.7, 0.8, 0.3, 0.2))) / 4)
    assert found["macro_f1"] == pytest.approx((0.5 + 0.5) / 2)  # the third label neither occurs nor is predicted
    missed_NL = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]).log()
    missed = scores_of(LabelProbabilities(missed_NL, torch.tensor([1, 1])))
    assert missed["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_better_means_more_rows_right_then_a_lower_loss() -> None:
    a, b, c = ({"loss": loss, "accuracy": share} for loss, share in ((0.5, 0.9), (0.4, 0.9), (0.1, 0.8)))
    assert better_than(a, None, "accuracy")
    assert better_than(b, a, "accuracy")
    assert not better_than(a, b, "accuracy")
    assert not better_than(a, a, "accuracy")
    assert better_than(a, c, "accuracy")
    assert better_than(c, a, "loss")


def test_evaluation_returns_rows_in_their_own_order(tiny_bert: str, tmp_path: Path) -> None:
    import transformers

    from inlay.tasks.classify import log_probabilities

    from ..tiny_models import reviews

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    texts = [" ".join(row["text"].split()[: 2 + i % 5]) for i, row in enumerate(reviews(40))]
    rows = [dict(tokenizer(text)) for text in texts]
    together = log_probabilities(model, tokenizer, rows)
    alone = torch.cat([log_probabilities(model, tokenizer, [row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    positions = [p for batch in by_length([len(row["input_ids"]) for row in rows], 8) for p in batch]
    assert sorted(positions) == list(range(40))
    assert len(rows[positions[0]]["input_ids"]) == max(len(row["input_ids"]) for row in rows)


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 1), (torch.bfloat16, 8)], ids=["float32", "bfloat16"])
def test_batches_are_padded_no_further_than_their_dtype_needs(
    dtype: torch.dtype, step: int, tiny_bert: str, tmp_path: Path
) -> None:
    from inlay.bases.base import find_base
    from inlay.batches.batch import length_step
    from inlay.tasks.causal import Causal
    from inlay.tasks.classify import Classify

    write_rows(tmp_path / "labels.jsonl", [{"text": "good " * (1 + i % 12), "label": i % 2} for i in range(60)])
    write_rows(tmp_path / "texts.jsonl", [{"prompt": "5 " * (1 + i % 12), "completion": "6"} for i in range(60)])
    tiny_llama = save_tiny_model(SHAPES["llama"], tmp_path / "llama")
    for kind, model, name in ((Classify, tiny_bert, "labels"), (Causal, tiny_llama, "texts")):
        asked = settings(model=model, data=DataSettings(path=str(tmp_path / f"{name}.jsonl")))
        task: Any = kind.prepare(find_base(model), open_data(asked.data), asked)
        task.tokenize(64)
        task.length_step = length_step(torch.device("cpu"), dtype)
        batches = task.batches(4, 0)
        lengths = task.lengths("train")
        for rows, batch in zip(list(batches.batch_sampler), batches, strict=True):
            longest = max(lengths[i] for i in rows)
            assert batch["input_ids"].shape == (len(rows), -(-longest // step) * step)
            assert batch["input_ids"].numel() == task.size(rows)
            assert batch["input_ids"].shape == task.batch_of(rows)["input_ids"].shape


def test_an_estimate_leaves_no_trace(tiny_bert: str, reviews_folder: str) -> None:
    from inlay.bases.base import find_base
    from inlay.tasks.classify import Classify
    from inlay.training.estimate import estimate

    asked = settings(epochs=2, model=tiny_bert, data=DataSettings(path=reviews_folder))
    task = Classify.prepare(find_base(tiny_bert), open_data(asked.data), asked)
    task.tokenize(max_length=16)
    model, heads = task.load(torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(dropout=0.5), heads=heads)
    before = {name: p.clone() for name, p in adapter.named_parameters()}
    state = torch.get_rng_state()
    plan = make_plan(120, asked, task)
    found = estimate(adapter, plan, asked, task, task, 100.0, way_of(asked))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in adapter.named_parameters())
    assert found.seconds > 100 * len(plan.evaluate_after)
    assert found.memory_bytes > 10**7


def test_an_estimate_changes_nothing_where_gradients_are_not_finite(tiny_bert: str, reviews_folder: str) -> None:
    from inlay.bases.base import find_base
    from inlay.tasks.classify import Classify
    from inlay.training.estimate import estimate

    asked = settings(epochs=1, model=tiny_bert, data=DataSettings(path=reviews_folder))
    task = Classify.prepare(find_base(tiny_bert), open_data(asked.data), asked)
    task.tokenize(max_length=16)
    model, heads = task.load(torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(), heads=heads)
    before = {name: p.clone() for name, p in adapter.named_parameters()}
    for p in adapter.parameters():
        p.register_hook(lambda gradient: gradient * torch.inf)
    estimate(adapter, make_plan(120, asked, task), asked, task, task, 0.0, way_of(asked))
    assert all(torch.equal(p, before[name]) for name, p in adapter.named_parameters())


def test_the_last_bit_of_one_number_tells_that_a_parameter_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_PART", 5)  # several parts of a parameter
    adapter = inlay.attach(SHAPES["bert"].model(), inlay.LoRA())
    found = loop.marks(adapter.parameters())
    assert found == loop.marks(adapter.parameters())
    for number, p in enumerate(adapter.parameters()):
        flat = p.detach().view(-1)
        was, flat[-1] = flat[-1].clone(), torch.nextafter(flat[-1], torch.tensor(9.0))
        assert [i for i, (a, b) in enumerate(zip(found, loop.marks(adapter.parameters()), strict=True)) if a != b] == [
            number
        ]
        flat[-1] = was


def way_of(asked: RunSettings[Any]) -> Way:
    return Way(
        method=asked.method,
        dtype=torch.float32,
        batch_size=asked.batch_size,
        micro_batch_size=asked.micro_batch_size,
    )


@pytest.mark.parametrize(("micro", "passes"), [(None, 2), (2, 3)], ids=["whole", "in parts"])
def test_an_estimate_is_a_small_part_of_its_run(
    micro: int | None, passes: int, tiny_bert: str, reviews_folder: str
) -> None:
    from inlay.bases.base import find_base
    from inlay.tasks.classify import Classify
    from inlay.training.estimate import estimate

    asked = settings(epochs=1, model=tiny_bert, data=DataSettings(path=reviews_folder), micro_batch_size=micro)
    task, seen = Classify.prepare(find_base(tiny_bert), open_data(asked.data), asked), []
    task.tokenize(max_length=16)
    model, heads = task.load(torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(), heads=heads)
    model.register_forward_hook(lambda *_: seen.append(None))
    found = estimate(adapter, make_plan(120, asked, task), asked, task, task, 0.0, way_of(asked))
    assert len(seen) == passes
    assert found.seconds > 0


def test_the_time_of_a_step_is_that_of_the_average_batch_though_none_is_near_it(
    tiny_bert: str, reviews_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inlay.bases.base import find_base
    from inlay.tasks.classify import Classify
    from inlay.training import estimate

    asked = settings(epochs=1, model=tiny_bert, data=DataSettings(path=reviews_folder))
    task: Any = Classify.prepare(find_base(tiny_bert), open_data(asked.data), asked)
    task.tokenize(max_length=16)
    model, heads = task.load(torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(), heads=heads)
    task.size = lambda rows: 1000 if 0 in rows else 10  # the first row is very long
    monkeypatch.setattr(estimate, "_pass", lambda *_: 1.0)
    batches = len(list(task.order(asked.batch_size, asked.seed)))
    plan = make_plan(120, asked, task)
    found = estimate.estimate(adapter, plan, asked, task, task, 0.0, way_of(asked))
    assert found.seconds == pytest.approx(plan.steps * (1000 + 10 * (batches - 1)) / batches / 10)


class Counted(list[Any]):
    """Rows that know how often they were gone through."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return super().__iter__()


def test_sizes_of_batches_do_not_go_through_all_rows_for_each(tiny_bert: str, tmp_path: Path) -> None:
    """Which takes minutes where there are many."""
    from inlay.bases.base import find_base
    from inlay.tasks.causal import Causal
    from inlay.tasks.classify import Classify

    write_rows(tmp_path / "labels.jsonl", [{"text": f"text {i}", "label": i % 2} for i in range(60)])
    write_rows(tmp_path / "texts.jsonl", [{"prompt": f"{i}", "completion": "done"} for i in range(60)])
    tiny_llama = save_tiny_model(SHAPES["llama"], tmp_path / "llama")
    for kind, model, name in ((Classify, tiny_bert, "labels"), (Causal, tiny_llama, "texts")):
        asked = settings(model=model, data=DataSettings(path=str(tmp_path / f"{name}.jsonl")))
        task: Any = kind.prepare(find_base(model), open_data(asked.data), asked)
        task.tokenize(max_length=16)
        rows = Counted(task.tokens["train"].rows)
        task.tokens["train"] = replace(task.tokens["train"], rows=rows)
        assert sum(task.size(batch) for batch in task.batches(4, 0).batch_sampler) > 0
        assert rows.passes < 5
