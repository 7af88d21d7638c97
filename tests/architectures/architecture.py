"""One architecture of transformers as a tiny random model, with a batch for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY, ROWS, TOKENS, LABELS = 64, 3, 7, 3

# Names that most configurations of transformers share.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = SMALL | {"num_key_value_heads": 2}

Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A tiny model, built anew on each call with the same weights, and what it takes."""

    name: str
    kind: str
    """The row's group in the table: decoder, hybrid, mixture, encoder and so on."""
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    """With labels, so that the model computes its own loss."""
    blocks: int
    """Elements of its lists of like layers, whatever is in them; 0 if it has no such lists."""
    texts: bool = True
    """Whether a row is a text, which can be padded."""
    generates: bool = False
    text_part: bool = False
    """Whether it has other towers beside a language model, and these rows are texts."""
    pattern: tuple[str, ...] = (r".*\.1\..*(weight|bias)",)
    """What the method `pattern` trains of it."""
    feedforwards: int | None = None
    """Blocks that have one, if not all have."""

    def build(self) -> Any:
        """The model in evaluation mode, the same at each call; biases and norms are moved away from 0 and 1."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.make().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
        return model


def ids(rows: int = ROWS, tokens: int = TOKENS, seed: int = 1) -> Tensor:
    """Tokens that are none of the special ones."""
    return torch.randint(6, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def causal_batch() -> Batch:
    ids_BT = ids()
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT.clone()}


def classes() -> Tensor:
    return torch.arange(ROWS) % LABELS


def classifier_batch() -> Batch:
    ids_BT = ids()
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": classes()}


def made(model_class: str, config_class: str, **settings: Any) -> Callable[[], nn.Module]:
    """What makes the model; the classes are looked up when it does, since each import takes time."""

    def make() -> nn.Module:
        return getattr(transformers, model_class)(getattr(transformers, config_class)(**settings))

    return make


def causal(
    name: str,
    stem: str,
    *,
    kind: str = "decoder",
    config: str = "",
    blocks: int = 2,
    feedforwards: int | None = None,
    **settings: Any,
) -> Architecture:
    """A language model: `stem`ForCausalLM."""
    return Architecture(
        name=name,
        kind=kind,
        make=made(f"{stem}ForCausalLM", f"{config or stem}Config", **settings),
        batch=causal_batch,
        blocks=blocks,
        feedforwards=feedforwards,
        generates=True,
    )


def classifier(name: str, stem: str, *, kind: str = "encoder", blocks: int = 2, **settings: Any) -> Architecture:
    """A classifier of texts: `stem`ForSequenceClassification."""
    return Architecture(
        name=name,
        kind=kind,
        make=made(f"{stem}ForSequenceClassification", f"{stem}Config", num_labels=LABELS, **settings),
        batch=classifier_batch,
        blocks=blocks,
    )
