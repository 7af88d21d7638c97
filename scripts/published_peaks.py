"""Plan the runs whose peaks Hugging Face PEFT publishes, and compare: Llama 3.2 3B on one NVIDIA L40S.

python scripts/published_peaks.py

The settings are those of method_comparison/MetaMathQA in PEFT's repository (July 2026): a base in bfloat16, adapters in
float32, no recomputation, batches of 4 rows of at most 768 tokens, transformers' own loss. Nothing is fitted. It
is assumed that some batch has a row of 768 tokens and a shorter one, so that there is a mask; that CUDA hands memory
out in blocks of 512 bytes; and that its kernels of attention keep what the CPU's keep. Their figure is PyTorch's peak
of reserved memory, as they are multiples of 2 MiB; ours is that of the tensors alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

import inlay
from inlay.batches.batch import Batch
from inlay.cost.depth import shallow
from inlay.cost.fake_model import empty_adapter, give_storage
from inlay.cost.step import StepCost, follow_step
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
PUBLISHED = {  # their name: our method, and their peak in GiB
    "lora/rank32": (inlay.LoRA(rank=32, targets=ATTENTION), 20.76),
    "lora/rank64": (inlay.LoRA(rank=64, targets=ATTENTION), 21.00),
    "lora/rank10-target-mlp": (inlay.LoRA(rank=10, targets=FEED_FORWARD), 23.00),
    "lora/rank32-dora": (inlay.DoRA(rank=32, targets=ATTENTION), 22.85),
    "adalora/rank32": (inlay.AdaLoRA(targets=ATTENTION), 21.22),
    "loha/rank32": (inlay.LoHa(rank=32, targets=ATTENTION), 22.27),
    "vera/default": (inlay.VeRA(targets=ATTENTION), 20.14),
    "oft/rank32": (inlay.OFT(targets=ATTENTION), 20.80),
    "prompt_tuning/lr_0.001": (inlay.PromptTuning(tokens=200), 22.72),
    "prefixtuning/lr_0.005_zero_init": (inlay.PrefixTuning(tokens=200), 20.45),
}
LENGTHS = (768, 512, 384, 256)


@dataclass(frozen=True)
class TheirLoss:
    """The loss as transformers computes it, from all logits."""

    begins_least = False

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with knowing(tuple((n, LENGTHS[0] - n) if n < LENGTHS[0] else (n,) for n in LENGTHS)):
            return model(**batch, use_cache=False).loss

    def weight(self, batch: Batch) -> int:
        return 1

    def is_better(self, scores: object, than: object) -> bool:
        return False


def main() -> None:
    rows = []
    for name, (method, theirs) in PUBLISHED.items():
        near, far = (follow(method, blocks) for blocks in (2, 3))
        ours = near.further(far, CONFIG.num_hidden_layers - 2).peak / 2**30
        rows.append([name, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs - 1:+.1%}"])
    columns = [Column(name=n, right=bool(i)) for i, n in enumerate(("run", "published, GiB", "planned", "difference"))]
    print("# Published peaks\n\n" + (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2])
    print(Table(columns=columns, rows=rows).markdown())


def follow(method: inlay.Method, blocks: int) -> StepCost:
    config = shallow(CONFIG, blocks)

    def empty() -> nn.Module:
        with torch.device("meta"):
            return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)

    adapter = empty_adapter(empty, method, torch.bfloat16, part=None, packed=False)
    with FakeTensorMode(), true_masks():
        give_storage(adapter.model)
        ids_BT = torch.zeros(len(LENGTHS), LENGTHS[0], dtype=torch.long)
        batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT.clone()}
        return follow_step(adapter, TheirLoss(), [batch], 1, 1.0, block=512)


if __name__ == "__main__":
    main()
