"""Tensors without values, by which a step is planned: fake ones, and those on the meta device.

Where transformers would look at a value it does something else for fake tensors: it makes a mask that hides nothing,
and takes every row for a packed one. A plan must have what the step will have, which known_documents.py says.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .known_documents import known


def has_values(tensor: Tensor) -> bool:
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


@contextmanager
def true_masks() -> Iterator[None]:
    """Make transformers' masks of fake tensors as those of the batch that is known, for as long as the block runs."""
    from transformers import masking_utils  # takes seconds, and help is shown without a model

    before = {name: getattr(masking_utils, name) for name in _REPLACED if hasattr(masking_utils, name)}
    for name, own in before.items():
        setattr(masking_utils, name, _REPLACED[name](own))
    try:
        yield
    finally:
        for name, own in before.items():
            setattr(masking_utils, name, own)


def _needless(own: Callable[..., bool]) -> Callable[..., bool]:
    """Return `own`, which tells whether a mask is needless, without its look at the padding."""

    def told(padding_mask: Tensor | None, *args: object, **kwargs: object) -> bool:
        batch = known()
        if batch is None or padding_mask is None or has_values(padding_mask):
            return own(padding_mask, *args, **kwargs)
        return batch.one_each and own(None, *args, **kwargs)

    return told


def _packed(own: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    """Return `own`, which finds texts in positions, without its look at whether there are several."""

    def told(position_ids: Tensor) -> Tensor | None:
        batch = known()
        if batch is not None and not has_values(position_ids) and (batch.positions is None or batch.one_each):
            return None
        return own(position_ids)

    return told


_REPLACED = {
    "_ignore_causal_mask_sdpa": _needless,
    "_ignore_bidirectional_mask_sdpa": _needless,
    "find_packed_sequence_indices": _packed,
}
