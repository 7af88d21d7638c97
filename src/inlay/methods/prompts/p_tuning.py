"""P-tuning.   https://arxiv.org/abs/2103.10385

The paper has the LSTM. The prompt comes before the text, as in Hugging Face PEFT; the paper's templates put it between
its parts. The network has no use but to compute P, so other programs read P alone, which is prompt tuning's.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ...core.method import Method, Rates
from ...errors import CheckpointError
from ...formats.peft_config import PeftConfig
from ...models import weights
from ...models.sites import Sites
from ...ranges import COUNT, SHARE, Range
from .encoded_prompt import BidirectionalLSTM, EncodedPrompt
from .input_prompt import KNOWN, InputPrompt, PromptFormat
from .prompt import PromptTuning


class PTuningFormat(PromptFormat["PTuning"]):
    def config(self, method: "PTuning", sites: Sites, hosts: list[str]) -> dict[str, object]:
        return super().config(method, sites, hosts) | {
            "encoder_reparameterization_type": method.encoder.upper(),
            "encoder_hidden_size": method.hidden_size,
            "encoder_num_layers": method.layers,
            "encoder_dropout": method.dropout,
        }

    def settings(self, config: PeftConfig) -> dict[str, object]:
        encoders = {"MLP": "mlp", "LSTM": "lstm"}
        kind = config.get("encoder_reparameterization_type", "MLP")
        if kind not in encoders:
            raise CheckpointError(
                f"adapter_config.json: encoder_reparameterization_type is {kind!r}; MLP and LSTM are known"
            )
        return {
            "encoder": encoders[kind],
            "hidden_size": config.get("encoder_hidden_size"),
            "layers": config.get("encoder_num_layers", 2),
            "dropout": config.get("encoder_dropout", 0.0),
        }

    def of_tensors(self, method: "PTuning", tensors: dict[str, Tensor]) -> Method:
        # PEFT keeps the result alone, which is a prompt like any other.
        if any("encoder_" in key for key in tensors):
            return method
        return PromptTuning(tokens=method.tokens, first_position=method.first_position)


@dataclass(frozen=True, kw_only=True)
class PTuning(InputPrompt):
    """Puts vectors before every input that a small network computes; the network is what is trained.

        ╔═══════╗   ╔═════════╗   ┌────┐     ┌────┐┌────┐     ┌────┐
        ║ E P×D ║──▶║ network ║──▶│ p1 │ ... │ pP ││ e1 │ ... │ eT │
        ╚═══════╝   ╚═════════╝   └─┬──┘     └─┬──┘└─┬──┘     └─┬──┘
                                  ┌─┴──────────┴─────┴──────────┴──┐
                                  │      transformer, frozen       │
                                  └────────────────────────────────┘

        mlp   P = W3 relu(W2 relu(W1 E + b1) + b2) + b3        widths D, H, H, D
        lstm  P = W2 relu(W1 biLSTM(E) + b1) + b2              widths D, 2H, 2H, D

    When: As prompt tuning, where that is slow or unsteady: one network computes all the vectors, so that they need not
    find their way one by one. Not on small models, where prefix or lora do better.

    Cost: The network is far larger than the prompt and needs an optimizer's memory, but it has no part in inference:
    then only the prompt is left, by which every sequence is longer. It cannot be merged.
    """

    name, paper = "p-tuning", "https://arxiv.org/abs/2103.10385"
    summary = "a small network whose results are embeddings that come before every input"
    learning_rate = Rates(reading=3e-2, writing=5e-3, warmup_steps=20)
    format = PTuningFormat(
        peft_type="P_TUNING",
        known=KNOWN
        | {*("encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout")},
    )

    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network: three layers for each embedding alone, or a bidirectional LSTM over all of them and two layers."""
    hidden_size: Annotated[int | None, COUNT] = None
    """Width of its hidden layers, or of each direction of the LSTM; by default the width of the model's embeddings."""
    layers: Annotated[int, Range(1, 100)] = 2
    """Number of layers of the LSTM."""
    dropout: Annotated[float, SHARE] = 0.0
    """Probability with which a value between the LSTM's layers is dropped in training."""

    def prompt(self, sites: Sites, embedding: nn.Embedding, keep: bool) -> EncodedPrompt:
        width, device = embedding.weight.shape[1], weights.device(embedding)
        hidden = self.hidden_size or width
        input_PD = torch.randn(self.tokens, width, device=device)
        if self.encoder == "mlp":
            return EncodedPrompt(input_PD, (width, hidden, hidden, width), None, keep)
        lstm = BidirectionalLSTM(width, hidden, self.layers, self.dropout, device)
        return EncodedPrompt(input_PD, (2 * hidden, 2 * hidden, width), lstm, keep)
