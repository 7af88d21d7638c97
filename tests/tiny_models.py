"""Model folders as `from_pretrained` reads them, with a tokenizer, made on the spot; and small data sets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from .shapes import Shape

WORDS = ["good", "bad", "fine", "poor", "great", "awful", "film", "plot", "cast", "the", "a", "was", "is", "very", "so"]
SPECIAL = ["[PAD]", "</s>", "[UNK]", "[CLS]", "[SEP]"]


def save_tiny_model(shape: Shape, folder: Path) -> str:
    """A pretrained base (without a classifier's head) of the shape and a word tokenizer; returns the folder's name."""
    model = shape.model()
    body = model.base_model if shape.name == "bert" else model
    body.config.name_or_path = ""
    body.save_pretrained(folder)
    word_tokenizer(shape.name == "bert").save_pretrained(folder)
    return str(folder)


def word_tokenizer(for_bert: bool = False) -> Any:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if for_bert:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    else:
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = ["input_ids", "token_type_ids", "attention_mask"] if for_bert else ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        eos_token="</s>",
        unk_token="[UNK]",
        cls_token="[CLS]" if for_bert else None,
        sep_token="[SEP]" if for_bert else None,
        model_max_length=64,
        model_input_names=names,
    )


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reviews(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Distinct sentences whose label their adjective decides."""
    rows = []
    for i in range(start, start + count):
        adjective, noun = WORDS[i % 6], WORDS[6 + i // 6 % 3]
        rest = " ".join(WORDS[9 + (i // (18 * 6**k)) % 6] for k in range(4))
        label = "positive" if adjective in ("good", "fine", "great") else "negative"
        rows.append({"text": f"the {noun} was {rest} {adjective}", "label": label})
    return rows


def write_reviews(folder: Path) -> str:
    write_rows(folder / "train.jsonl", reviews(120))
    write_rows(folder / "valid.jsonl", reviews(30, start=120))
    write_rows(folder / "test.jsonl", reviews(30, start=150))
    return str(folder)
