"""Plan the runs whose peaks Hugging Face PEFT publishes, and compare: Llama 3.2 3B on one NVIDIA L40S.

python scripts/published_peaks.py                    with a longest row of 768 tokens, which is their limit
python scripts/published_peaks.py --longest 706      with another

Of each run two peaks are told: that of tensors with the method as Inlay has it, and what CUDA would reserve for PEFT's
own layers, which is what they publish (multiples of 2 MiB). Both come from steps that are followed without values; what
is reserved, from the order in which their tensors come and go, by the rules of PyTorch's caching allocator.

The settings are those of method_comparison/MetaMathQA in PEFT's repository (July 2026): a base in bfloat16, adapters
in float32, no recomputation, batches of 4 rows of at most 768 tokens sorted by length, transformers' own loss, the key
and value cache left on, and the output of a step kept until the next one has its own. The allocator's cache is emptied
every ten steps, so the longest batch, the first of its twenty, comes after a short one and an empty cache. Nothing is
fitted.

It is assumed that some batch has a row of so many tokens and shorter ones, so that there is a mask; that cuBLAS takes
the workspace that is its default (8.125 MiB); that CUDA's kernels keep what the CPU's keep; and that PEFT and
transformers of the installed versions do what those of July 2026 did.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import peft
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW
from transformers import LlamaConfig, LlamaForCausalLM

import inlay
from inlay.batches.batch import Batch
from inlay.cost.caching_allocator import CachingAllocator
from inlay.cost.depth import shallow
from inlay.cost.fake_model import empty_adapter, give_storage
from inlay.cost.step import StepCost, follow_step
from inlay.cost.trace import Trace
from inlay.models.fake_tensors import true_masks
from inlay.models.known_documents import knowing
from inlay.show.table import Column, Table

CONFIG = LlamaConfig(
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    tie_word_embeddings=True,
    max_position_embeddings=131072,
)
ATTENTION, FEED_FORWARD = ("q_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj")
_LORA = {"task_type": "CAUSAL_LM"}
PUBLISHED: dict[
    str, tuple[inlay.Method, peft.PeftConfig, float]
] = {  # their name: our method, theirs, their peak in GiB
    "lora/rank32": (
        inlay.LoRA(rank=32, targets=ATTENTION),
        peft.LoraConfig(r=32, lora_alpha=64, **_LORA),
        20.76,
    ),
    "lora/rank64": (
        inlay.LoRA(rank=64, targets=ATTENTION),
        peft.LoraConfig(r=64, lora_alpha=128, **_LORA),
        21.00,
    ),
    "lora/rank10-target-mlp": (
        inlay.LoRA(rank=10, targets=FEED_FORWARD),
        peft.LoraConfig(r=10, lora_alpha=20, target_modules=list(FEED_FORWARD), **_LORA),
        23.00,
    ),
    "lora/rank32-dora": (
        inlay.DoRA(rank=32, targets=ATTENTION),
        peft.LoraConfig(r=32, lora_alpha=64, use_dora=True, **_LORA),
        22.85,
    ),
    "adalora/rank32": (
        inlay.AdaLoRA(targets=ATTENTION),
        peft.AdaLoraConfig(init_r=64, target_r=32, tinit=200, tfinal=500, total_step=5000),
        21.22,
    ),
    "loha/rank32": (
        inlay.LoHa(rank=32, targets=ATTENTION),
        peft.LoHaConfig(r=32, alpha=64, target_modules=list(ATTENTION)),
        22.27,
    ),
    "vera/default": (inlay.VeRA(targets=ATTENTION), peft.VeraConfig(r=256), 20.14),
    "oft/rank32": (
        inlay.OFT(targets=ATTENTION),
        peft.OFTConfig(r=32, oft_block_size=0, target_modules=list(ATTENTION)),
        20.80,
    ),
    "prompt_tuning/lr_0.001": (
        inlay.PromptTuning(tokens=200),
        peft.PromptTuningConfig(num_virtual_tokens=200, task_type="CAUSAL_LM"),
        22.72,
    ),
    "prefixtuning/lr_0.005_zero_init": (
        inlay.PrefixTuning(tokens=200),
        peft.PrefixTuningConfig(num_virtual_tokens=200, task_type="CAUSAL_LM"),
        20.45,
    ),
}
LONGEST, SHORT = 768, 96  # tokens of the longest row of two batches
SHORTER = (0, 4, 8, 12)  # tokens by which the rows of a batch are; what counts is the first
WORKSPACE = 8_519_680  # bytes


@dataclass(frozen=True)
class TheirLoss:
    """The loss as transformers computes it, from all logits."""

    begins_least = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with _knowing([LONGEST - n for n in SHORTER]):
            return model(**batch, use_cache=False).loss

    def weight(self, batch: Batch) -> int:
        return 1

    def is_better(self, scores: object, than: object) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=LONGEST)
    longest = parser.parse_args().longest
    rows = []
    for name, (method, config, published) in PUBLISHED.items():
        near, far = (follow(method, blocks) for blocks in (2, 3))
        ours = near.further(far, CONFIG.num_hidden_layers - 2).peak / 2**30
        theirs = reserved(config, longest) / 2**30
        rows.append([name, f"{published:.2f}", f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / published - 1:+.1%}"])
        print(*rows[-1], file=sys.stderr, flush=True)
    names = ("run", "published, GiB", f"Inlay's tensors at {LONGEST}", "PEFT's, reserved", "difference")
    columns = [Column(name=n, right=bool(i)) for i, n in enumerate(names)]
    print("# Published peaks\n\n" + (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2])
    print(Table(columns=columns, rows=rows).markdown())


def reserved(config: peft.PeftConfig, longest_row: int = LONGEST) -> int:
    """Return the most that CUDA reserves in a step on the longest batch, after one on a short batch."""
    with torch.device("meta"):
        base = LlamaForCausalLM._from_config(CONFIG, dtype=torch.bfloat16)
        model: Any = peft.get_peft_model(base, config)
    model.train()
    trace, emptied = Trace(512), 0
    with FakeTensorMode(), true_masks():
        give_storage(model)
        numbers = getattr(model, "prompt_tokens", {})  # of a prompt's embeddings, which are no buffer of theirs
        numbers |= {name: torch.zeros(each.shape, dtype=each.dtype) for name, each in numbers.items()}
        trace.storages.name((*model.parameters(), *model.buffers()), "weights")
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer = AdamW(parameters, lr=0.0, foreach=True)
        optimizer.step()
        trace.storages.name((t for state in optimizer.state.values() for t in state.values()), "optimizer")
        outputs = None
        for longest in (SHORT, longest_row):
            lengths = [longest - n for n in SHORTER]
            ids_BT = torch.zeros(len(lengths), lengths[0], dtype=torch.long)
            batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT.clone()}
            with trace, _knowing(lengths), patch.object(torch, "rand", return_value=1.0):  # a draw, whether to drop
                optimizer.zero_grad()
                outputs = model(**batch, num_items_in_batch=sum(lengths))  # the last one's are there until then
                outputs.loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
            emptied = emptied or len(trace.storages.changes)
    device, places = CachingAllocator(), dict[int, int]()
    device.allocate(WORKSPACE)
    for at, (number, size) in enumerate(trace.storages.changes):
        if at == emptied:
            device.empty()
        if size > 0:
            places[number] = device.allocate(size)
        elif number in places:
            device.free(places.pop(number))
    return device.peak


@contextmanager
def _knowing(lengths: Sequence[int]) -> Iterator[None]:
    """Let masks be those of rows of these lengths."""
    with knowing(tuple((n, lengths[0] - n) if n < lengths[0] else (n,) for n in lengths)):
        yield


def follow(method: inlay.Method, blocks: int) -> StepCost:
    config = shallow(CONFIG, blocks)

    def empty() -> nn.Module:
        with torch.device("meta"):
            return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)

    adapter = empty_adapter(empty, method, torch.bfloat16, part=None, packed=False)
    with FakeTensorMode(), true_masks():
        give_storage(adapter.model)
        ids_BT = torch.zeros(len(SHORTER), LONGEST, dtype=torch.long)
        batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT.clone()}
        return follow_step(adapter, TheirLoss(), [batch], 1, 1.0, block=512)


if __name__ == "__main__":
    main()
