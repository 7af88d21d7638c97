"""A trained adapter folded into its base: a checkpoint that needs neither Inlay nor the base, checked before it counts.

The fold happens in float32 and is rounded once, to the dtype in which the base's files have the weight. A base that was
quantized in training is merged in the precision it was quantized from, so the result is not what was trained; how far
it is from that is measured. What full fine-tuning has trained is a whole model, and only has to be rounded.
"""

import gc
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attached.adapter import Adapter
from ..bases.base import Base, find_base, pick_device, quiet
from ..core.active import using
from ..errors import SettingsError, VerificationFailed
from ..formats.event import Event, Watcher
from ..formats.files import check_free, folder_written_whole
from ..formats.read import guarded, read_json_lines, read_yaml
from ..methods.starts import STARTS
from ..models import weights
from ..tasks.task import Task
from .opened import Found, Opened, find_adapter

Into = Literal["base", "dequantized"]


_TEXTS, _TOKENS = 8, 64  # what logits are compared on: of a vocabulary of 150,000 they take 300 MB
_LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest logit


@dataclass(frozen=True)
class _Logits:
    """One model's, (outputs, classes) in float32 on the CPU: an output is a text's label or a token's successor."""

    adapted: Tensor
    base: Tensor


def merge(
    folder: Path,
    out: Path,
    model: str | Base | None = None,
    device: str = "auto",
    into: Into = "base",
    watcher: Watcher = lambda _: None,
    *,
    fetch: bool = False,
) -> Event:
    """Write the merged model and its tokenizer into `out`; returns the last event, which has what the others have.

    Raises InvalidRequest before any weights are loaded: for an adapter that cannot be merged, one that does not fit its
    base, or an `out` that is not empty. Raises VerificationFailed if what was written, loaded again, does not compute
    what the adapter does. Whatever is raised, `out` is as it was.
    """
    began = time.perf_counter()
    where = pick_device(device)
    check_free(out, "OUT")
    found = find_adapter(folder, model, fetch=fetch)
    if found.planned.removable:
        found.planned.check_mergeable()
    _check_into(found, into)
    for note in found.notes:
        _told(watcher, "note", text=note)
    rows, of = _rows(found)

    with folder_written_whole(out) as unfinished:
        facts, expected = _write(found, unfinished, where, into, rows, watcher)
        _free()
        merged = _logits(_loaded(unfinished, found.task).to(where), rows)
        _free()
        facts |= _told(watcher, "checked", texts=len(rows), of=of, **_check(expected, merged, facts["dtype"]))
        if found.packed or facts["dtype"] != found.provenance["dtype"]:
            trained = _logits(found.as_trained(where).model, rows)
            _free()
            facts |= _told(watcher, "changed", **_change(found, into, trained, merged))
        size = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    seconds = round(time.perf_counter() - began, 3)
    last = {"event": "finished", **facts, "folder": str(out), "bytes": size, "seconds": seconds}
    watcher(last)
    return last


def _check_into(found: Found, into: Into) -> None:
    if into == "dequantized" and not found.packed:
        raise SettingsError(
            f"--into is dequantized, but {found.folder} was trained on a base that was not quantized; leave it out"
        )
    if into == "base" and found.packed and _made_up_for_quantization(found.folder):
        raise SettingsError(
            f"{found.folder} started as LoftQ's correction of what 4 bits had done to the weights, which the base as "
            "it was before does not need; merge with --into dequantized"
        )


def _made_up_for_quantization(folder: Path) -> bool:
    """Tell whether the run that the adapter lies in says so; the adapter is plain LoRA and does not."""
    asked = folder.parent / "run.yaml"
    settings = read_yaml(asked, "the settings of a run") if asked.is_file() else {}
    method = settings.get("method") if isinstance(settings, dict) else None
    start = STARTS.get(str(method.get("initialization"))) if isinstance(method, dict) else None
    return start is not None and start.moves_base


def _write(
    found: Found, folder: Path, device: torch.device, into: Into, rows: list[dict[str, Tensor]], watcher: Watcher
) -> tuple[Event, _Logits]:
    """Return the checkpoint; returns what is to be said of it and what it should compute. Afterwards the model is
    gone.
    """
    stored: Any = found.base_as_stored(device)
    facts = _told(
        watcher,
        "model",
        model=found.base.name,
        **{"class": type(stored).__name__},
        auto_class=found.task.auto_class.__name__,
        total_parameters=sum(p.numel() for p in stored.parameters()),
        dtype=str(stored.dtype).removeprefix("torch."),
        device=str(device),
    )
    base = _logits(stored, rows)
    opened = found.attached(stored)
    if into == "dequantized":
        _dequantize(found, opened, device)
        with using(opened.model):
            base = _logits(opened.model, rows)
    expected = _Logits(_logits(opened.model, rows), base)
    facts |= _told(watcher, "merged", method=opened.adapter.method.name, hosts=len(opened.adapter.deltas))
    network = _plain(found, opened.adapter, device)
    if stop := found.provenance.get("stop"):
        network.generation_config.eos_token_id = list(stop)  # where the adapter learned to stop
    with quiet():
        network.save_pretrained(folder)
        if found.tokenizer is not None:
            found.tokenizer.save_pretrained(folder)
    return facts, expected


@torch.no_grad()
def _dequantize(found: Found, opened: Opened, device: torch.device) -> None:
    """Give the plain base the weights that the quantized one computes with."""
    packed = found.as_trained(device).model
    for name, host in packed.named_modules():
        if weights.is_linear(host) and weights.is_packed(host):
            weights.write(opened.model.get_submodule(name), weights.read(host))
    del packed
    _free()


@torch.no_grad()
def _plain(found: Found, adapter: Adapter, device: torch.device) -> Any:
    """Return the model with the adapter in its weights, which taking a merged adapter out would restore."""
    if not adapter.removable:
        plain = found.base_as_stored(device)
        loaded = plain.load_state_dict(adapter.state_dict(), strict=False)  # tied weights have one name of two
        assert not loaded.unexpected_keys
        return plain
    adapter.merge()
    own = [host._parameters[name] for _, host, delta in adapter.hosts() for name in getattr(delta, "folds", ())]
    folded = [(p, p.detach().clone()) for p in own if p is not None]
    adapter.detach()
    for p, value in folded:
        p.copy_(value)
    return adapter.model


def _loaded(folder: Path, task: Task) -> nn.Module:
    written = find_base(str(folder))
    return replace(task, base=written, config=written.config).load("auto")[0]


def _rows(found: Found) -> tuple[list[dict[str, Tensor]], str]:
    """Return texts that the run has written beside the adapter, as tokens; random tokens if there are none."""
    texts, of = _texts_of_run(found), "run"
    length = min(_TOKENS, found.provenance["max_length"])
    if found.tokenizer is None:
        network: Any = found.planned.model
        count = network.get_input_embeddings().weight.shape[0]
        drawn = [row[None, :length] for row in _drawn(count)]
        return [{"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)} for ids_1T in drawn], "random"
    if not texts:
        special, of = set(found.tokenizer.all_special_ids), "random"
        plain = torch.tensor([i for i in range(len(found.tokenizer)) if i not in special])
        texts = [(found.tokenizer.decode(plain[row].tolist()), None) for row in _drawn(len(plain))]
    encoded = [found.tokenizer(*text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
    keys = found.task.input_keys
    return [{key: value for key, value in row.items() if keys is None or key in keys} for row in encoded], of


def _texts_of_run(found: Found) -> list[tuple[str, str | None]]:
    path = found.folder.parent / "predictions.jsonl"
    if found.folder.name != "adapter" or not path.is_file():
        return []
    entries = islice(read_json_lines(path, "the predictions of a run"), _TEXTS)
    with guarded(path, "the predictions of a run", todo="remove it, and random tokens are compared"):
        texts = [(e.get("prompt", "") + e["text"], e.get("pair")) for e in entries]
    return texts if all(text.strip() for text, _ in texts) else []


def _drawn(count: int) -> Tensor:
    """Return numbers below `count`, of as many texts as are compared, always the same."""
    return torch.randint(count, (_TEXTS, _TOKENS // 2), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _logits(model: Any, rows: list[dict[str, Tensor]]) -> Tensor:
    """Return one row after the other, so that no padding comes in."""
    model.eval()
    found = [model(**{key: value.to(model.device) for key, value in row.items()}).logits for row in rows]
    return torch.cat([logits.float().cpu().flatten(end_dim=-2) for logits in found])


def _check(expected: _Logits, merged: Tensor, dtype: str) -> dict[str, float]:
    """Raise VerificationFailed unless the merged model does what base and adapter do."""
    difference = float((merged - expected.adapted).abs().max())
    largest = float(expected.adapted.abs().max())
    rms = float((merged - expected.adapted).square().mean().sqrt())
    of_adapter = float((expected.base - expected.adapted).square().mean().sqrt())
    if not difference <= _LARGEST_DIFFERENCE[getattr(torch, dtype)] * max(largest, 1) or rms > of_adapter:
        raise VerificationFailed(
            f"the merged model, loaded again, should have the logits of base + adapter, but they differ by up to "
            f"{difference:.2g} (the largest is {largest:.2g}), by {rms:.2g} in root mean square, where the adapter "
            f"changes the base's by {of_adapter:.2g}; nothing is kept. Use the adapter without merging it"
        )
    return {
        "largest_difference": difference,
        "largest_logit": largest,
        "rms_difference": rms,
        "rms_change": of_adapter,
    }


def _change(found: Found, into: Into, trained: Tensor, merged: Tensor) -> Event:
    """Return how far the merged model is from the one that was trained."""
    of_trained, of_merged = trained.log_softmax(-1), merged.log_softmax(-1)
    return {
        "trained_dtype": found.provenance["dtype"],
        "trained_quantize": found.provenance.get("quantize", "none"),
        "into": into,
        "outputs": len(trained),
        "divergence": max(0.0, float(F.kl_div(of_merged, of_trained, reduction="batchmean", log_target=True))),
        "agreement": float((trained.argmax(-1) == merged.argmax(-1)).float().mean()),
    }


def _told(watcher: Watcher, event: str, **facts: object) -> Event:
    watcher({"event": event, **facts})
    return facts


def _free() -> None:
    """Free models at once: with adapters they hold themselves in a circle, and two may not fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
