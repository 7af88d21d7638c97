"""Adapters that Hugging Face PEFT makes, over its methods and settings, read here and given back.

    python scripts/peft_files.py [--only WORD ...] [--markdown docs/peft_files.md]

Each is made by the installed PEFT with tensors off their start. What PEFT's model computes must be what the adapter
computes once Inlay has loaded it, to 1e-5; or it is refused with an error that names what it is refused for. What was
read and saved again must compute the same in PEFT, and saved once more be the same bytes. So must the adapters that
Inlay makes with its own methods (scripts/peft_written.py). Anything else is a fault, and the exit code is 1. Settings
marked common are those that recipes and trainers set every day.
"""

import argparse
import copy
import json
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft_cases import HEADS, Case, cases, parts
from peft_models import build, output, task
from peft_page import page, tables
from peft_written import written
from torch import Tensor

import inlay
from inlay.errors import InlayError

TOLERANCE = 1e-5
BASIC = {"r", "lora_alpha", "target_modules", "init_lora_weights", "modules_to_save"}  # in every configuration


@dataclass(frozen=True, kw_only=True)
class Outcome:
    case: Case
    kind: str
    """equal, own (equal, but saved in a form that PEFT does not have), refused, wrong, or unmade: PEFT itself could not
    make it, or not read what it wrote."""
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
    kind, fault = back(case, adapter, ours, folder)
    if kind != "wrong" and (others := other_bytes(folder)):
        return Outcome(case=case, kind="wrong", detail=f"saved again, {others[0]} is another")
    return Outcome(case=case, kind=kind, detail=fault or read_otherwise.strip(", "))


def base(case: Case) -> Any:
    """The base that the file is for; of a resized vocabulary the new rows are others, as a new start draws them."""
    model = build(case.model)
    if case.model == "llama-resized" and case.save:
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                table.weight[64:] += 1.0
    return model


def give(case: Case, folder: Path) -> Outcome:
    """One adapter made by Inlay with a method of its own, saved and read by PEFT."""
    model = base(case)
    try:
        adapter = inlay.attach(model, inlay.METHODS[case.type](**case.settings))
    except InlayError as problem:
        return Outcome(case=case, kind="refused", detail=str(problem))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in adapter.parameters():
            p += case.scale * torch.randn(p.shape, generator=generator)
    ours = output(model, case.model)
    if same(ours, output(build(case.model), case.model), 1e-3):
        return Outcome(case=case, kind="unmade", detail="it changes nothing, so this shows nothing")
    kind, fault = back(case, adapter, ours, folder)
    return Outcome(case=case, kind=kind, detail=fault)


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


def back(case: Case, adapter: inlay.Adapter, ours: Tensor, folder: Path) -> tuple[str, str]:
    """Whether the adapter is right, once it is saved and read again, here and by PEFT; if not, why."""
    again = base(case)
    try:
        adapter.save(folder / "ours")
        inlay.load(again, folder / "ours").save(folder / "again")
    except Exception as problem:  # noqa: BLE001 what is in a model can be saved and read again
        return "wrong", f"saved and loaded: {type(problem).__name__}: {problem}"
    if not torch.equal(output(again, case.model), ours):
        return "wrong", f"saved and loaded, it is {distance(output(again, case.model), ours):.1e} off"
    kind = json.loads((folder / "ours/adapter_config.json").read_text())["peft_type"]
    if kind.startswith("INLAY_"):
        return "own", f"saved as {kind}"
    try:
        theirs = output(peft.PeftModel.from_pretrained(base(case), str(folder / "ours")).eval(), case.model)
    except Exception as problem:  # noqa: BLE001 whatever PEFT raises
        kind = "wrong" if can_make(case, kind) else "unmade"
        return kind, f"PEFT cannot read it: {type(problem).__name__}: {str(problem)[:90]}"
    theirs = theirs[:, -ours.shape[1] :] if ours.ndim == 3 else theirs
    return ("equal", "") if same(ours, theirs) else ("wrong", f"PEFT reads it {distance(ours, theirs):.1e} off")


def can_make(case: Case, kind: str) -> bool:
    """Whether PEFT has such adapters for the model, of its own making, and runs them."""
    virtual = "tokens" in case.settings and kind != "LORA"
    settings: dict[str, Any] = {"num_virtual_tokens": 4} if virtual else {"target_modules": list(parts(case.model)[:2])}
    settings |= {"num_tasks": 1} if kind == "MULTITASK_PROMPT_TUNING" else {}
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type=task(case.model), **settings)
        output(peft.get_peft_model(build(case.model), config).eval(), case.model)
    except Exception:  # noqa: BLE001 whatever PEFT raises
        return False
    return True


def other_bytes(folder: Path) -> list[str]:
    files = sorted(file.name for file in (folder / "ours").iterdir())
    return [name for name in files if (folder / "ours" / name).read_bytes() != (folder / "again" / name).read_bytes()]


def names_it(case: Case, message: str) -> bool:
    known = {key for key in case.settings if key not in BASIC or case.type != "LORA"} | {*case.names}
    known |= {case.type} if case.type != "LORA" else {"dora"} if case.settings.get("use_dora") else set()
    known |= {"init_lora_weights"} if isinstance(case.settings.get("init_lora_weights"), str) else set()
    return any(word in message for word in known)


def same(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts that a case's name must have")
    parser.add_argument("--markdown", type=Path, help="the page to write")
    asked = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    tried = [(case, run) for case in cases()] + [(case, give) for case in written()]
    start, outcomes = time.monotonic(), []
    for case, attempt in tried:
        if all(word.lower() in case.name.lower() for word in asked.only):
            with tempfile.TemporaryDirectory() as folder:
                outcomes.append(attempt(case, Path(folder)))
            print(outcomes[-1], flush=True)
    print(tables(outcomes))
    if asked.markdown:
        asked.markdown.write_text(page(outcomes), encoding="utf-8")
    print(f"\n{len(outcomes)} adapters, {time.monotonic() - start:.0f} s.", file=sys.stderr)
    return int(any(o.kind == "wrong" for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
