"""A delta is one adapter's change at one host module.

He et al. (2022, https://arxiv.org/abs/2110.04366) describe a parameter-efficient method by four choices. Here they are:

    functional form          the body of a Delta subclass
    insertion form           what it reads: the host's input x (parallel) or its output h (sequential)
    modified representation  the host it is placed at, chosen by Method.place
    composition              how the change joins h: add, scale or replace

Rules for every delta: its parameters are float32 whatever the host's dtype; its work runs in the dtype of the
activations; it never casts up or copies a frozen tensor on a forward pass.

Shape suffixes: B batch, T tokens, I host inputs, O host outputs, R rank.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import AdapterStateError
from ..models import weights
from ..models.results import Result, first, with_first
from ..models.weights import Host

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Delta(nn.Module):
    """One adapter's change at one host: it sees the call before the host runs, and the result after."""

    removable: ClassVar[bool] = True  # False if the host itself is changed, so that the base cannot be had back
    resizable: bool = False  # whether a start from the data may give its tensors other shapes
    statistics: tuple[str, ...] = ()  # the host's buffers that the delta has of its own, see replacement.py

    @property
    def replaces(self) -> tuple[str, ...]:
        """Names of the host's tensors that have another value here, whatever else would change them."""
        return ()

    def stands_in(self, host: Host) -> bool:
        """Tell whether `before` puts other parameters in the place of the host's, which `after` only
        takes away again.
        """
        return False

    def check_saved(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Raise CheckpointError if what a file has of the delta at the host `name` fits in shape but not in value."""

    def install(self, host: Host) -> None:
        """Prepare the host; called once, when the whole adapter is known to fit and is about to join the model."""

    def uninstall(self, host: Host) -> None:
        """Undo what `install` did to the host; called once, when the adapter leaves the model."""

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Return what the host is called with in place of these arguments."""
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        """Return what takes the place of the host's result; the arguments are those that the host got."""
        return result

    def release(self, host: Host) -> None:
        """Undo what `before` did to the host; called in place of `after` when the host's forward raised."""

    def changed_bias(self, bias_O: Tensor | None) -> Tensor | None:
        """Return what `after` has made of the bias that is in the result: deltas that come later read it as the
        host's.
        """
        return bias_O

    def edits_rows(self, host: Host) -> bool:
        """Tell whether `after` is the whole change, so that one batch can mix adapters row by row."""
        return False

    def trained(self, host: Host) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that training changes, by name."""
        yield from self.named_parameters()

    def saved(self, host: Host) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint holds, by name. Writing into them changes the delta."""
        return self.state_dict(keep_vars=True)

    def computed(self, host: Host) -> dict[str, Tensor]:
        """Return what a checkpoint shows in place of the saved tensors, if that is computed from them, by name.

        The saved ones then go into a file of their own, from which training goes on.
        """
        return {}

    def training_state(self) -> dict[str, Tensor]:
        """Return what the method keeps here from step to step, and no checkpoint of the adapter needs, by name: a run
        that was interrupted goes on from it.
        """
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `training_state` gave."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_old_forward":  # accelerate begins to put hooks around a call, which a delta never gets
            raise AdapterStateError(
                f"accelerate was asked to offload a {type(self).__name__}, a part of an adapter, with its base, which "
                "is now offloaded in part; load the base anew, offload the base first, and attach or load adapters then"
            )
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to another device or a wider dtype; `model.to(torch.bfloat16)` leaves float32 as it is."""
        return super()._apply(lambda tensor: _not_narrower(tensor, fn(tensor)), recurse)


class WeightDelta(Delta):
    """A change that can be written as new host parameters: W -> fold(W).

    `fold` alone is a complete method: it can be merged, analysed and run. On a host whose output it can edit (a linear
    one, or what `edits_output` adds), overriding `edit_input` or `edit_output` with a cheaper way to the same result is
    optional. On any other host (normalisation, fused experts) the folded parameters stand in for the host's own for one
    call.
    """

    folds: tuple[str, ...] = ("weight",)  # the host parameters that fold may rewrite

    def fold(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the adapted parameters. `params["weight"]` is dense, (O, I) if linear; what the host
        lacks is absent.
        """
        raise NotImplementedError

    def copies(self) -> dict[str, Tensor]:
        """Return the trained tensors that stand in for the host's parameters, or for rows of them, by their names
        there. A parameter that several hosts share is changed alike if they have the same tensor for it.
        """
        return {}

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return left (O, R) and right (R, I) of each parameter to which `fold` adds their product, as a matrix, and
        nothing else; (E, O, R) and (E, R, I) of a stack of expert matrices, however these are kept.
        """
        return {}

    def set_factors(self, parameter: str, left: Tensor, right: Tensor) -> None:
        """Let the product of these, which have the delta's own rank, be what is added to a parameter of `factors`."""
        raise NotImplementedError(f"{type(self).__name__} has no factors that can be set")

    def edits_output(self, host: Host) -> bool:
        """Tell whether `edit_output` serves this host; otherwise the folded parameters stand in for the host's own."""
        return weights.is_linear(host)

    def stands_in(self, host: Host) -> bool:
        return not self.edits_output(host)

    def edit_input(self, host: Host, x_BTI: Tensor) -> Tensor:
        """Return what the host gets in place of its input."""
        return x_BTI

    def edit_output(self, host: Host, x_BTI: Tensor, h_BTO: Tensor) -> Tensor:
        """Return what takes the place of the host's output, which is that of the edited input `x_BTI`."""
        base = weights.read(host, self.folds)
        folded = self.fold(base)
        weight_OI = (folded["weight"] - base["weight"]).to(h_BTO.dtype)
        bias_O = (folded["bias"] - base.get("bias", 0)).to(h_BTO.dtype) if "bias" in folded else None
        return h_BTO + F.linear(x_BTI, weight_OI, bias_O)

    def before(self, host: Host, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        if self.edits_output(host):
            x_BTI = self.edit_input(host, _input(args, kwargs))
            return ((x_BTI, *args[1:]), kwargs) if args else (args, kwargs | {next(iter(kwargs)): x_BTI})
        own = weights.read(host, self.folds)
        weights.shadow(host, {name: p.to(own[name].dtype) for name, p in self.fold(own).items()})
        return args, kwargs

    def after(self, host: Host, args: Args, kwargs: Kwargs, result: Result) -> Result:
        if self.edits_output(host):
            return with_first(result, self.edit_output(host, _input(args, kwargs), first(result)))
        self.release(host)
        return result

    def release(self, host: Host) -> None:
        weights.unshadow(host, self.folds)

    def edits_rows(self, host: Host) -> bool:
        return self.edits_output(host) and type(self).edit_input is WeightDelta.edit_input


def _not_narrower(before: Tensor, after: Tensor) -> Tensor:
    """Return `after`, in the dtype of `before` if that is float32 or finer and the other one is not."""
    if after.is_floating_point() and after.dtype.itemsize < 4 <= before.dtype.itemsize:
        return before.to(after.device)
    return after


def _input(args: Args, kwargs: Kwargs) -> Tensor:
    """Find the host's first argument, which may be given by its name."""
    return args[0] if args else next(iter(kwargs.values()))
