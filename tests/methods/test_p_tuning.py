"""P-tuning: the network against torch's own modules, its counts, and training that goes on from a file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import inlay
from inlay.errors import SettingsError
from inlay.formats import peft as format_
from inlay.methods.prompts.encoded_prompt import EncodedPrompt

from ..edited import unseal
from ..shapes import SHAPES, Shape, disturb, logits
from .kept_source import check_training_goes_on

P, H = 5, 6
encoders = pytest.mark.parametrize("encoder", ["mlp", "lstm"])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def attached(model: Any, encoder: str, **settings: Any) -> tuple[Any, Any, EncodedPrompt]:
    """The model with a disturbed network in its own dtype, the adapter, and its prompt."""
    adapter = inlay.attach(model, inlay.PTuning(tokens=P, encoder=encoder, hidden_size=H, **settings))
    disturb(adapter)
    for p in adapter.parameters():
        p.data = p.data.to(model.dtype)
    (prompt,) = (d for d in adapter.deltas.values() if isinstance(d, EncodedPrompt))
    return model, adapter, prompt


def reference(prompt: EncodedPrompt, layers: int = 2) -> tuple[Tensor, list[Tensor]]:
    """The (P, D) prompt and the parameters that torch's own modules compute it from, in the adapter's order."""
    own = {name: p.detach().clone().requires_grad_() for name, p in prompt.named_parameters()}
    x_PD = own["encoder_input"]
    if prompt.encoder_lstm is not None:
        lstm = nn.LSTM(32, H, layers, bidirectional=True, dtype=x_PD.dtype)
        part = {n.removeprefix("encoder_lstm."): p for n, p in own.items() if n.startswith("encoder_lstm.")}
        assert part.keys() == dict(lstm.named_parameters()).keys()
        x_PD, _ = torch.func.functional_call(lstm, part, (x_PD,))
    indices = sorted({int(n.split(".")[1]) for n in own if n.startswith("encoder_layers.")})
    for i in indices:
        x_PD = F.linear(x_PD, own[f"encoder_layers.{i}.weight"], own[f"encoder_layers.{i}.bias"])
        x_PD = x_PD if i == indices[-1] else x_PD.clamp(min=0)
    return x_PD, list(own.values())


@encoders
def test_the_prompt_is_that_of_torch_s_modules_and_so_are_the_gradients(shape: Shape, encoder: str) -> None:
    model, adapter, prompt = attached(shape.model().double(), encoder)
    expected_PD, parameters = reference(prompt)
    close(prompt.prompt(), expected_PD)
    y = logits(model, shape)
    ours = torch.autograd.grad(y.square().sum(), list(prompt.parameters()))

    plain = shape.model().double()
    other = inlay.attach(plain, inlay.PromptTuning(tokens=P))
    heads = {name: p for name, p in adapter.named_parameters() if "encoder_" not in name}
    for name, p in other.named_parameters():
        p.data = (heads[name] if name in heads else expected_PD).detach()
    learned = next(iter(other.deltas.values())).prompt_embeddings
    z = logits(plain, shape)
    close(y, z)
    (gradient_PD,) = torch.autograd.grad(z.square().sum(), learned)
    for a, b in zip(ours, torch.autograd.grad(expected_PD, parameters, gradient_PD), strict=True):
        close(a, b)
        assert a.abs().sum() > 0


def test_the_counts_are_those_of_the_formulas() -> None:
    d, h = 32, H
    first, second = 2 * (4 * h * (d + h) + 8 * h), 2 * (4 * h * (2 * h + h) + 8 * h)
    layers_after = (4 * h * h + 2 * h) + (2 * h * d + d)
    expected = {
        ("mlp", 2): P * d + (d * h + h) + (h * h + h) + (h * d + d),
        ("lstm", 1): P * d + first + layers_after,
        ("lstm", 2): P * d + first + second + layers_after,
    }
    for (encoder, layers), count in expected.items():
        method = inlay.PTuning(tokens=P, encoder=encoder, layers=layers, hidden_size=h)
        adapter = inlay.attach(SHAPES["llama"].model(), method)
        assert sum(p.numel() for p in adapter.parameters()) == count
        assert method.virtual_tokens == P
    as_wide = inlay.attach(SHAPES["llama"].model(), inlay.PTuning(tokens=P))
    assert sum(p.numel() for p in as_wide.parameters()) == P * d + 3 * (d * d + d)


@encoders
def test_it_starts_from_noise_and_with_a_gradient_for_all_of_itself(encoder: str) -> None:
    torch.manual_seed(0)
    shape = SHAPES["llama"]
    model = shape.model()
    adapter = inlay.attach(model, inlay.PTuning(tokens=40, encoder=encoder))
    (prompt,) = adapter.deltas.values()
    assert abs(prompt.encoder_input.std() - 1) < 0.05
    spread = prompt.prompt().std()
    assert 0.01 < spread < 0.5  # neither lost beside the words' embeddings nor far above them
    logits(model, shape).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())


def test_dropout_acts_in_training_only_and_never_on_what_is_saved(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model, adapter, prompt = attached(shape.model(), "lstm", dropout=0.5)
    still = prompt.prompt()
    assert torch.equal(prompt.prompt(), still)
    model.train()
    assert not torch.equal(prompt.prompt(), prompt.prompt())
    adapter.save(tmp_path)
    close(load_file(tmp_path / format_.TENSORS)["prompt_embeddings"], still.detach(), 1e-6)
    _, _, one = attached(shape.model().train(), "lstm", dropout=0.5, layers=1)
    assert torch.equal(one.prompt(), one.prompt())  # there is nothing between one layer


@encoders
def test_it_compiles_in_one_graph(shape: Shape, encoder: str) -> None:
    torch.compiler.reset()
    model, _, _ = attached(shape.model(), encoder)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        close(logits(compiled, shape, use_cache=False), logits(model, shape, use_cache=False), 1e-5)


@encoders
def test_training_goes_on_from_the_network_that_is_kept_beside_its_result(
    shape: Shape, encoder: str, tmp_path: Path
) -> None:
    """PEFT bug 8: it keeps the result alone (96 of the 1,440 numbers of an example), and cannot train that."""
    model, adapter, _ = attached(shape.model(), encoder)
    adapter.save(tmp_path)
    assert not [key for key in load_file(tmp_path / format_.TENSORS) if "encoder_" in key]
    check_training_goes_on(model, adapter, inlay.PromptTuning(tokens=P), shape, tmp_path)


def test_a_network_of_another_size_is_refused(tmp_path: Path) -> None:
    _, adapter, _ = attached(SHAPES["llama"].model(), "mlp")
    adapter.save(tmp_path)
    config = tmp_path / format_.CONFIG
    unseal(config.parent)
    config.write_text(config.read_text().replace('"encoder_hidden_size": 6', '"encoder_hidden_size": 7'))
    model = SHAPES["llama"].model()
    with pytest.raises(
        inlay.errors.CheckpointError, match=r"encoder_layers\.0\.bias has shape \(6,\), its place \(7,\)"
    ):
        inlay.load(model, tmp_path)
    assert not inlay.adapters(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "method.tokens is 0; it must be at least 1"),
        ({"hidden_size": 0}, "method.hidden_size is 0; it must be at least 1"),
        ({"layers": 0}, "method.layers is 0; it must be at least 1"),
        ({"dropout": 1.0}, "method.dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        inlay.PTuning(**settings)
