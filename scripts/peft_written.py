"""The adapters that scripts/peft_files.py has Inlay make and PEFT read: each method that PEFT has too, and settings."""

from collections.abc import Iterator
from typing import Any

from peft_cases import ALL, TEXT, Case

import inlay

SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 6.0},
    "dora": {"rank": 4, "alpha": 6.0},
    "adalora": {"initial_rank": 4, "target_rank": 2},
    "dynamic-rank": {"initial_rank": 4, "target_rank": 2},
    "loha": {"rank": 3},
    "lokr": {"rank": 3},
    "vera": {"rank": 8},
    "oft": {"block_size": 8},
    "p-tuning": {"hidden_size": 8},
    **{name: {} for name in ("norm", "ia3", "prompt", "multitask-prompt", "prefix")},
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {
        "rank stabilized": {"rank_stabilized": True},
        "patterns": {"rank_pattern": {".*": 2}, "alpha_pattern": {r".*\.0\..*": 3.0}},
        "all biases": {"bias": "all"},
        "bias of B": {"change_bias": True},
        "tokens": {"tokens": (3, 9, 11)},
        "pissa": {"initialization": "pissa"},
        "olora": {"initialization": "olora", "rank_stabilized": True},
        "attention": {"targets": ("attention",)},
        "feed-forward, dropout": {"targets": ("feedforward",), "dropout": 0.1},
    },
    "dora": {"rank stabilized": {"rank_stabilized": True}, "tokens": {"tokens": (3, 9, 11)}},
    "lokr": {"both decomposed": {"decompose_both": True}, "factor": {"factor": 4}},
    "vera": {"projections left out": {"save_projection": False}, "seed": {"seed": 7}},
    "oft": {"shared": {"block_share": True}, "blocks": {"blocks": 4}, "terms": {"neumann": True, "neumann_terms": 7}},
    "prompt": {"the prompt's first position": {"first_position": "prompt"}},
    "p-tuning": {"lstm": {"encoder": "lstm"}, "the prompt's first position": {"first_position": "prompt"}},
    "prefix": {"projected": {"projection": True, "hidden_size": 8}},
}


def written() -> Iterator[Case]:
    for name in (name for name, method in inlay.METHODS.items() if method.format.read_by_peft):
        small = SMALL[name] | ({"tokens": 4} if inlay.METHODS[name].family == "prompts" else {})
        for label, more, models in [("as by default", {}, ALL), *((la, m, TEXT) for la, m in _settings(name))]:
            for model in models:
                yield Case(type=name, label=label, model=model, settings=small | more, common=True)


def _settings(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(SETTINGS.get(name, {}).items())
