"""Attention that works through a batch text by text: no score between two texts, or to padding, is ever computed.

An attention implementation for transformers, under the name NAME. Its mask says where the texts are, instead of which
of all T² pairs may see each other, and travels to the layers as any mask does, so that gradient checkpointing finds it
again. A batch that was collated here says itself where its texts are. Else they are looked up: one begins where a token
does not see the one before it, which is where positions start anew in a packed row, and where padding begins or ends.
What is no set of causal texts (generation with a cache, attention in both directions) is left to sdpa, with the mask
that it would have had; and so is what needs no gradients, whose every rounding is then that of a model which was only
loaded.

Shape suffixes: B batch, H heads, T tokens, K keys, C channels of a head, N texts, Q tokens of
one, P earlier keys.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from itertools import accumulate
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask, sliding_window_causal_mask_function

from .documents import NAME, Document, Documents, earlier_in_window
from .known_documents import Lengths, knowing, known
from .results import first

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHORT = 256  # up to this length a CPU's backward pass takes two to four times as long in bfloat16 as in float32
_LENGTH_STEP = 64  # longer texts are filled up to its multiples: a CPU keeps kernels for every length, some 4 MiB


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


_deaf: WeakSet[nn.Module] = WeakSet()  # models whose attention does not ask for the texts of a packed batch


def run(model: Any, inputs: dict[str, Any], lengths: Lengths | None) -> Any:
    """Return what the model gives, knowing the lengths of the texts in each row, if they are known.

    With `position_ids` the rows are packed. Transformers looks for texts there if there is no attention mask; with one
    it does not, and attention text by text has them from here.
    """
    positions = inputs.get("position_ids")
    without_mask = {key: value for key, value in inputs.items() if key != "attention_mask"}
    if positions is None:
        with knowing(lengths):
            return model(**inputs)
    if lengths is not None and model.config._attn_implementation == NAME and model not in _deaf:
        with knowing(lengths, positions) as texts:
            result = model(**inputs)
        if texts is not None and texts.taken:
            return result
        _deaf.add(model)
    with knowing(lengths, positions):
        return model(**without_mask)


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
    by_sdpa = partial(sdpa_mask, batch_size=batch_size, q_length=q_length, kv_length=kv_length, device=device)
    compiling = torch.compiler.is_compiling()
    whole = q_length == kv_length > 1 and torch.is_grad_enabled()  # nothing is in a cache
    whole = whole and not kwargs.get("use_vmap") and not compiling
    texts = None if compiling else known()
    if texts is not None and texts.fits(batch_size, q_length):
        texts.taken = True
        window = kwargs.get("local_size")
        if whole and _hides_no_more(mask_function, window):
            complete = max(map(max, texts.lengths)) <= (window or kv_length)
            if texts.one_each and complete:
                return by_sdpa(mask_function=mask_function, **kwargs)
            return _known_documents(texts.lengths, mask_function, window or kv_length, device)
        if texts.positions is not None and attention_mask is not None:  # now as without it: nothing hides padding
            attention_mask, ids_BT = None, masking_utils.find_packed_sequence_indices(texts.positions)
            if ids_BT is not None:
                join = masking_utils.packed_sequence_compatibility_function
                mask_function = join(mask_function, texts.positions, ids_BT)
                kwargs["allow_is_causal_skip"] = False

    head = torch.tensor(0, device=device)
    row_B1, token_T = torch.arange(batch_size, device=device)[:, None], torch.arange(q_length, device=device)
    by_sdpa = partial(by_sdpa, mask_function=mask_function, attention_mask=attention_mask, **kwargs)
    if not (whole and _is_one_run(attention_mask, kv_length)) or (
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


def _known_documents(
    lengths: Lengths, mask_function: Callable[..., Tensor], window: int, device: torch.device | str
) -> Documents:
    """Return the texts of these lengths as a mask; of those that are longer than the window a token does not see all
    before it.
    """
    zero = torch.tensor(0, device=device)

    def document(length: int) -> Document:
        if length <= window:
            return Document(length, None)
        token_Q = torch.arange(length, device=device)
        return Document(length, mask_function(zero, zero, token_Q[:, None], token_Q[None, :]))

    ends = torch.tensor([0, *accumulate(n for row in lengths for n in row)], dtype=torch.int32, device=device)
    return Documents(tuple(tuple(map(document, row)) for row in lengths), ends)


def _hides_no_more(mask_function: Callable[..., Tensor], window: int | None) -> bool:
    """Tell whether a mask is transformers' own that hides what comes later, and what is outside of the window if there
    is one: then it has no look at the batch, and is the same anywhere in a row.
    """
    if window is None:
        return mask_function is causal_mask_function
    return window > 1 and _are_alike(mask_function, sliding_window_causal_mask_function(window))


def _are_alike(one: object, other: object) -> bool:
    """Tell whether functions do the same: they have the same code, and close over the same."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        inside = ([cell.cell_contents for cell in f.__closure__ or ()] for f in (one, other))
        return one is other or (one.__code__ is other.__code__ and all(map(_are_alike, *inside)))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    return type(one) is type(other) is int and one == other


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
        q_N = q_HTC.split(lengths, dim=1)
        (earlier_k_HPC, *k_N), (earlier_v_HPC, *v_N) = (
            x.split([mask.earlier, *lengths], dim=1) for x in (k_HKC, v_HKC)
        )
        for document, q_HQC, k_HQC, v_HQC in zip(row, q_N, k_N, v_N, strict=True):
            if mask.earlier:
                k_HQC = torch.cat([earlier_k_HPC, k_HQC], dim=1)
                v_HQC = torch.cat([earlier_v_HPC, v_HQC], dim=1)
            own = (q_HQC, k_HQC, v_HQC)
            if exact := _faster_in(document.length, q_HQC):
                own = (x.to(exact) for x in own)
            parts.append(_attend_to_one(document, mask, *own, dropout, scaling).to(dtype))
    return torch.cat(parts).view(len(query_BHTC), -1, *parts[0].shape[1:]), None


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
    if seen is None and not mask.earlier and q_HQC.device.type == "cpu" and q_HQC.dtype.itemsize == 2:
        longer = -document.length % _LENGTH_STEP
        q_HQC, k_HKC, v_HKC = (F.pad(x, (0, 0, 0, longer)) for x in (q_HQC, k_HKC, v_HKC))
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
    return result[0, :, : document.length].transpose(0, 1)


def _faster_in(length: int, q_HQC: Tensor) -> torch.dtype | None:
    """Return the dtype for a text so short that a CPU's backward pass is slow in half precision; None for its own."""
    if length > _SHORT or q_HQC.device.type != "cpu" or not torch.is_grad_enabled():
        return None
    exact = torch.promote_types(q_HQC.dtype, torch.float32)
    return None if exact == q_HQC.dtype else exact


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
