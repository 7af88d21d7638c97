"""A prompt that a network computes: two or three layers, with or without a bidirectional LSTM before them.

The network's work is in float32, whatever the model computes in: it is P rows for a whole batch.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ...models.weights import Host
from .soft_prompt import SoftPrompt


class EncodedPrompt(SoftPrompt):
    """The layers' widths are `widths`; the LSTM's results, or its inputs if there is none, have the first."""

    def __init__(self, input_PD: Tensor, widths: tuple[int, ...], lstm: "BidirectionalLSTM | None", keep: bool):
        super().__init__(len(input_PD), keep)
        self.encoder_input = nn.Parameter(input_PD)
        self.encoder_lstm = lstm
        layers: list[nn.Module] = []
        for size, following in pairwise(widths):
            layers += [nn.Linear(size, following, device=input_PD.device, dtype=torch.float32), nn.ReLU()]
        self.encoder_layers = nn.Sequential(*layers[:-1])

    def prompt(self) -> Tensor:
        return self._encoded(self.training)

    def computed(self, host: Host) -> dict[str, Tensor]:
        return {"prompt_embeddings": self._encoded(dropout=False)}

    def _encoded(self, dropout: bool) -> Tensor:
        x_PD = self.encoder_input
        return self.encoder_layers(x_PD if self.encoder_lstm is None else self.encoder_lstm.run(x_PD, dropout))


class BidirectionalLSTM(nn.Module):
    """An nn.LSTM's parameters, without the module: torch.compile breaks its graph at those."""

    def __init__(self, width: int, hidden_size: int, layers: int, dropout: float, device: torch.device):
        super().__init__()
        self.layers, self.dropout, self.hidden_size = layers, dropout, hidden_size
        module = nn.LSTM(width, hidden_size, layers, bidirectional=True, device=device, dtype=torch.float32)
        for name, p in module.named_parameters():
            self.register_parameter(name, p)

    def run(self, x_PD: Tensor, dropout: bool) -> Tensor:
        zero = x_PD.new_zeros(2 * self.layers, 1, self.hidden_size)
        weights: list[Tensor] = list(self.parameters())
        y_1PH, _, _ = torch.lstm(
            x_PD[None],
            (zero, zero),
            weights,
            has_biases=True,
            num_layers=self.layers,
            dropout=self.dropout,
            train=dropout,
            bidirectional=True,
            batch_first=True,
        )
        return y_1PH[0]
