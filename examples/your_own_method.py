"""A method in a file of your own: HRA, W H with H a chain of Householder reflections.

https://arxiv.org/abs/2405.17484

`fold` is all it defines; attaching, switching, merging and saving come with it. In the folder of this file

    inlay train MODEL DATA --method your_own_method:HRA --method.reflections 8

trains it, and `inlay.testing.check_method(HRA)` holds it to the contract of Inlay's own methods.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import transformers
from torch import Tensor, nn

import inlay
from inlay.models import weights
from inlay.models.sites import Sites
from inlay.ranges import Range


@dataclass(frozen=True, kw_only=True)
class HRA(inlay.Method):
    """Reflects each weight's input along a few trained directions.

             ╔════╗     ╔════╗    ┌───────┐
        x ──▶║ u1 ║ ... ║ uR ║───▶│ W O×I │──▶ y
             ╚════╝     ╚════╝    └───────┘

        W' = W H        H = (I - 2 u1 u1^T) ... (I - 2 uR uR^T), each u of length 1

    When: As oft, whose rotations are made of the same reflections, where an adapter should be small.

    Cost: A product of the weight with each direction, for every step. Merged, it costs nothing at inference.
    """

    name, family, paper = "hra", "reparameterized", "https://arxiv.org/abs/2405.17484"
    summary = "directions along which each weight's input is reflected"
    learning_rate = 1e-3
    format = inlay.PeftFormat(peft_type="MY_HRA")

    reflections: Annotated[int, Range(2, 1_000)] = 4
    """Directions; an even number, so that equal neighbours cancel and H starts as the identity."""

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
