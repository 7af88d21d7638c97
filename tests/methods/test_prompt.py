"""Prompt tuning against calls with embeddings put together by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

import inlay
from inlay.errors import AdapterStateError, SettingsError, TargetError

from ..shapes import BERT, ROWS, SHAPES, TOKENS, Shape, disturb, logits

P = 5
decoders = pytest.mark.parametrize("name", ["llama", "gpt2"])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def attached(model: Any, **settings: Any) -> tuple[Any, Tensor]:
    """The model with a disturbed prompt, and the prompt's (P, D) vectors."""
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=P, **settings))
    disturb(adapter, 0.5)
    for p in adapter.parameters():
        p.data = p.data.to(model.dtype)
    return model, next(iter(adapter.deltas.values())).prompt_embeddings


def with_prompt(model: Any, prompt_PD: Tensor, ids_BT: Tensor) -> Tensor:
    text_BTD = model.get_input_embeddings()(ids_BT)
    return torch.cat([prompt_PD.expand(len(ids_BT), -1, -1), text_BTD], dim=1)


def wide(mask_BT: Tensor) -> Tensor:
    return torch.cat([mask_BT.new_ones(len(mask_BT), P), mask_BT], dim=1)


def left_padded(shape: Shape) -> dict[str, Tensor]:
    """Rows of 7, 6, 5 and 4 tokens, padded on their left."""
    ids_BT = shape.inputs()["input_ids"].clone()
    mask_BT = (torch.arange(TOKENS) >= torch.arange(ROWS)[:, None]).long()
    return {"input_ids": ids_BT * mask_BT, "attention_mask": mask_BT}


@decoders
def test_it_equals_a_call_with_the_prompt_s_embeddings_before_the_text_s(name: str) -> None:
    shape = SHAPES[name]
    model, prompt_PD = attached(shape.model().double())
    given = shape.inputs()
    y = model(**given).logits
    assert y.shape[1] == TOKENS
    with inlay.using(model):
        x_BTD = with_prompt(model, prompt_PD, given["input_ids"])
        positions_T = torch.arange(P + TOKENS)[None]
        expected = model(inputs_embeds=x_BTD, attention_mask=wide(given["attention_mask"]), position_ids=positions_T)
    close(y, expected.logits[:, P:])
    target = torch.randn_like(y)
    own, theirs = (torch.autograd.grad((out * target).sum(), prompt_PD)[0] for out in (y, expected.logits[:, P:]))
    close(own, theirs)
    close(model(given["input_ids"]).logits, y)  # without a mask, and by position


def after_padding(prompt: Tensor, text_BT: Tensor) -> Tensor:
    """Row i of `left_padded`, which begins with i tokens of padding, with the prompt between those and the text."""
    prompt_BP = prompt.expand(ROWS, *prompt.shape)
    return torch.stack([torch.cat([row[:i], prompt_BP[i], row[i:]]) for i, row in enumerate(text_BT)])


@decoders
def test_the_prompt_stands_between_padding_and_text_as_in_the_call_by_hand(name: str) -> None:
    shape = SHAPES[name]
    model, prompt_PD = attached(shape.model().double())
    given = left_padded(shape)
    mask_BT = given["attention_mask"]
    own_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    y = model(**given, position_ids=own_BT).logits
    with inlay.using(model):
        expected = model(
            inputs_embeds=after_padding(prompt_PD, model.get_input_embeddings()(given["input_ids"])),
            attention_mask=after_padding(torch.ones(P).long(), mask_BT),
            position_ids=after_padding(torch.arange(P), own_BT + P),
        ).logits
    for i in range(ROWS):
        close(y[i, i:], expected[i, P + i :])
        close(y[i, :i], expected[i, :i])


@decoders
def test_a_left_padded_row_equals_the_unpadded_one(name: str) -> None:
    """PEFT bug 13: it drops position_ids, so a row depends on its padding."""
    shape = SHAPES[name]
    model, _ = attached(shape.model().double())
    given = left_padded(shape)
    positions_BT = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    y = model(**given, position_ids=positions_BT).logits
    for row in range(ROWS):
        alone = model(input_ids=given["input_ids"][row : row + 1, row:]).logits
        close(y[row : row + 1, row:], alone)


@decoders
def test_positions_that_the_caller_gives_are_honoured(name: str) -> None:
    shape = SHAPES[name]
    model, prompt_PD = attached(shape.model().double())
    given = shape.inputs()
    plain = model(**given).logits
    own_BT = torch.tensor([[0, 1, 2, 5, 6, 9, 10]]).expand(ROWS, -1)
    y = model(**given, position_ids=own_BT).logits
    assert not torch.allclose(y, plain, atol=1e-3)
    with inlay.using(model):
        expected = model(
            inputs_embeds=with_prompt(model, prompt_PD, given["input_ids"]),
            attention_mask=wide(given["attention_mask"]),
            position_ids=torch.cat([torch.arange(P).expand(ROWS, P), own_BT + P], dim=1),
        ).logits
    close(y, expected[:, P:])


@decoders
def test_the_loss_is_over_the_text_alone(name: str) -> None:
    shape = SHAPES[name]
    model, prompt_PD = attached(shape.model().double())
    given = shape.inputs()
    labels_BT = given["input_ids"].clone()
    labels_BT[0, :4] = -100
    result = model(**given, labels=labels_BT)
    with inlay.using(model):
        x_BTD = with_prompt(model, prompt_PD, given["input_ids"])
        long_BTV = model(inputs_embeds=x_BTD, attention_mask=wide(given["attention_mask"])).logits
    predicted_NV, wanted_N = long_BTV[:, P:-1].flatten(0, 1), labels_BT[:, 1:].flatten()
    close(result.loss.double(), F.cross_entropy(predicted_NV, wanted_N, ignore_index=-100), 1e-6)


def test_in_bert_the_prompt_comes_first_and_has_the_first_token_type() -> None:
    shape = SHAPES["bert"]
    model, prompt_PD = attached(shape.model().double())
    types_BT = (torch.arange(TOKENS) > 3).long().expand(ROWS, -1)
    given = shape.inputs()
    given["attention_mask"][1, -3:] = 0
    y = model(**given, token_type_ids=types_BT).logits
    with inlay.using(model):
        expected = model.bert(
            inputs_embeds=with_prompt(model, prompt_PD, given["input_ids"]),
            attention_mask=wide(given["attention_mask"]),
            token_type_ids=torch.cat([torch.zeros(ROWS, P, dtype=torch.long), types_BT], dim=1),
        )
        head = inlay.adapters(model)["default"].deltas["classifier"]
        close(y, F.linear(expected.pooler_output, head.weight, head.bias))


def test_in_t5_the_prompt_comes_before_the_encoder_s_input_only() -> None:
    shape = SHAPES["t5"]
    model, prompt_PD = attached(shape.model().double())
    given = shape.inputs()
    given["attention_mask"][2, -2:] = 0
    y = model(**given).logits
    with inlay.using(model):
        mask_BT = wide(given["attention_mask"])
        encoded = model.encoder(inputs_embeds=with_prompt(model, prompt_PD, given["input_ids"]), attention_mask=mask_BT)
        expected = model(
            encoder_outputs=encoded, attention_mask=mask_BT, decoder_input_ids=given["decoder_input_ids"]
        ).logits
    close(y, expected)
    assert y.shape[1] == given["decoder_input_ids"].shape[1]

    labels_BT = given.pop("decoder_input_ids").contiguous()
    loss = model(**given, labels=labels_BT).loss
    with inlay.using(model):
        by_hand = model(encoder_outputs=encoded, attention_mask=mask_BT, labels=labels_BT).loss
    close(loss, by_hand)


def test_in_bart_the_prompt_joins_what_the_scaled_embedding_gives() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=50,
        max_position_embeddings=64,
        scale_embedding=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = BartForConditionalGeneration(config).eval().double()
    ids_BT = torch.randint(3, 50, (2, 6))
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=P))
    prompt_PD = adapter.deltas["model.encoder"].prompt_embeddings
    embedding = model.model.encoder.embed_tokens
    distances = torch.cdist(prompt_PD.double(), embedding(torch.arange(50)))
    assert (distances.min(dim=1).values < 1e-4).all()  # the start is what those tokens would have given
    prompt_PD.data = prompt_PD.data.double()
    y = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), decoder_input_ids=ids_BT).logits
    with inlay.using(model):
        x_BTD = torch.cat([prompt_PD.expand(2, -1, -1), embedding(ids_BT)], dim=1)
        encoded = model.model.encoder(inputs_embeds=x_BTD)
        close(y, model(encoder_outputs=encoded, decoder_input_ids=ids_BT).logits)


def test_embeddings_as_the_input_get_the_prompt_too() -> None:
    shape = SHAPES["llama"]
    model, _ = attached(shape.model().double())
    given = shape.inputs()
    x_BTD = model.get_input_embeddings()(given["input_ids"])
    close(model(inputs_embeds=x_BTD, attention_mask=given["attention_mask"]).logits, model(**given).logits)


@pytest.mark.parametrize("build", [lambda: BertModel(BERT), lambda: RobertaModel(RobertaConfig(**BERT.to_dict()))])
def test_arguments_given_by_position_mean_the_same(build: Any) -> None:
    torch.manual_seed(0)
    model, _ = attached(build().eval().double())
    given = SHAPES["bert"].inputs()
    given["attention_mask"][0, -2:] = 0
    expected = model(**given).last_hidden_state
    assert expected.shape[1] == TOKENS
    close(model(given["input_ids"], given["attention_mask"]).last_hidden_state, expected)
    close(model(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state, expected)


@decoders
@pytest.mark.parametrize("kind", ["causal", "none of its own"])
def test_a_mask_that_is_not_of_rows_and_tokens_is_refused(name: str, kind: str) -> None:
    """PEFT bug 13: a four-dimensional mask loses its padding."""
    shape = SHAPES[name]
    model, _ = attached(shape.model())
    given = shape.inputs()
    y = model(**given).logits
    mask = torch.ones(ROWS, 1, TOKENS, TOKENS) if kind == "causal" else {"full_attention": None}
    with pytest.raises(AdapterStateError, match=r"a soft prompt needs an attention mask of shape \(batch, tokens\)"):
        model(input_ids=given["input_ids"], attention_mask=mask)
    close(model(**given).logits, y, 0)


def test_hidden_states_are_those_of_the_text(shape: Shape) -> None:
    model, _ = attached(shape.model())
    result = model(**shape.inputs(), output_hidden_states=True)
    if shape.name == "t5":  # the encoder's are what the decoder reads, prompt and all
        assert {h.shape[1] for h in result.decoder_hidden_states} == {3}
        assert result.encoder_last_hidden_state.shape[1] == P + TOKENS
        return
    assert {h.shape[1] for h in result.hidden_states} == {TOKENS}
    assert len(result.hidden_states) == 3
    tuple_ = model(**shape.inputs(), output_hidden_states=True, return_dict=False)
    close(tuple_[0], result.logits, 0)


# Generation


def generation(model: nn.Module, given: dict[str, Tensor], **more: Any) -> list[list[int]]:
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    return model.generate(**given, **(settings | more))[:, -6:].tolist()


@decoders
def test_a_batch_padded_on_the_left_generates_what_each_row_generates_alone(name: str) -> None:
    shape = SHAPES[name]
    model, _ = attached(shape.model())
    given = left_padded(shape)
    together = generation(model, given)
    for row in range(ROWS):
        assert generation(model, {k: t[row : row + 1, row:] for k, t in given.items()}) == [together[row]]
    assert len({tuple(row) for row in together}) > 1


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_equals_generation_without(name: str, beams: int) -> None:
    shape = SHAPES[name]
    model, _ = attached(shape.model())
    given = {k: t for k, t in shape.inputs().items() if k != "decoder_input_ids"}
    cached = generation(model, given, num_beams=beams)
    assert cached == generation(model, given, num_beams=beams, use_cache=False)
    with inlay.using(model):
        assert generation(model, given, num_beams=beams) != cached


@decoders
def test_the_next_token_is_that_of_a_call_without_a_cache(name: str) -> None:
    shape = SHAPES[name]
    model, _ = attached(shape.model().double())
    ids_BT = shape.inputs()["input_ids"]
    first = model(input_ids=ids_BT[:, :4], use_cache=True)
    assert first.past_key_values.get_seq_length() == P + 4
    rest = model(
        input_ids=ids_BT[:, 4:],
        past_key_values=first.past_key_values,
        attention_mask=torch.ones_like(ids_BT),
        position_ids=torch.arange(4, TOKENS).expand(ROWS, -1),
    )
    assert rest.past_key_values.get_seq_length() == P + TOKENS
    whole = model(input_ids=ids_BT).logits
    close(first.logits, whole[:, :4])
    close(rest.logits, whole[:, 4:])


# The start


def test_the_vocabulary_start_is_distinct_rows_of_the_embedding(shape: Shape) -> None:
    model = shape.model()
    table = model.get_input_embeddings().weight
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=30, initialization="vocabulary"))
    prompt = next(iter(adapter.deltas.values())).prompt_embeddings
    rows = [next(i for i, row in enumerate(table) if torch.equal(row, p)) for p in prompt]
    assert len(set(rows)) == 30
    assert prompt.data_ptr() != table.data_ptr()
    assert sum(p.numel() for n, p in adapter.named_parameters() if "prompt" in n) == 30 * 32
    other = inlay.attach(model, inlay.PromptTuning(tokens=30, initialization="vocabulary"), "b")
    assert not torch.equal(next(iter(other.deltas.values())).prompt_embeddings, prompt)


def test_the_random_start_has_the_embedding_s_spread() -> None:
    torch.manual_seed(0)
    model = SHAPES["llama"].model()
    table = model.get_input_embeddings().weight
    for factor in (1, 20):
        table.data *= factor
        adapter = inlay.attach(model, inlay.PromptTuning(tokens=200, initialization="random"), f"x{factor}")
        prompt = adapter.deltas["model"].prompt_embeddings
        close(prompt.std(), table.std(), 0.05 * table.std().item())
        assert prompt.mean().abs() < 0.1 * table.std()


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_bfloat16_model_has_a_float32_prompt(name: str) -> None:
    model = SHAPES[name].model(torch.bfloat16)
    adapter = inlay.attach(model, inlay.PromptTuning(tokens=P))
    assert next(adapter.parameters()).dtype == torch.float32
    assert logits(model, SHAPES[name]).dtype == torch.bfloat16


def test_more_tokens_than_the_vocabulary_has_and_none_are_refused() -> None:
    with pytest.raises(SettingsError, match="method.tokens is 0; it must be at least 1"):
        inlay.PromptTuning(tokens=0)
    with pytest.raises(SettingsError, match="method.tokens is 51, more than the vocabulary of 50"):
        inlay.attach(SHAPES["llama"].model(), inlay.PromptTuning(tokens=51))
    inlay.attach(SHAPES["llama"].model(), inlay.PromptTuning(tokens=51, initialization="random"))


def test_a_model_without_token_embeddings_is_refused() -> None:
    model = ViTModel(ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4))
    with pytest.raises(TargetError, match="ViTModel has no token embeddings that a prompt could join"):
        inlay.attach(model, inlay.PromptTuning())


def test_training_can_go_on_from_a_file(tmp_path: Any) -> None:
    """PEFT bug 8: prompt adapters cannot be loaded for training."""
    shape = SHAPES["llama"]
    model, prompt_PD = attached(shape.model())
    inlay.adapters(model)["default"].save(tmp_path)
    again = shape.model()
    adapter = inlay.load(again, tmp_path)
    logits(again, shape).square().mean().backward()
    logits(model, shape).square().mean().backward()
    assert all(p.requires_grad for p in adapter.parameters())
    assert torch.equal(next(adapter.parameters()).grad, prompt_PD.grad)
