"""Small models of the kinds that people adapt with Hugging Face PEFT, each with an input; nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = dict[str, Tensor]

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64, "pad_token_id": 0}
HALVES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5: dict[str, Any] = {
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 64,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_labels": 3,
}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
EXPERTS: dict[str, Any] = {"num_key_value_heads": 4, "num_local_experts": 4, "num_experts_per_tok": 2}


class Convolutions(nn.Module):
    """Convolutions of one and three dimensions beside linear layers: a model that transformers does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 8, 3, padding=1)
        self.space = nn.Conv3d(1, 6, 3, padding=1)
        self.hidden = nn.Linear(8, 20)
        self.norm = nn.LayerNorm(20)
        self.last = nn.Linear(26, 5)

    def forward(self, line: Tensor, space: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.hidden(self.line(line).mean(-1))))
        return self.last(torch.cat([x, self.space(space).mean((-1, -2, -3))], dim=-1))


def _resized() -> Any:
    model = t.LlamaForCausalLM(t.LlamaConfig(**WIDE))
    model.resize_token_embeddings(70)
    return model


def _llava() -> Any:
    vision = t.CLIPVisionConfig(**{k: v for k, v in VIT.items() if k != "num_labels"})
    text = t.LlamaConfig(**WIDE)
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_id=63, vision_feature_layer=-1)
    return t.LlavaForConditionalGeneration(config)


def _qwen_vl() -> Any:
    return t.Qwen2VLForConditionalGeneration(
        t.Qwen2VLConfig(
            text_config={
                **WIDE,
                "num_key_value_heads": 2,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            },
            vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 4},
            image_token_id=60,
            video_token_id=61,
            vision_start_token_id=62,
        )
    )


BUILD: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**WIDE, num_key_value_heads=2)),
    "llama-tied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**WIDE, tie_word_embeddings=True)),
    "llama-resized": _resized,
    "llama-classifier": lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**WIDE, num_labels=3)),
    "llama-biased": lambda: t.LlamaForCausalLM(t.LlamaConfig(**WIDE, attention_bias=True, mlp_bias=True)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**WIDE, head_dim=8, num_key_value_heads=2)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**WIDE, head_dim=8, num_key_value_heads=2, sliding_window=4)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**WIDE)),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **{k: v for k, v in WIDE.items() if k != "intermediate_size"})
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "gpt2-classifier": lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**GPT2, num_labels=3)),
    "bert-classifier": lambda: t.BertForSequenceClassification(t.BertConfig(**WIDE, num_labels=3)),
    "bert-tagger": lambda: t.BertForTokenClassification(t.BertConfig(**WIDE, num_labels=3)),
    "roberta-classifier": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**WIDE, num_labels=3)),
    "distilbert-classifier": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=64, num_labels=3)
    ),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5)),
    "bart": lambda: t.BartForConditionalGeneration(t.BartConfig(**HALVES)),
    "bart-classifier": lambda: t.BartForSequenceClassification(t.BartConfig(**HALVES, num_labels=3)),
    "vit-classifier": lambda: t.ViTForImageClassification(t.ViTConfig(**VIT)),
    "resnet-classifier": lambda: t.ResNetForImageClassification(t.ResNetConfig(**RESNET, num_labels=3)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**WIDE, **EXPERTS)),
    "llava": _llava,
    "qwen2-vl": _qwen_vl,
    "convolutions": Convolutions,
}


def build(name: str) -> Any:
    """The model, the same each time; its norms and biases are off their start, which would hide mistakes."""
    torch.manual_seed(0)
    model = BUILD[name]().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.03 * torch.randn(p.shape, generator=generator))
    return model


def inputs(name: str) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    if name == "convolutions":
        return {
            "line": torch.randn(3, 4, 9, generator=generator),
            "space": torch.randn(3, 1, 4, 4, 4, generator=generator),
        }
    if name.startswith(("vit", "resnet")):
        size = 16 if name.startswith("vit") else 32
        return {"pixel_values": torch.randn(3, 3, size, size, generator=generator)}
    ids_BT = torch.randint(3, 59, (3, 7), generator=generator)
    ids_BT[:, -1] = 2  # BART's classifier reads at the end of the text
    given: Inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    if name == "llama-resized":
        given["input_ids"][0, 1:3] = torch.tensor([65, 69])
    if name in ("t5", "bart"):
        given["decoder_input_ids"] = ids_BT[:, :4]
    return given


def task(name: str) -> str | None:
    """PEFT's name for what the model does."""
    ends = {"tagger": "TOKEN_CLS", "classifier": "SEQ_CLS"}
    if name.startswith(("vit", "resnet", "convolutions")):
        return None
    if name in ("t5", "bart"):
        return "SEQ_2_SEQ_LM"
    return ends.get(name.rpartition("-")[2], "CAUSAL_LM")


@torch.no_grad()
def output(model: Any, name: str) -> Tensor:
    given = inputs(name)
    if getattr(getattr(model, "active_peft_config", None), "num_tasks", 0):
        given["task_ids"] = torch.zeros(len(given["input_ids"]), dtype=torch.long)
    result = model(**given)
    return result if isinstance(result, Tensor) else result.logits
