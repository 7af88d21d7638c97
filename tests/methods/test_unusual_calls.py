"""Models that call attention by keyword, or whose layers hand on more than a result."""

import pytest
import torch
from transformers import DogeConfig, DogeForCausalLM, IBertConfig, IBertForSequenceClassification

import inlay
from inlay.errors import TargetError

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}


def test_a_prefix_reaches_attention_that_is_given_its_mask_by_name() -> None:
    torch.manual_seed(0)
    model = DogeForCausalLM(DogeConfig(**SIZES, num_key_value_heads=2)).eval()
    ids_BT = torch.randint(1, 64, (2, 7))
    adapter = inlay.attach(model, inlay.PrefixTuning(tokens=3))
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.5 * torch.randn(p.shape)
    whole = model(ids_BT, use_cache=False).logits
    with inlay.using(model):
        assert not torch.allclose(model(ids_BT).logits, whole, atol=1e-3)
    start = model(ids_BT[:, :4], use_cache=True)
    rest = model(ids_BT[:, 4:], past_key_values=start.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([start.logits, rest.logits], dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [inlay.LoRA(rank=2), inlay.SparseMask(rank=1)], ids=lambda m: m.name)
def test_a_layer_that_hands_on_a_scale_beside_its_result_is_no_linear_layer(method: inlay.Method) -> None:
    model = IBertForSequenceClassification(IBertConfig(**SIZES, max_position_embeddings=40))
    with pytest.raises(TargetError, match="all-linear"):
        inlay.attach(model, method)
    assert not inlay.adapters(model)
