"""Four small models built from configurations, one of each architecture, with inputs: nothing is downloaded."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from ..attached.adapter import Adapter, attach
from ..core.method import Method


def _config(kind: Callable[..., PreTrainedConfig], **settings: object) -> PreTrainedConfig:
    """Make a configuration, whose class does not declare all that it takes."""
    return kind(**settings)


VOCABULARY, ROWS, TOKENS, LABELS = 50, 4, 7, 3

LLAMA = _config(
    LlamaConfig,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=VOCABULARY,
    pad_token_id=0,
    num_labels=LABELS,
)
GPT2 = _config(
    GPT2Config,
    n_embd=32,
    n_layer=2,
    n_head=4,
    vocab_size=VOCABULARY,
    n_positions=64,
    pad_token_id=0,
    num_labels=LABELS,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
BERT = _config(
    BertConfig,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    num_labels=LABELS,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
T5 = _config(
    T5Config,
    d_model=32,
    d_ff=48,
    d_kv=8,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=4,
    vocab_size=VOCABULARY,
    num_labels=LABELS,
    dropout_rate=0.0,
    feed_forward_proj="gated-gelu",
    decoder_start_token_id=0,
    pad_token_id=0,
    eos_token_id=1,
)


@dataclass(frozen=True)
class Shape:
    """An architecture: its generating model (BERT: its classifier) and its classifier."""

    name: str
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    classifier_class: type[PreTrainedModel]

    @property
    def generates(self) -> bool:
        return self.model_class is not self.classifier_class

    @property
    def shallow(self) -> "Shape":
        """Return it with one layer, for what takes long and is the same for each."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = 1
        if config.is_encoder_decoder:
            config.num_decoder_layers = 1
        return replace(self, config=config)

    def model(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return _make(self.model_class, self.config, dtype)

    def classifier(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return _make(self.classifier_class, self.config, dtype)

    def inputs(self) -> dict[str, Tensor]:
        ids_BT = torch.randint(2, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
        inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
        if self.name == "t5":
            inputs["input_ids"][:, -1] = 1  # its classifier pools the end-of-sequence token
            if self.generates:
                inputs["decoder_input_ids"] = ids_BT[:, :3]
        return inputs


def _make(cls: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    model: Any = cls(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide mistakes
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.to(dtype)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama", LLAMA, LlamaForCausalLM, LlamaForSequenceClassification),
        Shape("gpt2", GPT2, GPT2LMHeadModel, GPT2ForSequenceClassification),
        Shape("bert", BERT, BertForSequenceClassification, BertForSequenceClassification),
        Shape("t5", T5, T5ForConditionalGeneration, T5ForSequenceClassification),
    )
}


def logits(model: nn.Module, shape: Shape, **changes: object) -> Tensor:
    """Return the logits of every text position (or of every row, for a classifier)."""
    inputs = shape.inputs() | changes
    if isinstance(model, T5ForSequenceClassification):
        inputs.pop("decoder_input_ids", None)
    return model(**inputs).logits


def disturb(adapter: Adapter, scale: float = 0.1) -> None:
    """Move every trained parameter away from its start, where many changes are still zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in adapter.parameters():
            p += scale * torch.randn(p.shape, generator=generator)


def attached(model: nn.Module, method: Method, adapter_name: str = "default", scale: float = 0.1) -> Adapter:
    """Attach the method and move it away from its start."""
    adapter = attach(model, method, adapter_name)
    disturb(adapter, scale)
    return adapter
