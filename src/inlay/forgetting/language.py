"""Forgetting of a language model: the change of its loss on general text, and how far its outputs have moved.

    value = mean over tokens of -log p_tuned(token | those before) minus the same of the base     nats per token
    kl    = mean over positions of sum over the vocabulary of p_base (log p_base - log p_tuned)   nats per token

Passages go through the model as the tokenizer gives them, without a chat template. The base is gone once `full` trains,
so that what the KL needs of it is kept from before, for every method alike: all log-probabilities at some positions of
each passage, the same number in each and evenly spread.

Shape suffixes: B passages of a batch, T tokens, V vocabulary, K positions kept of a passage, N passages.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.batch import to_device
from ..batches.chunked_loss import logits_of_rows
from ..batches.evaluated import by_length, of_batches, of_rows
from ..batches.packing import padded
from ..data.tokens import TokenRow
from ..models.tokenizer import Tokenizer
from ..show.forgetting import LossChange
from ..stats import ratio
from .passages import GeneralText
from .sample import first_within

_ROWS = 16  # of a batch
_KEPT = 2**23  # log-probabilities of the base, in float32
_FEWEST = 12  # passages: one of each domain of builtin:passages, however short the run is
_FEWEST_POSITIONS = 2  # of a passage, however large the vocabulary is


class LanguageBaseline:
    """A base's losses and predictions on the first passages, as many as have `tokens` together."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, text: GeneralText, tokens: int):
        rows = general_rows(tokenizer, [p.text for p in text.measured], text.max_length)
        self.rows = rows[: first_within([len(row["input_ids"]) for row in rows], tokens, _FEWEST)]
        self.positions = 0  # of a passage, known with the size of the vocabulary
        self.kept: dict[int, Tensor] = {}  # (K, V) by passage, of those that this process measures
        self.counts_N = torch.tensor([len(row["input_ids"]) - 1 for row in self.rows], dtype=torch.float64)
        self.losses_N, self.positions_N = self._measured(model, self._keep)

    def compare(self, model: nn.Module) -> LossChange:
        """Measure how far the tuned model is from the base, for summary.json."""
        losses_N, divergences_N = self._measured(model, self._divergence)
        base_loss, _ = ratio(self.losses_N, self.counts_N)
        tuned_loss, _ = ratio(losses_N, self.counts_N)
        value, interval = ratio(losses_N - self.losses_N, self.counts_N)
        kl, kl_interval = ratio(divergences_N * self.counts_N, self.counts_N)
        return {
            "measure": "loss",
            "value": value,
            "interval": list(interval),
            "passages": len(self.rows),
            "tokens": int(self.counts_N.sum()),
            "base_loss": base_loss,
            "tuned_loss": tuned_loss,
            "kl": kl,
            "kl_interval": list(kl_interval),
            "kl_positions": int(self.positions_N.sum()),
        }

    def _measured(self, model: nn.Module, measure: Callable[[int, Tensor], float]) -> tuple[Tensor, Tensor]:
        """Return the summed loss of each passage, and what `measure` gives for its number and the log-probabilities
        (T - 1, V) of its next tokens.

        The same processes get the same passages each time, so that what one keeps of the base is where it is needed.
        """
        model.eval()
        device = next(model.parameters()).device

        def of_batch(chosen: list[int]) -> list[tuple[float, float]]:
            batch, found = to_device(padded([self.rows[i] for i in chosen]), device), []
            for i, logits_TV in zip(chosen, logits_of_rows(model, batch), strict=True):
                log_TV = logits_TV[: len(self.rows[i]["input_ids"]) - 1].log_softmax(dim=-1)
                target_T = torch.tensor(self.rows[i]["input_ids"][1:], device=device)
                found.append((F.nll_loss(log_TV, target_T, reduction="sum").item(), measure(i, log_TV)))
            return found

        batches = by_length([len(row["input_ids"]) for row in self.rows], _ROWS)
        found = of_batches(model, batches, of_batch, what="reading passages")
        losses, measured = zip(*of_rows(batches, found), strict=True)
        return torch.tensor(losses, dtype=torch.float64), torch.tensor(measured, dtype=torch.float64)

    def _keep(self, i: int, log_TV: Tensor) -> int:
        """Keep the passage's log-probabilities at some positions; returns how many."""
        self.kept[i] = log_TV[self._spread(log_TV)].to("cpu", torch.float32)
        return len(self.kept[i])

    def _divergence(self, i: int, log_TV: Tensor) -> float:
        """Return the mean KL from the base at the positions that are kept."""
        base_KV, tuned_KV = self.kept[i].to(log_TV.device), log_TV[self._spread(log_TV)].float()
        return F.kl_div(tuned_KV, base_KV, reduction="batchmean", log_target=True).item()

    def _spread(self, log_TV: Tensor) -> Tensor:
        """Choose the positions of the passage that are kept, (K,)."""
        self.positions = self.positions or max(_FEWEST_POSITIONS, _KEPT // (log_TV.shape[1] * len(self.rows)))
        length = len(log_TV)
        count = min(self.positions, length)
        return ((torch.arange(count, device=log_TV.device) + 0.5) * length / count).long()


def general_rows(tokenizer: Tokenizer, texts: list[str], max_length: int) -> list[TokenRow]:
    """Return texts as tokens that are all trained or measured, but for the first, which nothing predicts."""
    encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": ids, "trained": [True] * len(ids)} for ids in encoded]
