"""What operations on fake tensors give, known again by their arguments.

PyTorch knows them again as well, by seventeen facts of each tensor, which takes most of a plan's time. A plan follows
many layers and methods that are alike, so here the few facts are told that results' shapes follow from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._python_dispatch import TorchDispatchMode

from .work import Done, done_by

_DEVICE = torch.ops.prim.device.default
_PLAIN = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
_MORE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
"""Marks of operations whose results need more than their arguments' shapes, or that change these."""


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A tensor with memory of its own."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def made(self, mode: FakeTensorMode) -> FakeTensor:
        with torch._C._DisableTorchDispatch():
            empty = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        return _fake(mode, empty, self.device)


def _fake(mode: FakeTensorMode, meta: Tensor, device: torch.device) -> FakeTensor:
    """Return what FakeTensor makes of a tensor without values, in a quarter of the time: most of that goes to
    attributes, which all have alike."""
    made = Tensor._make_subclass(
        FakeTensor, meta, meta.requires_grad, dispatch_device=True, device_for_backend_keys=device
    )
    if mode._allow_unsafe_data_ptr_access:  # as is the default
        torch._C._set_warn_deprecated_on_mutable_data_ptr(made)
    else:
        torch._C._set_throw_on_mutable_data_ptr(made)
    vars(made).update(_attributes(mode, device))
    return made


@lru_cache(maxsize=4)
def _attributes(mode: FakeTensorMode, device: torch.device) -> dict[str, object]:
    with torch._C._DisableTorchDispatch():
        return dict(vars(FakeTensor(mode, torch.empty(0, device="meta"), device)))


@dataclass(frozen=True, slots=True)
class _Recipe:
    """An operation on arguments of a kind: what it does, and how its result is made without working it out."""

    done: Done | None
    results: Sequence[_Fresh | int | None] | None  # a number is of the tensor that is written to; None: views
    several: type[list[object] | tuple[object, ...]] | None  # what they are in, if it is not one alone

    def again(
        self,
        func: OpOverload,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        tensors: Sequence[FakeTensor],
        mode: FakeTensorMode,
    ) -> object:
        if self.results is None:
            with in_kernel_invocation_manager(mode):
                views = func(*args, **kwargs)
            made = [_fake(mode, view, tensors[0].fake_device) for view in (views if self.several else [views])]
        else:
            made = [
                each.made(mode) if isinstance(each, _Fresh) else None if each is None else tensors[each]
                for each in self.results
            ]
        return made[0] if self.several is None else self.several(made)


class KnownResults(TorchDispatchMode):
    """Lets operations on fake tensors in its block be known again, those of earlier blocks as well."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and each call would be wrapped so that nothing is

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if func is _DEVICE and isinstance(args[0], FakeTensor) and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device  # as it would, in a tenth of the time; two of three calls are of this kind
        result, done = _result(func, args, kwargs or {})
        self.saw(result, done)
        return result

    def saw(self, result: object, done: Done | None) -> None:
        """Hear of an operation's result, and of what it does."""


_known: dict[object, _Recipe | None] = {}  # None: one that PyTorch works out each time


def _result(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[object, Done | None]:
    facts: list[object] = [func, torch.get_default_dtype(), *kwargs]
    tensors: list[FakeTensor] = []
    told = _tell(args, facts, tensors) and _tell(kwargs.values(), facts, tensors)
    mode = (tensors[0].fake_mode if tensors else active_fake_mode()) if told else None
    if mode is None:
        result = func(*args, **kwargs)
        return result, done_by(func, args, kwargs, result)
    key = tuple(facts)
    if (recipe := _known.get(key)) is not None:
        return recipe.again(func, args, kwargs, tensors, mode), recipe.done
    result = func(*args, **kwargs)
    done = done_by(func, args, kwargs, result)
    if key not in _known:
        _known[key] = _learned(func, args, kwargs, tensors, mode, result, done)
    return result, done


def _tell(values: Iterable[object], facts: list[object], tensors: list[FakeTensor]) -> bool:
    """Add the facts of these values, and the tensors among them; False where they do not tell all."""
    for value in values:
        if type(value) is FakeTensor:
            dtype = value.dtype
            if value.constant is not None or value.layout is not torch.strided or dtype.is_complex:
                return False
            facts += (dtype, value.shape, value.stride(), value.fake_device, value.requires_grad)
            tensors.append(value)
        elif type(value) in _PLAIN:
            facts += (type(value), value)
        elif isinstance(value, list | tuple):
            facts += (type(value), len(value))
            if not _tell(value, facts, tensors):
                return False
        else:
            return False
    return True


def _learned(
    func: OpOverload,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    tensors: Sequence[FakeTensor],
    mode: FakeTensorMode,
    result: object,
    done: Done | None,
) -> _Recipe | None:
    """Return how the result is made again, if what is made is found to be the same."""
    results = _results(result)
    if results is None or func.namespace != "aten" or not _MORE.isdisjoint(func.tags):
        return None
    if len({id(tensor) for tensor in tensors}) < len(tensors) and any(each is t for each in results for t in tensors):
        return None  # which of its places is written to cannot be told
    made = [_how_made(each, tensors) for each in results]
    several = type(result) if isinstance(result, list | tuple) else None
    recipe = _Recipe(done, None if _are_views(results, tensors) else made, several)
    again = _results(recipe.again(func, args, kwargs, tensors, mode))
    return recipe if again is not None and _look(again, tensors) == _look(results, tensors) else None


def _results(result: object) -> list[FakeTensor | None] | None:
    """Return the tensors that an operation gives; None if it gives something else too."""
    every = list(result) if isinstance(result, list | tuple) else [result]
    known = [each for each in every if each is None or type(each) is FakeTensor]
    return known if len(known) == len(every) else None


def _how_made(result: FakeTensor | None, tensors: Sequence[FakeTensor]) -> _Fresh | int | None:
    if result is None:
        return None
    written = [number for number, tensor in enumerate(tensors) if tensor is result]
    return written[0] if written else _Fresh(result.shape, result.stride(), result.dtype, result.fake_device)


def _are_views(results: Sequence[FakeTensor | None], tensors: Sequence[FakeTensor]) -> bool:
    """Tell whether there is one argument, whose memory the results have."""
    if len(tensors) != 1:
        return False
    of = tensors[0].untyped_storage()._cdata
    return all(each is not None and each is not tensors[0] and each.untyped_storage()._cdata == of for each in results)


def _look(results: Sequence[FakeTensor | None], tensors: Sequence[FakeTensor]) -> list[object]:
    """Return all that can be told of results: what they are, and with which tensors they share memory."""
    every = [t.untyped_storage()._cdata for t in (*tensors, *results) if t is not None]
    looks: list[object] = []
    for each in results:
        if each is not None:
            storage = each.untyped_storage()
            looks += (type(each), each.dtype, each.shape, each.stride(), each.storage_offset(), each.fake_device)
            looks += (storage.nbytes(), each.requires_grad, torch._C._dispatch_key_set(each), each.constant)
            looks.append(vars(each).keys())
            looks.append([address == storage._cdata for address in every])
            looks.append([each is tensor for tensor in tensors])
        looks.append(None)
    return looks
