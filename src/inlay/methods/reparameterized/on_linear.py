"""What the methods that change the linear layers chosen by `targets` have in common."""

from dataclasses import dataclass
from typing import Any

from ...core.method import Method
from ...models import sites as sites_
from ...models.sites import Sites


@dataclass(frozen=True, kw_only=True)
class OnLinear(Method):
    targets: tuple[str, ...] = ("all-linear",)
    """Which layers: all-linear, attention, mixer, feedforward, experts, ends of names, or patterns of names (regex)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))

    def peft_config(self, sites: Sites, hosts: list[str]) -> dict[str, Any]:
        return {"target_modules": sites_.shortest_suffixes(sites.model, hosts), "init_weights": True}

    @staticmethod
    def peft_targets(config: dict[str, Any]) -> tuple[str, ...]:
        targets = config["target_modules"]
        return (targets,) if isinstance(targets, str) else tuple(targets)
