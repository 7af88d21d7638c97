"""A text as one vector."""

from typing import Any

from torch import Tensor, nn

from .batch import Batch


def sentence_states(model: nn.Module, batch: Batch) -> Tensor:
    """Return (rows, width) in float32: the mean of the model's last hidden states over each text's own positions."""
    return mean_state(model(**batch, output_hidden_states=True), batch["attention_mask"])


def mean_state(output: Any, mask_BT: Tensor) -> Tensor:
    """Return the same from what the model gave, if it was asked for its hidden states."""
    states = getattr(output, "hidden_states", None)
    h_BTD = (output.decoder_hidden_states if states is None else states)[-1].float()
    mask_BT1 = mask_BT[:, :, None].to(h_BTD.dtype)
    return (h_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
