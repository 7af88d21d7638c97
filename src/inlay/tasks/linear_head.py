"""A new head's start: what a linear classifier learns from the base's features, before any step is taken.

A head that begins at random has to be learned while it decides how the features change: the first steps move them for
nothing, and where there are many labels and few steps they do little else (Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", arXiv:2202.10054). So the features of some rows are computed
once, and the head that suits them is found with a penalty on its weights, which held-out rows choose.

Shape suffixes: N rows, T tokens, F features, L labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.batch import Batch
from ..batches.evaluated import of_texts
from ..models.tokenizer import Tokenizer
from ..under_way import in_parts

MOST_ROWS = 2_000
"""Rows whose features are computed: a pass forward each, a small part of a run that is longer."""
FEWEST_ROWS = 20
"""Rows with fewer of which nothing is chosen."""
_FOLDS = 5  # each is judged by a classifier of the others
_PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_ITERATIONS = 50  # of L-BFGS at each penalty, which goes on from the one before
_MOVED = 0.01
"""How far training may move the features, of their length, without undoing the classifier. Features that hardly differ
between rows can be told apart by large weights, but the first steps move them by more than they differ."""


@dataclass(frozen=True)
class Linear:
    """A linear classifier."""

    weight_LF: Tensor
    bias_L: Tensor

    def losses(self, x_NF: Tensor, labels_N: Tensor, moved: float = 0.0) -> Tensor:
        """Return each row's loss after its features have moved by this share of their length, against its label."""
        logits_NL = x_NF @ self.weight_LF.T + self.bias_L
        if moved:
            apart_LL = torch.cdist(self.weight_LF, self.weight_LF)
            logits_NL = logits_NL + moved * x_NF.norm(dim=1, keepdim=True) * apart_LL[labels_N]
        return F.cross_entropy(logits_NL, labels_N, reduction="none")


@dataclass(frozen=True)
class FittedHead:
    """A linear classifier, and what it is worth."""

    head: Linear
    rows: int
    loss: float
    """On the rows that chose the penalty, of the classifier that had not seen them."""
    loss_of_shares: float
    """There, of the labels' shares alone."""


def features(
    model: nn.Module, head: nn.Module, tokenizer: Tokenizer, rows: Sequence[Mapping[str, list[int]]], step: int
) -> Tensor | None:
    """Return (N, F), in float32 on the CPU: what the linear layer `head` is given where its results are the model's
    logits. None if they are not these anywhere. Leaves the model in evaluation mode.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def of_batch(batch: Batch) -> Tensor:
        seen.clear()
        logits_NL = model(**batch).logits
        unknown = torch.full((len(logits_NL), 1), torch.nan)
        if len(seen) != 1:
            return unknown
        given_NTF, results_NTL = (t if t.ndim == 3 else t[:, None] for t in seen[0])
        if results_NTL.shape[::2] != logits_NL.shape:
            return unknown
        same_NT = (results_NTL == logits_NL[:, None]).all(-1)
        x_NF = given_NTF[torch.arange(len(given_NTF), device=given_NTF.device), same_NT.int().argmax(1)].float()
        return torch.where(same_NT.any(1)[:, None], x_NF, torch.nan)

    def see(_: nn.Module, given: tuple[Tensor, ...], results: Tensor) -> None:
        seen.extend((x, results) for x in given)

    hook = head.register_forward_hook(see)
    try:
        x_NF = of_texts(model, tokenizer, rows, of_batch, step, what="reading rows for the new head")
    finally:
        hook.remove()
    return x_NF if bool(x_NF.isfinite().all()) else None


def fitted(
    x_NF: Tensor, labels_N: Tensor, weight_LF: Tensor, shares_L: Tensor, *, with_bias: bool
) -> FittedHead | None:
    """Fit a linear classifier that goes from these weights no further than pays, and from biases at the labels' shares;
    None if it does not tell more than these do, by more than its standard error.
    """
    x_NF, weight_LF, bias_L = x_NF.double().clone(), weight_LF.double(), shares_L.double().log()
    start = Linear(weight_LF, bias_L if with_bias else torch.zeros_like(bias_L))
    path = partial(_path, start=start, with_bias=with_bias)
    losses = x_NF.new_empty(len(_PENALTIES), len(x_NF))
    unmoved = torch.empty_like(losses)

    def judge_on(held_N: Tensor) -> None:
        seen_N = torch.ones(len(x_NF), dtype=torch.bool).index_fill(0, held_N, False)
        for i, head in enumerate(path(x_NF[seen_N], labels_N[seen_N], _PENALTIES)):
            losses[i, held_N] = head.losses(x_NF[held_N], labels_N[held_N], _MOVED)
            unmoved[i, held_N] = head.losses(x_NF[held_N], labels_N[held_N])

    order_N = torch.randperm(len(x_NF), generator=torch.Generator().manual_seed(0))
    judge_on = in_parts("fitting the new head", _FOLDS, judge_on)
    for held_N in order_N.tensor_split(_FOLDS):
        judge_on(held_N)
    best_N = losses[losses.mean(1).argmin()]
    chosen = int((losses.mean(1) <= best_N.mean() + _standard_error(best_N)).int().argmax())
    by_shares_N = -bias_L[labels_N]
    gain_N = by_shares_N - losses[chosen]
    if gain_N.mean() <= _standard_error(gain_N):
        return None
    (head,) = path(x_NF, labels_N, _PENALTIES[chosen : chosen + 1])
    return FittedHead(head, len(x_NF), float(unmoved[chosen].mean()), float(by_shares_N.mean()))


def _standard_error(of_N: Tensor) -> float:
    return float(of_N.std() / len(of_N) ** 0.5)


def _path(
    x_NF: Tensor, labels_N: Tensor, penalties: Sequence[float], *, start: Linear, with_bias: bool
) -> Iterator[Linear]:
    """Give for each penalty the classifier with the least loss and penalty, each found from the one before."""
    head = start
    for penalty in penalties:
        head = _least(head, x_NF, labels_N, penalty, start.weight_LF, with_bias)
        yield head


def _least(head: Linear, x_NF: Tensor, labels_N: Tensor, penalty: float, origin_LF: Tensor, with_bias: bool) -> Linear:
    """Go on from `head` to the classifier with the least loss and penalty on the weights' way from the origin."""
    weight_LF, bias_L = (t.clone().requires_grad_() for t in (head.weight_LF, head.bias_L))
    trained = [weight_LF, bias_L] if with_bias else [weight_LF]
    optimizer = torch.optim.LBFGS(trained, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def penalized() -> Tensor:
        optimizer.zero_grad()
        way = (weight_LF - origin_LF).square().sum()
        loss = Linear(weight_LF, bias_L).losses(x_NF, labels_N).mean() + penalty / 2 * way
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(penalized)  # pyright: ignore[reportArgumentType]  # it takes a tensor
    return Linear(weight_LF.detach(), bias_L.detach())
