"""What the methods that change the linear layers chosen by `targets` have in common."""

from dataclasses import dataclass
from typing import TypeVar

from ...core.method import Method
from ...formats.peft_config import PeftConfig, targets_of
from ...formats.peft_format import PeftFormat
from ...models import sites as sites_
from ...models.sites import Sites

OnLinearT = TypeVar("OnLinearT", bound="OnLinear")


class LinearFormat(PeftFormat[OnLinearT]):
    """The form of a method that PEFT has and that changes linear layers."""

    def config(self, method: OnLinearT, sites: Sites, hosts: list[str]) -> dict[str, object]:
        return {"target_modules": sites_.shortest_suffixes(sites.model, hosts), "init_weights": True}

    def read(self, kind: type[OnLinearT], config: PeftConfig) -> OnLinearT:
        return kind(targets=self.targets(config), **self.settings(config))

    def targets(self, config: PeftConfig) -> tuple[str, ...]:
        return targets_of(config)

    def settings(self, config: PeftConfig) -> dict[str, object]:
        """Return the method's settings but for its targets. Raises CheckpointError for some that cannot be."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OnLinear(Method):
    targets: tuple[str, ...] = ("all-linear",)
    """Which layers: all-linear, attention, mixer, feedforward, experts, ends of names, or patterns of names (regex)."""
