"""What the loss in chunks saves: peak memory of a step at a vocabulary of 32,000, against transformers' own loss.

    python benchmarks/loss_memory.py [--dtype float32] [--rows 8] [--tokens 512] [--method lora]

A random Llama of 4 layers x 256 in which all tokens are trained. Each loss takes its step in a process of its own; what
counts is the process's peak less what it held before the step, after a first step on a single row of 64 tokens. The
gradients are compared. The peaks must differ by the size of the logits in float32 at least; in float32 the gradients
must agree to 1e-5 of the largest.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import inlay
from inlay.batches.chunked_loss import IGNORED, causal_loss
from inlay.training.memory import memory_bytes, peak_memory_bytes

VOCABULARY = 32_000
CPU = torch.device("cpu")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--tokens", type=int, default=512)
    options.add_argument("--method", default="lora")
    options.add_argument("--step", choices=("transformers", "chunks"), help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.step:
        one_step(chosen)
        return

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in ("transformers", "chunks"):
            out = Path(folder) / step
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--step", step, "--out", str(out)], check=True)
            found[step] = torch.load(out)
            print(f"{step:13} {found[step]['bytes'] / 2**20:6.0f} MiB, {found[step]['seconds']:.2f} s")
    theirs, ours = found["transformers"], found["chunks"]
    logits = 4 * chosen.rows * chosen.tokens * VOCABULARY
    saved = theirs["bytes"] - ours["bytes"]
    worst = max(
        float((ours["gradients"][name] - g).abs().max() / g.abs().max()) for name, g in theirs["gradients"].items()
    )
    print(f"saved {saved / 2**20:.0f} MiB; the logits in float32 have {logits / 2**20:.0f} MiB")
    print(f"loss {ours['loss']:.6f} and {theirs['loss']:.6f}; gradients differ by {worst:.1e} of the largest")
    assert saved >= logits
    assert worst < 1e-5 or chosen.dtype != "float32"


def one_step(chosen: argparse.Namespace) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, chosen.dtype)).train()
    adapter = inlay.attach(model, inlay.METHODS[chosen.method]())
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.02 * torch.randn_like(p)  # of low-rank factors one starts at zero, and gives the other no gradient
    run(model, torch.randint(VOCABULARY, (1, 64)), chosen.step)
    model.zero_grad()
    ids = torch.randint(VOCABULARY, (chosen.rows, chosen.tokens))

    before, began = memory_bytes(CPU), time.perf_counter()
    loss = run(model, ids, chosen.step)
    result = {
        "seconds": time.perf_counter() - began,
        "bytes": peak_memory_bytes(CPU) - before,
        "loss": loss.item(),
        "gradients": {name: p.grad for name, p in adapter.named_parameters()},
    }
    torch.save(result, chosen.out)


def run(model: LlamaForCausalLM, ids: Tensor, step: str) -> Tensor:
    labels = ids.clone()
    labels[:, 0] = IGNORED
    batch = {"input_ids": ids, "labels": labels}
    loss = model(**batch).loss if step == "transformers" else causal_loss(model, batch, int((labels != IGNORED).sum()))
    loss.backward()
    return loss.detach()


if __name__ == "__main__":
    main()
