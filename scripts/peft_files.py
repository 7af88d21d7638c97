"""Adapters that Hugging Face PEFT makes, over its methods and settings, read here and given back.

    python scripts/peft_files.py [--only WORD ...] [--markdown]

Each is made by the installed PEFT with tensors off their start. What PEFT's model computes must be what the adapter
computes once Inlay has loaded it, to 1e-5; or it is refused with an error that names what it is refused for. What was
read and saved again must compute the same in PEFT, and saved once more be the same bytes. Anything else is a fault, and
the exit code is 1. Settings marked common are those that recipes and trainers set every day.
"""

import argparse
import copy
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft_cases import HEADS, Case, cases
from peft_models import build, output, task
from torch import Tensor

import inlay
from inlay.errors import InlayError

TOLERANCE = 1e-5
BASIC = {"r", "lora_alpha", "target_modules", "init_lora_weights", "modules_to_save"}  # in every configuration


@dataclass(frozen=True, kw_only=True)
class Outcome:
    case: Case
    kind: str
    """equal, refused, wrong, or unmade: PEFT itself could not make it, or not read what it wrote."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind:8}{self.case.name}{'  ' + self.detail if self.detail else ''}"


def run(case: Case, folder: Path) -> Outcome:
    """One adapter made by PEFT, read, saved and read by PEFT."""
    try:
        made = make(case, folder / "peft")
        theirs = peft.PeftModel.from_pretrained(base(case), str(folder / "peft")).eval()
        expected = output(theirs, case.model)
    except Exception as problem:  # noqa: BLE001 whatever PEFT raises
        return Outcome(case=case, kind="unmade", detail=f"{type(problem).__name__}: {str(problem)[:90]}")
    read_otherwise = f", which PEFT reads {distance(expected, made):.1e} off" if not same(expected, made) else ""
    if same(made, output(build(case.model), case.model), 1e-3):
        return Outcome(case=case, kind="unmade", detail="it changes nothing, so this shows nothing")

    model = base(case)
    try:
        adapter = inlay.load(model, folder / "peft")
    except InlayError as problem:
        kind = "refused" if names_it(case, str(problem)) else "wrong"
        return Outcome(case=case, kind=kind, detail=f"{problem}{read_otherwise}")
    except Exception as problem:  # noqa: BLE001 a bare exception is a fault
        return Outcome(case=case, kind="wrong", detail=f"{type(problem).__name__}: {problem}")
    ours = output(model, case.model)
    if not same(ours, made if ours.shape == made.shape else made[:, -ours.shape[1] :]):
        off = distance(ours, made[:, -ours.shape[1] :] if ours.ndim == 3 else made)
        return Outcome(case=case, kind="wrong", detail=f"reads {off:.1e} off{read_otherwise}")
    return Outcome(case=case, kind="wrong", detail=fault) if (fault := back(case, adapter, ours, folder)) else Outcome(
        case=case, kind="equal", detail=read_otherwise.strip(", ")
    )  # fmt: skip


def base(case: Case) -> Any:
    """The base that the file is for; of a resized vocabulary the new rows are others, as a new start draws them."""
    model = build(case.model)
    if case.model == "llama-resized" and case.save:
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[64:] += 1.0
    return model


def make(case: Case, folder: Path) -> Tensor:
    """Have PEFT save such an adapter, trained away from its start; what its model then computes."""
    torch.manual_seed(2)
    settings = copy.deepcopy(case.settings)
    prune = settings.pop("PRUNE", False)
    if case.model in HEADS and "num_virtual_tokens" not in settings:
        settings.setdefault("modules_to_save", HEADS[case.model])
    config = PEFT_TYPE_TO_CONFIG_MAPPING[case.type](task_type=task(case.model), **settings)
    model = peft.get_peft_model(build(case.model), config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += case.scale * torch.randn(p.shape, generator=generator)
    if prune:
        _prune(model, config)
    model.save_pretrained(str(folder), **{"save_embedding_layers": False} | case.save)
    return output(model, case.model)


def _prune(model: Any, config: Any) -> None:
    """Let AdaLoRA drop the components of a rank pattern, as it does at the end of its phases."""
    pattern = {}
    for name, p in model.named_parameters():
        if ".lora_E." in name:
            keep = torch.arange(len(p)) % 3 != 1
            p.data[~keep] = 0.0
            pattern[name.replace(".default", "")] = keep.tolist()
    config.rank_pattern = {name.removeprefix("base_model.model."): kept for name, kept in pattern.items()}
    model.base_model.resize_modules_by_rank_pattern(config.rank_pattern, "default")


def back(case: Case, adapter: inlay.Adapter, ours: Tensor, folder: Path) -> str:
    """What is wrong with the adapter that was read, once it is saved again; empty if nothing is."""
    again = base(case)
    try:
        adapter.save(folder / "ours")
        inlay.load(again, folder / "ours").save(folder / "again")
    except Exception as problem:  # noqa: BLE001 what was read can be saved and read again
        return f"saved and loaded: {type(problem).__name__}: {problem}"
    if not torch.equal(output(again, case.model), ours):
        return f"saved and loaded, it is {distance(output(again, case.model), ours):.1e} off"
    for file in (folder / "ours").iterdir():
        if file.read_bytes() != (folder / "again" / file.name).read_bytes():
            return f"saved again, {file.name} is another"
    if json.loads((folder / "ours/adapter_config.json").read_text())["peft_type"].startswith("INLAY_"):
        return ""
    try:
        theirs = output(peft.PeftModel.from_pretrained(base(case), str(folder / "ours")).eval(), case.model)
    except Exception as problem:  # noqa: BLE001 whatever PEFT raises
        return f"PEFT cannot read it back: {type(problem).__name__}: {problem}"
    theirs = theirs[:, -ours.shape[1] :] if ours.ndim == 3 else theirs
    return "" if same(ours, theirs) else f"PEFT reads it back {distance(ours, theirs):.1e} off"


def names_it(case: Case, message: str) -> bool:
    known = {key for key in case.settings if key not in BASIC or case.type != "LORA"} | {*case.names}
    known |= {case.type} if case.type != "LORA" else {"dora"} if case.settings.get("use_dora") else set()
    known |= {"init_lora_weights"} if isinstance(case.settings.get("init_lora_weights"), str) else set()
    return any(word in message for word in known)


def same(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def table(outcomes: list[Outcome]) -> str:
    kinds = ("equal", "refused", "wrong")
    counts = {type_: Counter(o.kind for o in outcomes if o.case.type == type_) for type_ in _types(outcomes)}
    rows = [[t, *(str(c[k]) for k in kinds), str(c["unmade"])] for t, c in counts.items() if set(c) & set(kinds)]
    total = Counter(o.kind for o in outcomes)
    rows.append(["all", *(str(total[k]) for k in kinds), str(total["unmade"])])
    common = Counter(o.kind for o in outcomes if o.case.common)
    rows.append(["common settings", *(str(common[k]) for k in kinds), str(common["unmade"])])
    lines = [["type", "equal", "refused by name", "wrong", "not made by PEFT"], ["---"] * 5, *rows]
    made = max(1, sum(common[k] for k in kinds))
    share = f"{100 * common['equal'] / made:.1f} % of the {made} with common settings are equal"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{share}; tolerance {TOLERANCE:g}."


def _types(outcomes: list[Outcome]) -> list[str]:
    return list(dict.fromkeys(o.case.type for o in outcomes))


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts that a case's name must have")
    parser.add_argument("--markdown", action="store_true", help="print the table alone")
    asked = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    start, outcomes = time.monotonic(), []
    for case in cases():
        if all(word.lower() in case.name.lower() for word in asked.only):
            with tempfile.TemporaryDirectory() as folder:
                outcomes.append(run(case, Path(folder)))
            if not asked.markdown:
                print(outcomes[-1], flush=True)
    print(table(outcomes))
    print(f"\n{len(outcomes)} adapters, {time.monotonic() - start:.0f} s.", file=sys.stderr)
    return int(any(o.kind == "wrong" for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
