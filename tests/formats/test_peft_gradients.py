"""What Inlay has written, Hugging Face PEFT goes on training: of every tensor it computes the gradient that we do.

The other tests of this folder ask the same of files that PEFT has written. Here a gradient may be off by a
ten-thousandth of its length, however small it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inlay
from inlay.formats.peft_format import placed

from ..shapes import Shape, disturb
from .both_ways import PAIRS
from .matrix import builds
from .test_peft import close, inputs, skip_what_transformers_refuses, task_type, text_logits

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own warnings

P, H = 5, 12
ON_LINEAR: dict[str, Callable[..., inlay.Method]] = {  # given the layers to adapt
    "lora": lambda targets: inlay.LoRA(rank=4, alpha=8, targets=targets),
    "rslora": lambda targets: inlay.LoRA(rank=4, alpha=3, rank_stabilized=True, targets=targets),
    "dora": lambda targets: inlay.DoRA(rank=4, alpha=8, targets=targets),
    "adalora": lambda targets: inlay.AdaLoRA(initial_rank=4, target_rank=2, alpha=8, targets=targets),
    "vera": lambda targets: inlay.VeRA(rank=6, targets=targets),
    "loha": lambda targets: inlay.LoHa(rank=3, alpha=6, targets=targets),
    "lokr": lambda targets: inlay.LoKr(rank=2, alpha=3, targets=targets),
    "lokr of two products": lambda targets: inlay.LoKr(rank=2, alpha=3, decompose_both=True, targets=targets),
    "oft": lambda targets: inlay.OFT(block_size=8, targets=targets),
    "oft by a series": lambda targets: inlay.OFT(block_size=8, neumann=True, targets=targets),
}
OTHERS: dict[str, inlay.Method] = {
    "ia3": inlay.IA3(),
    "norm": inlay.NormTuning(),
    "prompt": inlay.PromptTuning(tokens=P),
    "prefix": inlay.PrefixTuning(tokens=P, projection=False),
    "multitask-prompt": inlay.MultitaskPrompt(tokens=P, tasks=3, rank=2),
}
NETWORKS: dict[str, inlay.Method] = {  # whose result alone is in the file
    "p-tuning": inlay.PTuning(tokens=P, hidden_size=H),
    "p-tuning with an lstm": inlay.PTuning(tokens=P, encoder="lstm", hidden_size=H),
    "prefix with a projection": inlay.PrefixTuning(tokens=P, projection=True, hidden_size=H),
}


def skip_what_peft_cannot(name: str, shape: Shape, build: Callable[[], Any]) -> None:
    if name.partition(" ")[0] in ("prompt", "p-tuning", "multitask-prompt"):
        skip_what_transformers_refuses("prompt", shape, build)
    if name.startswith("prefix") and shape.name == "t5":
        pytest.skip("PEFT deals the prefixes of an encoder-decoder out to the wrong layers")
    if name.startswith(("loha", "lokr", "oft")) and shape.name == "gpt2":
        pytest.skip("PEFT's works on nn.Linear only")
    if name == "p-tuning with an lstm" and shape.name == "t5":
        pytest.skip("PEFT's network has twice as many inputs, of which it uses the first half's results")


def gradients_equal(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> None:
    assert ours.keys() == theirs.keys()
    moving = 0
    for name, gradient in ours.items():
        expected = theirs[name]
        assert gradient is not None, name
        assert expected is not None, name
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-9, name
        moving += bool(gradient.norm() > 1e-5)
    assert moving > 0.9 * len(ours)


@pytest.mark.parametrize("name", [*ON_LINEAR, *OTHERS])
@builds()
def test_logits_loss_and_gradients_are_those_of_peft(name: str, shape: Shape, build: Any, tmp_path: Path) -> None:
    skip_what_peft_cannot(name, shape, build)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.attach(model, ON_LINEAR[name](PAIRS[shape.name]) if name in ON_LINEAR else OTHERS[name])
    disturb(adapter)
    adapter.save(tmp_path)
    theirs = read_to_train_on(build(), tmp_path)

    given = inputs(shape, model)
    mine = model(**given)
    its = theirs(**given, **({"task_ids": torch.zeros(4, dtype=torch.long)} if name == "multitask-prompt" else {}))
    penalty = adapter.method.penalty(adapter)
    if penalty is None:
        penalty = torch.zeros(())
    close(mine.logits, text_logits(its, mine))
    close(mine.loss + penalty, its.loss)
    assert not torch.allclose(mine.logits, before, atol=1e-3)

    (mine.loss + penalty).backward()
    its.loss.backward()
    keys = {own: key for key, (own, _) in placed(adapter).items()}
    ours = {keys[own]: p.grad for own, p in adapter.named_parameters()}
    assert len(ours) == len(list(adapter.parameters()))
    expected = {in_file(n): p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    if name == "ia3" and shape.name == "gpt2":  # queries, keys and values are one layer, of which PEFT adapts all
        expected = {key: gradient[-len(ours[key]) :] for key, gradient in expected.items()}
    gradients_equal(ours, expected)


def read_to_train_on(model: nn.Module, folder: Path) -> Any:
    is_prompt = peft.PeftConfig.from_pretrained(str(folder)).is_prompt_learning
    theirs = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=not is_prompt).eval()
    if is_prompt:  # PEFT does not go on training those that it reads, but they have gradients if one asks for them
        for name, p in theirs.named_parameters():
            p.requires_grad_(name.startswith("prompt_encoder.") or ".modules_to_save." in name)
    return theirs


def in_file(name: str) -> str:
    """The key in a checkpoint of a parameter of PEFT's."""
    name = name.replace(".modules_to_save.default", "").replace(".default", "").removeprefix("prompt_encoder.")
    return "prompt_embeddings" if name == "embedding.weight" else name


@pytest.mark.parametrize("name", NETWORKS)
@builds()
def test_the_network_of_a_prompt_has_the_gradients_of_peft_s(
    name: str, shape: Shape, build: Any, tmp_path: Path
) -> None:
    skip_what_peft_cannot(name, shape, build)
    model = build()
    before = model(**inputs(shape, model)).logits
    adapter = inlay.attach(model, NETWORKS[name])
    disturb(adapter)
    theirs = peft.get_peft_model(build(), network_config(adapter.method, task_type(shape, model))).eval()
    its = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    pairs = {own: (p, its[its_name(own)]) for own, p in adapter.named_parameters()}
    assert len(pairs) == len(its)
    with torch.no_grad():
        for p, other in pairs.values():
            other[: len(p)] = p

    mine, other = model(**inputs(shape, model)), theirs(**inputs(shape, model))
    close(mine.logits, text_logits(other, mine))
    close(mine.loss, other.loss)
    assert not torch.allclose(mine.logits, before, atol=1e-3)
    mine.loss.backward()
    other.loss.backward()
    theirs_grad = {own: q.grad if q.grad is None else q.grad[: len(p)] for own, (p, q) in pairs.items()}
    gradients_equal({own: p.grad for own, (p, _) in pairs.items()}, theirs_grad)


def network_config(method: inlay.Method, task: str | None) -> Any:
    if isinstance(method, inlay.PTuning):
        return peft.PromptEncoderConfig(
            task_type=task,
            num_virtual_tokens=P,
            encoder_reparameterization_type=method.encoder.upper(),
            encoder_hidden_size=H,
        )
    return peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=H)


def its_name(own: str) -> str:
    """The parameter of PEFT's model that does the work of this one of ours."""
    network = "prompt_encoder.default."
    projection = {
        "projection_input": "embedding.weight",
        "projection_hidden": "transform.0",
        "projection_output": "transform.2",
    }
    for part, theirs in projection.items():
        if part in own:
            return network + theirs + own.rpartition(part)[2]
    _, found, rest = own.rpartition("encoder_")
    if not found:
        head, _, parameter = own.rpartition(".")
        return f"base_model.{head}.modules_to_save.default.{parameter}"
    if rest == "input":
        return f"{network}embedding.weight"
    return network + rest.replace("lstm.", "lstm_head.").replace("layers.", "mlp_head.")
