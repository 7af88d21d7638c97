"""A prompt or a prefix stands right before a row's text, whatever the model carries from position to position."""

from typing import Any

import pytest
import torch
from torch import Tensor

import inlay
from inlay.tasks.generate import generate

from ..architectures import build, inputs
from ..shapes import disturb
from .prompt_models import ABSOLUTE, CLASSIFIERS, DECODERS, STATES, made

pytestmark = pytest.mark.filterwarnings("ignore")  # fast paths that are not installed, unused masks

P, PADDING = 4, 5
METHODS = {
    "prompt": inlay.PromptTuning(tokens=P),
    "p-tuning": inlay.PTuning(tokens=P, hidden_size=8),
    "prefix": inlay.PrefixTuning(tokens=P),
}
pairs = pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for method in ("prompt", "prefix") for name in DECODERS if method == "prompt" or name not in STATES]
    + [("qwen3_5", "p-tuning")],
)


def attached(name: str, method: str) -> Any:
    model = made(DECODERS[name])
    torch.manual_seed(1)
    disturb(inlay.attach(model, METHODS[method]), 0.3)
    return model


def text(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(3, 59, (rows, length), generator=torch.Generator().manual_seed(2))


def padded(name: str, ids_BT: Tensor, left: int, right: int = 0) -> dict[str, Tensor]:
    zeros = ids_BT.new_zeros
    ids = torch.cat([zeros(len(ids_BT), left), ids_BT, zeros(len(ids_BT), right)], 1)
    mask = torch.cat([zeros(len(ids_BT), left), torch.ones_like(ids_BT), zeros(len(ids_BT), right)], 1)
    given = {"input_ids": ids, "attention_mask": mask}
    if name in ABSOLUTE:
        given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return given


@pairs
def test_a_padded_row_equals_the_row_alone(name: str, method: str) -> None:
    model, ids_BT = attached(name, method), text()
    alone = model(input_ids=ids_BT).logits
    with inlay.using(model):
        assert not torch.allclose(model(input_ids=ids_BT).logits, alone, atol=1e-3)
    for left, right in ((PADDING, 0), (0, PADDING), (PADDING, 3)):
        y = model(**padded(name, ids_BT, left, right)).logits[:, left : left + ids_BT.shape[1]]
        torch.testing.assert_close(y, alone, atol=1e-5, rtol=1e-5)
    rows = padded(name, ids_BT, PADDING)
    rows["input_ids"][1] = rows["attention_mask"][1] = 0  # a row of nothing changes no other, and is no NaN
    y = model(**rows).logits
    assert y.isfinite().all()
    torch.testing.assert_close(y[0, PADDING:], alone[0], atol=1e-5, rtol=1e-5)


@pairs
def test_a_text_is_the_same_in_any_batch_and_without_a_cache(name: str, method: str) -> None:
    model, ids_BT = attached(name, method), text(1)
    settings = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    given = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    cached = model.generate(**given, **settings)[0].tolist()
    assert model.generate(**given, **settings, use_cache=False)[0].tolist() == cached
    row, longer = ids_BT[0].tolist(), text(1, 17)[0].tolist()
    stop = [60]  # no token
    alone = generate(model, [row], stop, 0, 10)[0]
    assert generate(model, [longer, row, row[:4]], stop, 0, 10)[1] == alone


@pytest.mark.parametrize("name", DECODERS.keys())
def test_a_prompt_of_tokens_embeddings_is_as_if_they_were_typed(name: str) -> None:
    if name in ("gemma3n", "gemma4"):
        pytest.skip("the tokens' embeddings of each layer are no part of a prompt")
    model, ids_BT = made(DECODERS[name]), text()
    ids_BT[1, :P] = ids_BT[0, :P]
    typed = model(input_ids=ids_BT).logits[:, P:]
    adapter = inlay.attach(model, METHODS["prompt"])
    with torch.no_grad():
        next(adapter.parameters()).copy_(model.get_input_embeddings()(ids_BT[0, :P]))
    y = model(input_ids=ids_BT[:, P:]).logits
    torch.testing.assert_close(y, typed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta", "mpnet"])
def test_positions_made_of_ids_do_not_count_padding(name: str) -> None:
    model = made(CLASSIFIERS[name]).base_model
    disturb(inlay.attach(model, METHODS["prompt"]), 0.3)
    ids_BT = text()
    alone = model(input_ids=ids_BT).last_hidden_state
    fill = torch.ones(2, PADDING, dtype=torch.long)  # their padding is token 1
    mask = torch.cat([0 * fill, torch.ones_like(ids_BT)], 1)
    y = model(input_ids=torch.cat([fill, ids_BT], 1), attention_mask=mask).last_hidden_state[:, PADDING:]
    torch.testing.assert_close(y, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gemma3n", "gemma4"])
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_the_text_s_embeddings_of_each_layer_are_read(name: str, method: str) -> None:
    model, ids_BT = attached(name, method), text()
    y = model(input_ids=ids_BT).logits
    model.model.embed_tokens_per_layer.weight.data[ids_BT[0, -1]] += 1
    changed = model(input_ids=ids_BT).logits
    assert not torch.allclose(changed[0, -1], y[0, -1], atol=1e-3)
    assert torch.equal(changed[0, :2], y[0, :2])


@pytest.mark.parametrize("masked", [False, True])
def test_the_head_is_given_a_contiguous_result(masked: bool) -> None:
    model, ids_BT = attached("llama", "prompt"), text()
    seen: list[Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(**padded("llama", ids_BT, PADDING) if masked else {"input_ids": ids_BT})
    assert seen[0].is_contiguous()


def test_a_first_piece_that_is_all_padding_keeps_its_place_in_the_cache() -> None:
    """A cache that is filled in pieces: the prompt stays where the first piece put it."""
    model, ids_BT = attached("llama", "prompt"), text()
    whole = padded("llama", ids_BT, PADDING)
    mask = whole["attention_mask"]
    first = model(input_ids=whole["input_ids"][:, :3], attention_mask=mask[:, :3], use_cache=True)
    rest = model(input_ids=whole["input_ids"][:, 3:], attention_mask=mask, past_key_values=first.past_key_values).logits
    assert rest.isfinite().all()
    with inlay.using(model):
        base = model(**whole).logits[:, 3:]
    assert not torch.allclose(rest[:, 2:], base[:, 2:], atol=1e-3)


def test_positions_that_a_model_counts_from_ids_leave_its_padding_out() -> None:
    model = build("m2m_100")
    inlay.attach(model, inlay.PromptTuning(tokens=3))
    text = inputs("m2m_100")["input_ids"][:1]
    pad = torch.full((1, 4), model.config.pad_token_id)
    for wide in (torch.cat([pad, text], dim=1), torch.cat([text, pad], dim=1)):
        mask = (wide != model.config.pad_token_id).long()
        with torch.no_grad():
            found = model(input_ids=wide, attention_mask=mask, decoder_input_ids=text).logits
            alone = model(input_ids=text, decoder_input_ids=text).logits
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
