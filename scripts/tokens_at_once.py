"""How fast a CPU takes a step by the tokens that it computes at once.

python scripts/tokens_at_once.py

`lora` on random weights, one thread, time of the processor, the least of three steps that alternate.
"""

import time

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

import inlay

ROUNDS = 3
LLAMA = LlamaConfig(
    hidden_size=256,
    num_hidden_layers=4,
    intermediate_size=688,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=8000,
)
BERT = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_attention_heads=12)
MODELS = {"tiny-lm": (AutoModelForCausalLM, LLAMA), "minilm": (AutoModelForSequenceClassification, BERT)}
BATCHES = (("tiny-lm", 32, 512), ("minilm", 16, 512), ("minilm", 64, 64), ("minilm", 16, 128))
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    torch.set_num_threads(1)
    for name, rows, length in BATCHES:
        for dtype in DTYPES:
            found = shares(name, rows, length, dtype)
            told = "  ".join(f"{tokens:,}: {share:.2f}" for tokens, share in found.items())
            print(f"{name}, {rows} x {length}, {str(dtype).removeprefix('torch.')}:  {told}", flush=True)


def shares(name: str, rows: int, length: int, dtype: torch.dtype) -> dict[int, float]:
    """Return the time of a step by the tokens at once, as a share of that of the whole batch."""
    torch.manual_seed(0)
    auto, config = MODELS[name]
    model = auto.from_config(config, dtype=dtype)
    inlay.attach(model, inlay.LoRA())
    model.train()
    ids_NT = torch.randint(0, config.vocab_size, (rows, length))
    labels = torch.zeros(rows, dtype=torch.long) if name == "minilm" else ids_NT
    sizes = [rows >> halved for halved in range(rows.bit_length())]
    seconds = {size: float("inf") for size in sizes}
    for _ in range(ROUNDS + 1):  # in the first kernels are made
        for size in sizes:
            seconds[size] = min(seconds[size], step_seconds(model, ids_NT, labels, size))
    return {size * length: seconds[size] / seconds[rows] for size in sizes}


def step_seconds(model: nn.Module, ids_NT: Tensor, labels: Tensor, size: int) -> float:
    began = time.process_time()
    for ids, wanted in zip(ids_NT.split(size), labels.split(size), strict=True):
        (model(input_ids=ids, labels=wanted).loss * len(ids) / len(ids_NT)).backward()
    for p in model.parameters():
        p.grad = None
    return time.process_time() - began


if __name__ == "__main__":
    main()
