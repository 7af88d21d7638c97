"""The ends of dotted names, by which layers are selected."""

import re

from torch import nn

from .modules import base_modules


def ends_with(name: str, suffix: str) -> bool:
    """Tell whether `suffix` is a dotted end of `name`, as Hugging Face PEFT matches a list of target_modules."""
    return name == suffix or name.endswith("." + suffix)


def shortest_suffixes(model: nn.Module, hosts: list[str]) -> list[str] | str:
    """Return the shortest dotted ends that select exactly `hosts` among the modules of `model`.

    A pattern of all the names instead, if a whole name is the end of another one: `head` where there is `value.head`.
    """
    wanted = set(hosts)
    others = [name for name, _ in base_modules(model) if name not in wanted]
    suffixes: list[str] = []
    for host in hosts:
        if any(ends_with(host, suffix) for suffix in suffixes):
            continue
        parts = host.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        suffix = next((e for e in ends if not any(ends_with(o, e) for o in others)), None)
        if suffix is None:
            return "|".join(re.escape(host) for host in hosts)
        suffixes.append(suffix)
    return suffixes
