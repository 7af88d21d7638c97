"""Pretrain builtin:tiny-lm: a small Llama and a byte-level BPE tokenizer, on one plain text.

python scripts/pretrain_tiny_lm.py ../shared/data/chilit --out runs/tiny-lm               an hour or two of a CPU
python scripts/evaluate_tiny_lm.py runs/tiny-lm ../shared/data            bits per byte, beside an n-gram model

The text is the public-domain children's literature of the nineteenth century in `chilit`. About every sixteenth
paragraph ends a text, so that the model knows the token that says so. Matrices are trained with Muon
(https://kellerjordan.github.io/posts/muon), the rest with AdamW, in float32; the model computes in bfloat16. The
learning rate is flat and falls over the last third of the steps. A checkpoint is written every ten minutes, and the
script goes on from it.
"""

import argparse
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, CONTEXT, ROWS = 4096, 512, 16
END, PAD = "<|endoftext|>", "<|pad|>"
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
STEPS, MATRIX_RATE, OTHER_RATE, FALLING = 2400, 0.02, 3e-3, 1 / 3
PARAGRAPHS = 16  # of a text, on average
CHECKPOINT_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train.txt[.gz] and valid.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(asked.data, asked.out)
    train, valid = (_ids(tokenizer, asked.data, split, asked.out) for split in ("train", "valid"))
    print(f"{len(train):,} tokens to train on, {len(valid):,} held out", flush=True)
    _pretrain(tokenizer, train, valid, asked)


def read_text(folder: Path, split: str) -> str:
    plain = folder / f"{split}.txt"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    return gzip.decompress((folder / f"{split}.txt.gz").read_bytes()).decode("utf-8")


def _tokenizer(data: Path, out: Path) -> Any:
    if (out / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(out)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_text(data, "train").split("\n"), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )
    fast.save_pretrained(out)
    return fast


def _ids(tokenizer: Any, data: Path, split: str, out: Path) -> np.ndarray:
    cached = out / f"{split}.npy"
    if not cached.is_file():
        lines = read_text(data, split).split("\n")
        random = np.random.default_rng(0)
        ends = [not line and random.random() < 1 / PARAGRAPHS for line in lines]
        pieces = [line + ("" if after else "\n") for line, after in zip(lines, [*ends[1:], True], strict=True)]
        ids = tokenizer([END if end else piece for piece, end in zip(pieces, ends, strict=True)], verbose=False)[
            "input_ids"
        ]
        np.save(cached, np.array([i for piece in ids for i in piece], dtype=np.uint16))
    return np.load(cached)


def _pretrain(tokenizer: Any, train: np.ndarray, valid: np.ndarray, asked: argparse.Namespace) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **SHAPE,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(asked.device)
    exact = {name: torch.nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
    model.to(torch.bfloat16)
    matrices = [p for name, p in exact.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in exact.items() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]
    peak = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    done, seconds = 0, 0.0
    checkpoint = asked.out / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint)
        _copy(saved["exact"], exact)
        for optimizer, found in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(found)
        done, seconds = saved["steps"], saved["seconds"]
        _copy(exact, dict(model.named_parameters()))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    body = torch.compile(model.model, dynamic=False)

    began = saved_at = printed_at = time.perf_counter()
    before = seconds
    for step in range(done, asked.steps):
        factor = min(1.0, (step + 1) / 100, max(0.02, (1 - step / asked.steps) / FALLING))
        for group, rate in zip((g for o in optimizers for g in o.param_groups), peak, strict=True):
            group["lr"] = factor * rate
        loss = _loss(model, body, _batch(train, step, asked.device))
        loss.backward()
        for name, p in model.named_parameters():
            exact[name].grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(exact.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        _copy(exact, dict(model.named_parameters()))

        now, steps = time.perf_counter(), step + 1
        seconds = before + now - began
        if now - printed_at > 30:
            left = (now - began) / (steps - done) * (asked.steps - steps) / 60
            tokens = steps * ROWS * CONTEXT / 1e6
            print(f"step {steps}  {tokens:.1f} M tokens  loss {loss.item():.3f}  {left:.0f} min left", flush=True)
            printed_at = now
        if now - saved_at > CHECKPOINT_SECONDS or steps == asked.steps:
            print(f"step {steps}  held out: {_held_out(model, valid, asked.device):.4f} nats per token", flush=True)
            states = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"exact": exact, "optimizers": states, "steps": steps, "seconds": seconds}, checkpoint)
            model.save_pretrained(asked.out)
            saved_at = time.perf_counter()


@torch.no_grad()
def _copy(values: dict[str, Any], into: dict[str, Any]) -> None:
    for name, p in into.items():
        p.copy_(values[name])


def _batch(tokens: np.ndarray, step: int, device: str) -> Tensor:
    """Windows that begin anywhere; the same ones for a step whenever the script was started."""
    starts = np.random.default_rng(step).integers(0, len(tokens) - CONTEXT - 1, ROWS)
    return torch.from_numpy(np.stack([tokens[i : i + CONTEXT + 1] for i in starts]).astype(np.int64)).to(device)


def _loss(model: Any, body: Any, ids_BT: Tensor) -> Tensor:
    x_BTD = body(ids_BT[:, :-1], use_cache=False).last_hidden_state
    return F.cross_entropy(model.lm_head(x_BTD).float().flatten(0, 1), ids_BT[:, 1:].flatten())


@torch.inference_mode()
def _held_out(model: Any, tokens: np.ndarray, device: str) -> float:
    windows = tokens[: 64 * (CONTEXT + 1)].reshape(64, -1).astype(np.int64)
    losses = [_loss(model, model.model, torch.from_numpy(w).to(device)).item() for w in np.split(windows, 16)]
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
