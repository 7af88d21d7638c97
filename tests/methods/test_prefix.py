"""Prefix tuning against caches filled by hand, and against attention written out."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache

import inlay
from inlay.errors import SettingsError, TargetError
from inlay.methods.prompts.prefix_table import PrefixAtLayer, Projection

from ..core.test_architectures import ARCHITECTURES
from ..shapes import ROWS, SHAPES, TOKENS, Shape, disturb, logits
from .test_prompt import generation, left_padded

P = 5
decoders = pytest.mark.parametrize("name", ["llama", "gpt2"])
implementations = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
HEADS = {"llama": 2, "gpt2": 4, "bert": 4, "t5": 4}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def attached(model: Any, name: str = "default", **settings: Any) -> tuple[Any, Any]:
    """The model with a disturbed prefix in its own dtype, and the adapter."""
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P, **settings), name)
    disturb(adapter, 0.5)
    for p in adapter.parameters():
        p.data = p.data.to(model.dtype)
    return model, adapter


def table(adapter: Any) -> Tensor:
    return next(iter(adapter.deltas.values())).prompt_embeddings


def by_layer(table_PN: Tensor, heads: int, rows: int = ROWS) -> list[tuple[Tensor, Tensor]]:
    """(keys, values), each (B, H, P, C), of every layer: the layout that Hugging Face PEFT's files have."""
    parts = table_PN.view(len(table_PN), -1, heads, 8).permute(1, 2, 0, 3).unsqueeze(1).expand(-1, rows, -1, -1, -1)
    return list(zip(parts[0::2], parts[1::2], strict=True))


def wide(mask_BT: Tensor) -> Tensor:
    return torch.cat([mask_BT.new_ones(len(mask_BT), P), mask_BT], dim=1)


@decoders
@implementations
@pytest.mark.parametrize("padded", [False, True])
def test_it_equals_a_call_with_a_cache_of_the_prefix(name: str, implementation: str, padded: bool) -> None:
    shape = SHAPES[name]
    model, adapter = attached(shape.model().double())
    model.set_attn_implementation(implementation)
    given = left_padded(shape) if padded else shape.inputs()
    own_BT = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    y = model(**given, position_ids=own_BT).logits
    with inlay.using(model):
        expected = model(
            input_ids=given["input_ids"],
            attention_mask=wide(given["attention_mask"]),
            position_ids=own_BT + P,
            past_key_values=DynamicCache(by_layer(table(adapter), HEADS[name])),
        ).logits
    real = given["attention_mask"].bool()
    close(y[real], expected[real])
    target = torch.randn_like(y[real])
    own, theirs = (torch.autograd.grad((z[real] * target).sum(), table(adapter))[0] for z in (y, expected))
    close(own, theirs)
    assert (own.abs().sum(0) > 0).all()
    if not padded:
        close(model(given["input_ids"]).logits, y)  # without a mask or positions


@implementations
def test_in_t5_it_equals_a_decoder_with_a_cache_of_the_prefix(implementation: str) -> None:
    shape = SHAPES["t5"]
    model, adapter = attached(shape.model().double())
    model.set_attn_implementation(implementation)
    given = shape.inputs()
    given["attention_mask"][2, -2:] = 0
    y = model(**given).logits
    cache = EncoderDecoderCache(DynamicCache(by_layer(table(adapter), 4)), DynamicCache())
    with inlay.using(model):
        expected = model(**given, past_key_values=cache).logits
    close(y, expected)
    own, theirs = (torch.autograd.grad(z.square().sum(), table(adapter))[0] for z in (y, expected))
    close(own, theirs)
    assert adapter.deltas.keys() == {"decoder", *(f"decoder.block.{i}.layer.0.SelfAttention" for i in (0, 1))}


def test_in_bert_it_is_attention_to_the_prefix_and_to_the_text_written_out() -> None:
    shape = SHAPES["bert"]
    model, adapter = attached(shape.classifier().double())
    given = shape.inputs()
    given["attention_mask"][1, -3:] = 0
    seen: list[tuple[Tensor, Tensor]] = []
    host = model.bert.encoder.layer[1].attention.self
    host.register_forward_hook(lambda _, args, out: seen.append((args[0], out[0])))
    looked_up: list[Tensor] = []
    embeddings = model.bert.embeddings
    embeddings.register_forward_hook(lambda _, args, out: looked_up.append(out))
    model(**given)
    ((x_BTD, y_BTD),) = seen

    q, k, v = (part(x_BTD).view(ROWS, TOKENS, 4, 8).transpose(1, 2) for part in (host.query, host.key, host.value))
    key_BHPC, value_BHPC = by_layer(table(adapter), 4)[1]
    scores = q @ torch.cat([key_BHPC, k], dim=2).transpose(2, 3) / math.sqrt(8)
    scores = scores.masked_fill(~wide(given["attention_mask"]).bool()[:, None, None], -torch.inf)
    close(y_BTD, (scores.softmax(-1) @ torch.cat([value_BHPC, v], dim=2)).transpose(1, 2).flatten(2))

    positions_T = torch.arange(P, P + TOKENS)[None]
    with inlay.using(model):
        close(looked_up[0], embeddings(given["input_ids"], position_ids=positions_T))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_everywhere_the_encoder_and_the_cross_attention_have_prefixes_too(name: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name][0]().eval().double()
    model, adapter = attached(model, everywhere=True)
    layers = {host: delta for host, delta in adapter.deltas.items() if isinstance(delta, PrefixAtLayer)}
    assert len(layers) == 6
    assert sum(p.numel() for p in adapter.parameters()) == P * 2 * 6 * 32
    ids_BT = SHAPES["t5"].inputs()["input_ids"]
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, -2:] = 0
    encoder, decoder = model.get_encoder(), model.get_decoder()
    read_BTD = encoder(input_ids=ids_BT, attention_mask=mask_BT)[0]

    (cross,) = (h for h in layers if h.endswith(("1.layer.1.EncDecAttention", "layers.1.encoder_attn")))
    host, seen = model.get_submodule(cross), []
    host.register_forward_hook(lambda _, args, kwargs, out: seen.append((args[0], out[0])), with_kwargs=True)
    arguments = {"encoder_hidden_states": read_BTD, "encoder_attention_mask": mask_BT}
    decoder(input_ids=ids_BT[:, :3], **arguments)
    ((x_BQD, y_BQD),) = seen
    q, k, v, o, scale = (
        (host.q, host.k, host.v, host.o, 1.0)
        if name == "t5"
        else (host.q_proj, host.k_proj, host.v_proj, host.out_proj, 8**-0.5)
    )
    q, k, v = (part(x).unflatten(-1, (4, 8)).transpose(1, 2) for part, x in ((q, x_BQD), (k, read_BTD), (v, read_BTD)))
    key_BHPC, value_BHPC = by_layer(table(adapter), 4)[list(layers).index(cross)]
    scores = scale * q @ torch.cat([key_BHPC, k], dim=2).transpose(2, 3)
    scores = scores.masked_fill(~wide(mask_BT).bool()[:, None, None], -torch.inf)
    close(y_BQD, o((scores.softmax(-1) @ torch.cat([value_BHPC, v], dim=2)).transpose(1, 2).flatten(2)))
    with inlay.using(model):
        assert not torch.allclose(encoder(input_ids=ids_BT, attention_mask=mask_BT)[0], read_BTD, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bart"])
def test_it_starts_as_a_decoder_that_has_read_random_tokens(name: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name][0]().eval().double()
    ids_BT = SHAPES["llama"].inputs()["input_ids"]
    torch.manual_seed(3)
    if model.config.is_encoder_decoder:  # an encoder's tokens are drawn first; cross-attention sees another text
        first_BP, drawn_BP = torch.randint(50, (1, P)), torch.randint(50, (1, P))
        given = {"encoder_outputs": (model.get_encoder()(inputs_embeds=model.get_input_embeddings()(first_BP))[0],)}
        base = model(**given, decoder_input_ids=torch.cat([drawn_BP, ids_BT[:1]], dim=1)).logits[:, P:]
    else:
        drawn_BP, given = torch.randint(50, (1, P)), {}
        base = model(torch.cat([drawn_BP, ids_BT[:1]], dim=1)).logits[:, P:]
    torch.manual_seed(3)
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=P))
    assert table(adapter).dtype == torch.float32
    key = "decoder_input_ids" if given else "input_ids"
    close(model(**given, **{key: ids_BT[:1]}).logits, base, 1e-4)


@decoders
def test_the_cache_holds_the_text_alone_and_the_next_call_agrees_with_it(name: str) -> None:
    shape = SHAPES[name]
    model, _ = attached(shape.model().double())
    ids_BT = shape.inputs()["input_ids"]
    first = model(input_ids=ids_BT[:, :4], use_cache=True)
    assert first.past_key_values.get_seq_length() == 4
    rest = model(input_ids=ids_BT[:, 4:], past_key_values=first.past_key_values)
    assert rest.past_key_values.get_seq_length() == TOKENS
    whole = model(input_ids=ids_BT).logits
    close(first.logits, whole[:, :4])
    close(rest.logits, whole[:, 4:])


@decoders
@implementations
def test_padding_on_either_side_changes_nothing(name: str, implementation: str) -> None:
    shape = SHAPES[name]
    model, _ = attached(shape.model().double())
    model.set_attn_implementation(implementation)
    given = left_padded(shape)
    positions_BT = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    left = model(**given, position_ids=positions_BT).logits
    right = model(**{k: t.flip(1) for k, t in given.items()}).logits
    tolerance = 1e-6 if implementation == "eager" else 1e-10  # eager attention takes its softmax in float32
    for row in range(ROWS):
        ids_BT = given["input_ids"][row : row + 1, row:]
        close(left[row : row + 1, row:], model(input_ids=ids_BT).logits, tolerance)
        close(right[row : row + 1, : TOKENS - row], model(input_ids=ids_BT.flip(1)).logits, tolerance)
    together = generation(model, given)
    alone = [generation(model, {k: t[row : row + 1, row:] for k, t in given.items()})[0] for row in range(ROWS)]
    assert together == alone
    assert together == generation(model, given, num_beams=1, use_cache=False)
    assert generation(model, given, num_beams=3) == generation(model, given, num_beams=3, use_cache=False)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_gradient_checkpointing_may_be_on_before_or_come_after(
    shape: Shape, reentrant: bool, projection: bool, first: bool
) -> None:
    """PEFT bug 10: its cache and checkpointing exclude each other, and it looks only when the adapter is made."""
    gradients = []
    for checkpointing in (False, True):
        model = shape.model().train()
        on = {"activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
        if checkpointing and first:
            model.activation_checkpointing_enable(**on)
        torch.manual_seed(0)
        model, adapter = attached(model, projection=projection, hidden_size=12)
        if checkpointing and not first:
            model.activation_checkpointing_enable(**on)
        model.enable_input_require_grads()
        logits(model, shape, use_cache=False).square().mean().backward()
        gradients.append([p.grad for p in adapter.parameters()])
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-6)


def test_the_text_that_a_compiled_model_reads_next_needs_no_compilation() -> None:
    shape = SHAPES["llama"]
    torch.compiler.reset()
    model, _ = attached(shape.model())
    graphs = []

    def count(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=count, fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            logits(compiled, shape, use_cache=False)
    assert len(graphs) == 1
    assert not [name for name, m in model.named_modules() if type(getattr(m, "config", None)).__name__ == "StandIn"]


def test_two_prefixes_at_once_are_one_long_one() -> None:
    shape = SHAPES["llama"]
    model, a = attached(shape.model().double(), "a")
    model, b = attached(model, "b")
    with inlay.using(model, "a", "b"):
        y = logits(model, shape)
    longer = inlay.attach(model, inlay.PrefixTuning(tokens=2 * P), "longer")
    table(longer).data = torch.cat([table(a), table(b)]).detach()
    close(logits(model, shape), y)


def test_attaching_leaves_every_module_in_its_mode(shape: Shape) -> None:
    model = shape.model().train()
    next(model.children()).eval()
    modes = [m.training for m in model.modules()]
    inlay.attach(model, inlay.PrefixTuning(tokens=P)).detach()
    assert [m.training for m in model.modules()] == modes


def test_the_start_does_not_see_the_adapters_that_are_there() -> None:
    shape = SHAPES["llama"]
    tables = []
    for other in (False, True):
        model = shape.model()
        if other:
            disturb(inlay.attach(model, inlay.LoRA(rank=2), "other"), 1.0)
        torch.manual_seed(3)
        tables.append(table(inlay.attach(model, inlay.PrefixTuning(tokens=P))))
    close(*tables, 0)


# Counts and the projection


def test_the_counts_are_those_of_the_formulas(shape: Shape) -> None:
    width = 8 * HEADS[shape.name]
    for projection, expected in (
        (False, P * 2 * 2 * width),
        (True, P * width + width * 12 + 12 + 12 * 2 * 2 * width + 2 * 2 * width),
    ):
        adapter = inlay.attach(shape.model(), inlay.PrefixTuning(tokens=P, projection=projection, hidden_size=12))
        heads = sum(p.numel() for n, p in adapter.named_parameters() if n.startswith("classifier"))
        assert sum(p.numel() for p in adapter.parameters()) - heads == expected
        assert adapter.method.virtual_tokens == P


def test_the_projection_computes_the_prefix_and_all_of_it_has_a_gradient(shape: Shape) -> None:
    model, adapter = attached(shape.model().double(), projection=True, hidden_size=12)
    (delta,) = (d for d in adapter.deltas.values() if isinstance(d, Projection))
    own = dict(delta.named_parameters())
    hidden_PM = torch.tanh(
        F.linear(delta.projection_input, own["projection_hidden.weight"], own["projection_hidden.bias"])
    )
    table_PN = F.linear(hidden_PM, own["projection_output.weight"], own["projection_output.bias"])
    (computed,) = delta.computed(None).values()
    close(computed, table_PN)
    y = logits(model, shape)
    ours = torch.autograd.grad(y.square().sum(), list(own.values()))

    plain, other = attached(shape.model().double())
    table(other).data = table_PN.detach()
    if adapter.heads:
        other.load_state_dict(
            {k: t for k, t in adapter.state_dict().items() if "projection" not in k}
            | {k: t for k, t in other.state_dict().items() if "prompt" in k}
        )
    z = logits(plain, shape)
    close(y, z)
    (gradient_PN,) = torch.autograd.grad(z.square().sum(), table(other))
    for a, b in zip(ours, torch.autograd.grad(table_PN, list(own.values()), gradient_PN), strict=True):
        close(a, b)
        assert a.abs().sum() > 0


# What does not fit


@pytest.mark.parametrize("architecture", ["mpnet", "deberta", "deberta-v2"])
def test_attention_that_goes_past_the_interface_is_refused(architecture: str) -> None:
    model = ARCHITECTURES[architecture][0]().eval()
    with pytest.raises(TargetError, match=r"encoder\.layer\.0 has no attention that goes through transformers'"):
        inlay.attach(model, inlay.PrefixTuning(tokens=P))
    assert not inlay.adapters(model)


def test_another_kind_of_attention_is_refused() -> None:
    shape = SHAPES["llama"]
    model, adapter = attached(shape.model())
    y = logits(model, shape)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TargetError, match="a prefix needs eager or sdpa attention, not flash_attention_2"):
        inlay.attach(model, inlay.PrefixTuning(tokens=P), "b")
    x_BTD, angles = torch.zeros(1, 2, 32), torch.zeros(1, 2, 8)
    with pytest.raises(TargetError, match="load the base with attn_implementation='sdpa'"):
        model.model.layers[0].self_attn(x_BTD, position_embeddings=(angles, angles))
    model.config._attn_implementation = "sdpa"
    assert torch.equal(logits(model, shape), y)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError, match="method.tokens is 0; it must be at least 1"):
        inlay.PrefixTuning(tokens=0)
    with pytest.raises(SettingsError, match="method.hidden_size is 0; it must be at least 1"):
        inlay.PrefixTuning(hidden_size=0)
    with pytest.raises(SettingsError, match=r"method.tokens is 64; transformer.wpe has 64 positions in all"):
        inlay.attach(SHAPES["gpt2"].model(), inlay.PrefixTuning(tokens=64))
