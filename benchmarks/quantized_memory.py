"""What a base in NF4 takes: the weights of a random Llama of 300 million parameters, against the same in bfloat16.

    python benchmarks/quantized_memory.py [--hidden 1024] [--layers 24] [--intermediate 2816] [--vocabulary 8192]

The base is written in bfloat16 and loaded as a run loads it, once plain and once with `--quantize nf4`, each in a
process of its own. What counts is the bytes of all parameters, buffers and quantization states: in NF4 at most 0.35 of
those in bfloat16. Beside them stands the process's resident memory after a forward pass, less what it had before:
weights that are used as they stand in their file are pages of that file, and all of a file that has been read counts as
resident as long as any of its tensors is in use, though the system may take back what is not. The process's own memory
is told apart from these pages.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from inlay.bases.base import find_base, load_language_model
from inlay.bases.quantized import quantize
from inlay.training.memory import memory_bytes, peak_memory_bytes

CPU = torch.device("cpu")
AT_MOST = 0.35


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--hidden", type=int, default=1024)
    options.add_argument("--layers", type=int, default=24)
    options.add_argument("--intermediate", type=int, default=2816)
    options.add_argument("--vocabulary", type=int, default=8192)
    options.add_argument("--part", choices=("write", "bf16", "nf4"), help=argparse.SUPPRESS)
    options.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.part == "write":
        write(chosen)
    elif chosen.part:
        print(json.dumps(loaded(chosen.folder, chosen.part == "nf4")))
    else:
        compare()


def compare() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write", "bf16", "nf4"):
            command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--part", part]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[part] = json.loads(said or "null")
    plain, packed = found["bf16"], found["nf4"]
    print(
        f"{plain['parameters'] / 1e6:.0f} M parameters, {packed['linear'] / plain['parameters']:.1%} in linear layers"
    )
    for part in ("bf16", "nf4"):
        weights, own, mapped, peak = (found[part][key] / 2**20 for key in ("weights", "own", "mapped", "peak"))
        print(
            f"{part:5} weights {weights:6.1f} MiB   resident {own + mapped:6.1f} MiB: its own {own:6.1f}, "
            f"pages of the file {mapped:6.1f}   at its peak {peak:6.1f} MiB"
        )
    share = packed["weights"] / plain["weights"]
    bits = 8 * packed["packed"] / packed["linear"]
    print(f"weights: {share:.3f} of bfloat16 (at most {AT_MOST}); a quantized weight takes {bits:.3f} bits")
    print(
        f"peak of the process: {packed['peak'] / plain['peak']:.2f} of bfloat16, because the whole base is loaded "
        "before its layers are quantized one after the other"
    )
    assert share <= AT_MOST


def write(chosen: argparse.Namespace) -> None:
    config = LlamaConfig(
        hidden_size=chosen.hidden,
        intermediate_size=chosen.intermediate,
        num_hidden_layers=chosen.layers,
        num_attention_heads=16,
        vocab_size=chosen.vocabulary,
        bos_token_id=None,
        eos_token_id=None,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    LlamaForCausalLM._from_config(config).save_pretrained(chosen.folder)


def loaded(folder: str, packed: bool) -> dict[str, int]:
    first = nn.Sequential(nn.Linear(64, 64, bias=False))
    quantize(first, torch.bfloat16)  # imports the library and makes its tables, which are not the model's
    base = find_base(folder)
    before, mapped = memory_bytes(CPU), mapped_bytes()
    model = load_language_model(base, torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    if packed:
        quantize(model, torch.bfloat16)
    with torch.inference_mode():
        model.eval()(torch.arange(8)[None], use_cache=False)
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    return {
        "parameters": parameters,
        "weights": size(tensors(model)),
        "linear": sum(m.in_features * m.out_features for m in layers),
        "packed": size(t for m in layers for t in tensors(m)),
        "own": memory_bytes(CPU) - before - (mapped_bytes() - mapped),
        "mapped": mapped_bytes() - mapped,
        "peak": peak_memory_bytes(CPU) - before,
    }


def mapped_bytes() -> int:
    """Of the resident memory, what is pages of files."""
    return psutil.Process().memory_info().shared


def tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        if isinstance(part, Linear4bit):
            state: Any = part.weight.quant_state
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


def size(found: Iterator[Tensor]) -> int:
    """Bytes of the memory behind the tensors, what is shared once."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in found)}.values())


if __name__ == "__main__":
    main()
