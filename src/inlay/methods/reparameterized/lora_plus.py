"""LoRA+: B has a learning rate of its own, a multiple of A's.   https://arxiv.org/abs/2402.12354"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...attached.adapter import Adapter


def groups(adapter: "Adapter", learning_rate: float, ratio: float) -> list[dict[str, Any]]:
    """The optimizer's groups: every second factor, and all else, a head among it."""
    second = {
        id(p)
        for delta in adapter.deltas.values()
        for name, p in delta.named_parameters()
        if name.rpartition(".")[2] in ("lora_B", "lora_embedding_B")
    }
    parameters = list(adapter.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in second], "lr": learning_rate},
        {"params": [p for p in parameters if id(p) in second], "lr": learning_rate * ratio},
    ]
