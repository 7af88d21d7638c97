"""Attention that works through a batch text by text: no score between two texts, or to padding, is ever computed.

An attention implementation for transformers, under the name NAME. Its mask says where the texts are, instead of which
of all T² pairs may see each other, and travels to the layers as any mask does, so that gradient checkpointing finds it
again. A text begins where a token does not see the one before it: where positions start anew in a packed row, and where
padding begins or ends. What is no set of causal texts (generation with a cache, attention in both directions) is left
to sdpa, with the mask that it would have had; and so is what needs no gradients, whose every rounding is then that of a
model which was only loaded.

Shape suffixes: B batch, H heads, T tokens, K keys, C channels of a head, N texts, Q tokens of
one, P earlier keys.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .results import first

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "inlay_documents"

_SHORT = 256  # up to this length a CPU's backward pass takes two to four times as long in bfloat16 as in float32


@dataclass(frozen=True)
class Document:
    """A text in a row: its length, and what each of its tokens sees of it if that is less than all before."""

    length: int
    visible_QQ: Tensor | None


@dataclass(frozen=True)
class Documents:
    """A mask: the texts of each row of the batch. `earlier` keys come before those of the row and belong to each, as
    far as a `window` over them and the text's own reaches."""

    rows: tuple[tuple[Document, ...], ...]
    ends: Tensor  # of the texts, counted through all rows, with a 0 first
    earlier: int = 0
    window: int | None = None

    def widened(self, count: int, window: int | None = None) -> "Documents":
        return replace(self, earlier=self.earlier + count, window=window)


def attend_by_document(model: "PreTrainedModel") -> bool:
    """Tell whether the model can attend text by text, which it then does from now on, where it is.

    False, and nothing changed, if its attention is not transformers' sdpa, or sdpa with a mask is the best there is:
    on GPUs without PyTorch's kernel for texts of different lengths.
    """
    able = model.is_backend_compatible() and model.config._attn_implementation in ("sdpa", NAME)
    if not able or model.config.is_encoder_decoder or not _has_better_way(model.device, model.dtype):
        return False
    model.set_attn_implementation(NAME)
    return True


def find_documents(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Documents | Tensor | None:
    """Return the mask of NAME, made from what transformers makes one of: called as its `sdpa_mask` is."""
    head = torch.tensor(0, device=device)
    row_B1, token_T = torch.arange(batch_size, device=device)[:, None], torch.arange(q_length, device=device)
    own: dict[str, Any] = {"mask_function": mask_function, "attention_mask": attention_mask, "device": device}
    by_sdpa = partial(sdpa_mask, batch_size=batch_size, q_length=q_length, kv_length=kv_length, **own, **kwargs)
    whole = q_length == kv_length > 1 and torch.is_grad_enabled()  # nothing is in a cache
    known = not kwargs.get("use_vmap") and not torch.compiler.is_compiling()
    if not (whole and known and _is_one_run(attention_mask, kv_length)) or (
        mask_function(row_B1, head, token_T[:-1], token_T[1:]).any()  # sees what comes after it
    ):
        return by_sdpa()

    joined = mask_function(row_B1, head, token_T[1:], token_T[:-1]).expand(batch_size, -1)
    if attention_mask is not None:
        joined = joined & (attention_mask[:, 1:] == attention_mask[:, :-1])
    begins_BT = F.pad(~joined, (1, 0), value=True)
    row_N, start_N = begins_BT.nonzero().unbind(1)
    last_N = F.pad(begins_BT[:, 1:], (0, 1), value=True).nonzero()[:, 1]
    complete_N = mask_function(row_N, head, last_N, start_N)  # its last token sees the first, so each sees all before
    if len(row_N) == batch_size and complete_N.all():
        return by_sdpa()
    rows: list[list[Document]] = [[] for _ in range(batch_size)]
    for row, start, last, complete in torch.stack([row_N, start_N, last_N, complete_N], 1).tolist():
        inside = token_T[start : last + 1]
        visible_QQ = None if complete else mask_function(row_B1[row], head, inside[:, None], inside[None, :])
        rows[row].append(Document(last + 1 - start, visible_QQ))
    ends = F.pad((last_N + 1 - start_N).cumsum(0), (1, 0)).to(torch.int32)
    return Documents(tuple(map(tuple, rows)), ends)


def attend(
    module: nn.Module,
    query_BHTC: Tensor,
    key_BHKC: Tensor,
    value_BHKC: Tensor,
    mask: Documents | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention of NAME: the result is (B, T, H, C)."""
    if not isinstance(mask, Documents):
        return sdpa_attention_forward(
            module, query_BHTC, key_BHKC, value_BHKC, mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if _fits_kernel(query_BHTC, mask, dropout):
        return _attend_at_once(query_BHTC, key_BHKC, value_BHKC, mask, scaling), None
    dtype, parts = query_BHTC.dtype, []
    for row, q_HTC, k_HKC, v_HKC in zip(mask.rows, query_BHTC, key_BHKC, value_BHKC, strict=True):
        lengths = [document.length for document in row]
        exact = torch.promote_types(dtype, torch.float32) if _is_faster_in_float32(q_HTC, lengths) else dtype
        q_N = q_HTC.to(exact).split(lengths, dim=1)
        (earlier_k_HPC, *k_N), (earlier_v_HPC, *v_N) = (
            x.to(exact).split([mask.earlier, *lengths], dim=1) for x in (k_HKC, v_HKC)
        )
        for document, q_HQC, k_HQC, v_HQC in zip(row, q_N, k_N, v_N, strict=True):
            if mask.earlier:
                k_HQC = torch.cat([earlier_k_HPC, k_HQC], dim=1)
                v_HQC = torch.cat([earlier_v_HPC, v_HQC], dim=1)
            parts.append(_attend_to_one(document, mask, q_HQC, k_HQC, v_HQC, dropout, scaling))
    return torch.cat(parts).to(dtype).view(len(query_BHTC), -1, *parts[0].shape[1:]), None


def earlier_in_window(visible_QK: Tensor, count: int, window: int) -> Tensor:
    """Return which of `count` keys right before a text each of its queries sees, (Q, P), as the window over all would
    have it.

    `visible_QK` tells how far into its text a query is: a window that is full of text has no place for earlier keys.
    """
    number_Q1 = visible_QK.sum(-1, keepdim=True)
    distance_QP = number_Q1 - 1 + count - torch.arange(count, device=visible_QK.device)
    return distance_QP < window


def _attend_to_one(
    document: Document,
    mask: Documents,
    q_HQC: Tensor,
    k_HKC: Tensor,
    v_HKC: Tensor,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Return the result for one text, (Q, H, C)."""
    seen = document.visible_QQ
    if mask.earlier:
        own_QQ = q_HQC.new_ones(document.length, document.length, dtype=torch.bool).tril() if seen is None else seen
        seen = F.pad(own_QQ, (mask.earlier, 0), value=True)
        if mask.window is not None:
            seen = torch.cat([earlier_in_window(own_QQ, mask.earlier, mask.window), own_QQ], dim=-1)
    result = F.scaled_dot_product_attention(
        q_HQC[None],
        k_HKC[None],
        v_HKC[None],
        attn_mask=seen,
        dropout_p=dropout,
        is_causal=seen is None,
        scale=scaling,
        enable_gqa=len(k_HKC) != len(q_HQC),
    )
    return result[0].transpose(0, 1)


def _is_faster_in_float32(q_HTC: Tensor, lengths: list[int]) -> bool:
    """Tell whether most of the row is in texts for which a CPU's backward pass is so slow in half precision."""
    short = sum(length for length in lengths if length <= _SHORT)
    return q_HTC.device.type == "cpu" and torch.is_grad_enabled() and 2 * short >= sum(lengths)


def _attend_at_once(
    query_BHTC: Tensor, key_BHTC: Tensor, value_BHTC: Tensor, mask: Documents, scaling: float | None
) -> Tensor:
    """Return all texts of the batch in one call of PyTorch's attention for sequences of different lengths."""
    longest = max(document.length for row in mask.rows for document in row)
    q_NHC, k_NHC, v_NHC = (x.transpose(1, 2).flatten(0, 1) for x in (query_BHTC, key_BHTC, value_BHTC))
    kernel = _kernel()
    assert kernel is not None
    result = kernel(
        q_NHC,
        k_NHC,
        v_NHC,
        mask.ends,
        mask.ends,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=k_NHC.shape[1] != q_NHC.shape[1],
    )
    return first(result).unflatten(0, (len(query_BHTC), -1))


def _fits_kernel(query_BHTC: Tensor, mask: Documents, dropout: float) -> bool:
    channels = query_BHTC.shape[-1]
    plain = mask.earlier == 0 and all(document.visible_QQ is None for row in mask.rows for document in row)
    return query_BHTC.device.type == "cuda" and plain and dropout == 0 and channels <= 256 and channels % 8 == 0


def _has_better_way(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether there is something better than sdpa with a mask: on a CPU always, on other devices one kernel."""
    if device.type != "cuda":
        return device.type == "cpu"
    half = dtype in (torch.bfloat16, torch.float16)
    return half and _kernel() is not None and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _kernel() -> Callable[..., Tensor | tuple[Tensor, Tensor]] | None:
    """Return PyTorch's attention for sequences of different lengths; None if this version has none with these
    arguments.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "enable_gqa", "scale"} <= known.keys() and torch.version.hip is None else None


def _is_one_run(attention_mask: Tensor | None, length: int) -> bool:
    """Tell whether each row's tokens are side by side, with padding at its ends alone."""
    if attention_mask is None:
        return True
    rises = F.pad(attention_mask, (1, 0))[:, :-1] < attention_mask
    return attention_mask.shape[1] == length and bool(rises.sum(1).max() <= 1)


AttentionInterface.register(NAME, attend)  # pyright: ignore
AttentionMaskInterface.register(NAME, find_documents)  # pyright: ignore
