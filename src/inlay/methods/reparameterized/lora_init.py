"""Where the factors of LoRA start, from the weight W (O, I) of a linear host: A (R, I) and B (O, R).

kaiming      A is U(-1/sqrt(I), 1/sqrt(I)), B zero
gaussian     A is normal with deviation 1/R, B zero
orthogonal   A and B are normal in orthogonal halves of the rank's space: neither is zero, but B A is
pissa        s B A is the best approximation of W of rank R   https://arxiv.org/abs/2404.02948
olora        B and A are the first columns of Q and rows of R in W = Q R   https://arxiv.org/abs/2406.01775
eva          as kaiming, until data is seen: see eva.py
loftq        as kaiming, until the weights before quantization are read: see loftq.py

The published forms of pissa and olora take the start out of the base, W - s B0 A0. Here the base keeps its bits and the
adapter takes its own start away: W + s (B A - B0 A0), which is W exactly as long as nothing is trained.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from ...errors import SettingsError, TargetError
from ...models import experts, weights
from ...models.weights import Host
from ...singular import top_singular

Initialization = Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"]
TAKEN_AWAY = ("pissa", "olora")  # s B0 A0 is not zero


def check_settings(initialization: str, ranks: Iterable[int], alphas: Iterable[float]) -> None:
    """Raises SettingsError unless these ranks and alphas can have such a start."""
    for rank in ranks:
        if initialization == "orthogonal" and rank % 2:
            raise SettingsError(f"method.rank is {rank}; the orthogonal initialization needs an even one")
    for alpha in alphas:
        if initialization in ("pissa", "loftq") and alpha <= 0:
            raise SettingsError(f"method.alpha is {alpha}; {initialization} needs it above 0")


def check_host(initialization: Initialization, name: str, host: Host, rank: int) -> None:
    """Raises TargetError if the host called `name` cannot start so."""
    if initialization == "kaiming":
        return
    if experts.matrices(host):
        if initialization in ("gaussian", "orthogonal"):
            return
        raise TargetError(
            f"method.initialization is {initialization}, which experts that share one parameter cannot have, such as "
            f"{name}; choose kaiming, gaussian or orthogonal, or targets without them, such as attention"
        )
    if not weights.is_linear(host):
        raise TargetError(
            f"method.initialization is {initialization}, which only linear layers can have; "
            f"{name} is a {type(host).__name__}"
        )
    if initialization in ("pissa", "olora", "eva", "loftq") and rank > min(weights.size(host)):
        raise TargetError(
            f"method.rank is {rank}, and {initialization} cannot find as many directions in the "
            f"{' x '.join(map(str, weights.size(host)))} weight of {name}; lower it, if only in method.rank_pattern"
        )


@torch.no_grad()
def start(initialization: Initialization, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A and B in float32, on the host's device; the host is only read."""
    device = weights.device(host)
    out_features, in_features = weights.size(host)
    if initialization in TAKEN_AWAY and device.type != "meta":
        weight_OI = weights.read(host)["weight"].float()
        return pissa(weight_OI, rank, scale) if initialization == "pissa" else olora(weight_OI, rank)
    if initialization == "orthogonal":
        return orthogonal(in_features, out_features, rank, device)
    a_RI = _random(initialization, torch.empty(rank, in_features, device=device))
    return a_RI, torch.zeros(out_features, rank, device=device)


@torch.no_grad()
def start_of_stack(
    initialization: Initialization, count: int, out_features: int, in_features: int, rank: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A (N, R, I) and B (N, O, R) of `count` weights, for a start that does not look at them."""
    if initialization == "orthogonal":
        pairs = [orthogonal(in_features, out_features, rank, device) for _ in range(count)]
        return torch.stack([a_RI for a_RI, _ in pairs]), torch.stack([b_OR for _, b_OR in pairs])
    a_NRI = _random(initialization, torch.empty(count, rank, in_features, device=device))
    return a_NRI, torch.zeros(count, out_features, rank, device=device)


def _random(initialization: Initialization, a: Tensor) -> Tensor:
    """Fill A, or several; its last two dimensions are R and I."""
    rank, in_features = a.shape[-2:]
    if initialization == "gaussian":
        return a.normal_(std=1 / rank)
    return a.uniform_(-1 / math.sqrt(in_features), 1 / math.sqrt(in_features))


def pissa(weight_OI: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    u_OR, values_R, v_RI = top_singular(weight_OI, rank)
    root_R = (values_R / scale).sqrt()
    return root_R[:, None] * v_RI, u_OR * root_R


@torch.no_grad()
def whole_start(initialization: Initialization, host: Host, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Do what `start` does for pissa and olora, from the weight's whole decomposition: its product is exact, which the
    product of an approximate one is only as far as the values that it settles on are apart."""
    weight_OI = weights.read(host)["weight"].float()
    if initialization == "olora":
        return olora(weight_OI, rank)
    u, values, v = torch.linalg.svd(weight_OI, full_matrices=False)
    root_R = (values[:rank] / scale).sqrt()
    return root_R[:, None] * v[:rank], u[:, :rank] * root_R


def olora(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first R columns of Q depend on the first R columns of W alone, and the rows of R are Q' W."""
    q_OR = torch.linalg.qr(weight_OI[:, :rank]).Q
    return q_OR.T @ weight_OI, q_OR.contiguous()


def orthogonal(in_features: int, out_features: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
    q_RR = torch.linalg.qr(torch.randn(rank, rank, device=device)).Q
    a_RI = q_RR[0::2].T @ torch.randn(rank // 2, in_features, device=device) / 10
    b_OR = torch.randn(out_features, rank // 2, device=device) @ q_RR[1::2] / 10
    return a_RI, b_OR
