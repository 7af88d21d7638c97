"""A method in a file of your own: HRA, W H with H a chain of Householder reflections.

https://arxiv.org/abs/2405.17484

`fold` is all it defines; attaching, switching, merging and saving come with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.models import weights
from inlay.models.sites import Sites


@dataclass(frozen=True, kw_only=True)
class HRA(inlay.Method):
    name, family, paper = "hra", "reparameterized", "https://arxiv.org/abs/2405.17484"
    summary = "directions along which each weight's input is reflected"
    learning_rate = 1e-3
    peft_type = "MY_HRA"

    reflections: int = 4  # even, so that equal neighbours cancel and H starts as the identity

    def place(self, sites: Sites) -> Iterator[tuple[str, inlay.Delta]]:
        for name in sites.find(("attention",)):
            yield name, Reflections(sites.model.get_submodule(name), self.reflections)


class Reflections(inlay.WeightDelta):
    def __init__(self, host: nn.Module, count: int):
        super().__init__()
        half_IR = torch.randn(weights.size(host)[1], count // 2, device=weights.device(host))
        self.hra_u = nn.Parameter(half_IR.repeat_interleave(2, dim=1))

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        w_OI = params["weight"].to(self.hra_u.dtype)  # the host's may be bfloat16
        for u_I in (self.hra_u / self.hra_u.norm(dim=0)).T:
            w_OI = w_OI - 2 * torch.outer(w_OI @ u_I, u_I)
        return {"weight": w_OI}


if __name__ == "__main__":
    config = transformers.LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=200)
    model = transformers.AutoModelForCausalLM.from_config(config)
    ids = torch.randint(200, (4, 16))
    adapter = inlay.attach(model, HRA())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=3e-2)
    for step in range(30):
        loss = model(input_ids=ids, labels=ids).loss
        if step % 10 == 0:
            print(f"step {step:2d}  loss {loss.item():.3f}")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned = model(input_ids=ids).logits
    adapter.merge()
    print(f"merged, the logits differ by at most {(model(input_ids=ids).logits - tuned).abs().max().item():.1e}")
