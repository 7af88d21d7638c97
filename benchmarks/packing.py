"""What packing gains: tokens a second of training, packed rows against padded ones, with the same texts in each step.

    python benchmarks/packing.py [--data ../shared/data/alpaca] [--steps 12] [--rows 16] [--method lora]

A random Llama of 8 layers x 512 in bfloat16, a byte-level BPE with 32,000 tokens trained on the data, texts in random
order. Three ways take turns step by step on the same texts: padded rows with a mask, padded rows attended text by text,
and one packed row attended text by text. All use the loss in chunks. The losses of each step must agree, and packed
must be 1.7 times as fast as padded. Two more ways have other texts in their steps, so that only tokens a second may be
compared: padded rows of like length, and a packed row of as many tokens as the padded rows have with their padding.
"""

import argparse
import gzip
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from inlay.training.attention import attend_by_document
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import inlay
from inlay.batches.batch import LengthGroups
from inlay.batches.chunked_loss import causal_loss, trained_tokens
from inlay.batches.packing import Shuffled, can_pack, packed, padded
from inlay.data.tokens import TokenRow

VOCABULARY, LONGEST = 32_000, 512


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/alpaca")
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--rows", type=int, default=16)
    options.add_argument("--method", default="lora")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    texts = read_texts(chosen.data)
    lengths = [len(text["input_ids"]) for text in texts]
    print(f"{len(texts)} texts, {sum(lengths) / len(lengths):.0f} tokens on average, {max(lengths)} at most")
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama()).to(torch.bfloat16)
    inlay.attach(model, inlay.METHODS[chosen.method]())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)  # the ways must meet the same weights

    def speed(rows: list[int], way: str) -> tuple[float, float]:
        """Tokens a second without padding, and the loss."""
        model.set_attn_implementation("sdpa")
        assert way in ("padded", "like length") or attend_by_document(model)
        chunk = [texts[i] for i in rows]
        batch = packed(chunk) if way.startswith("packed") else padded(chunk)
        began = time.perf_counter()
        loss = causal_loss(model.train(), batch, trained_tokens(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return int(batch["attention_mask"].sum()) / (time.perf_counter() - began), loss.item()

    same_texts = ("padded", "padded, by text", "packed")
    found: dict[str, list[float]] = {way: [] for way in (*same_texts, "like length", "packed, as large")}
    grouped, more = iter(LengthGroups(lengths, chosen.rows, seed=0)), iter(range(len(texts)))
    assert can_pack(model)
    for count, rows in zip(range(-1, chosen.steps), Shuffled(len(texts), chosen.rows, seed=0), strict=False):
        of_step = {way: speed(rows, way) for way in same_texts}
        losses = [loss for _, loss in of_step.values()]
        assert max(losses) - min(losses) < 2e-3 * losses[0], losses
        large, room = [], chosen.rows * max(lengths[i] for i in rows)
        while sum(lengths[i] for i in large) < room:
            large.append(next(more))
        of_step |= {"like length": speed(next(grouped), "like length"), "packed, as large": speed(large, "packed")}
        if count >= 0:  # the first step loads libraries
            for way, (tokens_a_second, _) in of_step.items():
                found[way].append(tokens_a_second)

    for way, speeds in found.items():
        gain = median(a / b for a, b in zip(speeds, found["padded"], strict=True))
        print(f"{way:16} {median(speeds):7.0f} tokens/s, {gain:.2f} times padded")
    assert median(a / b for a, b in zip(found["packed"], found["padded"], strict=True)) >= 1.7


def llama() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=None,
    )


def read_texts(folder: Path) -> list[TokenRow]:
    """The training rows as tokens; what is trained is the answer."""
    with gzip.open(folder / "train.jsonl.gz", "rt") as file:
        rows: list[dict[str, Any]] = [json.loads(line) for line in file]
    prompts = [f"{row['instruction']}\n{row['input']}\n" for row in rows]
    answers = [row["output"] for row in rows]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(prompts + answers, trainer)
    texts = []
    for prompt, answer in zip(tokenizer.encode_batch(prompts), tokenizer.encode_batch(answers), strict=True):
        trained = [False] * len(prompt.ids) + [True] * (len(answer.ids) + 1)
        texts.append({"input_ids": [*prompt.ids, *answer.ids, 0][:LONGEST], "trained": trained[:LONGEST]})
    return texts


if __name__ == "__main__":
    main()
