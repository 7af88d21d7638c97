"""A trained adapter folded into its base: a checkpoint that needs neither Inlay nor the base, checked before it counts.

The fold happens in float32 and is rounded once, to the dtype in which the base's files have the weight. A base that was
quantized in training is merged in the precision it was quantized from, so the result is not what was trained; how far
it is from that is measured. What full fine-tuning has trained is a whole model, and only has to be rounded.
"""

import copy
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attached.adapter import Adapter
from ..bases.base import find_base, quiet
from ..core.active import using
from ..devices import free_unused
from ..errors import SettingsError, VerificationFailed, did_you_mean
from ..formats.event import Event, Watcher
from ..formats.files import check_free, folder_written_whole
from ..formats.read import guarded, read_json_lines, read_yaml
from ..methods.starts import STARTS
from ..models import weights
from ..models.modules import base_modules
from ..models.tokenizer import cut_in_files
from ..tasks.task import Task
from .opened import Found, Opened

Into = Literal["base", "dequantized"]

_TEXTS, _LABELLED_TEXTS = 8, 64  # what logits are compared on, where each token has some and where a text has
_TOKENS = 64  # of each text where each has logits: those of a vocabulary of 150,000 take 300 MB
_LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest logit


@dataclass(frozen=True)
class _Logits:
    """One model's, (outputs, classes) in float32 on the CPU: an output is a text's label or a token's successor."""

    adapted: Tensor
    base: Tensor


def merge(
    found: Found,
    out: Path,
    device: torch.device,
    into: Into = "base",
    watcher: Watcher = lambda _: None,
    held: Opened | None = None,
) -> Event:
    """Write the merged model and its tokenizer into `out`; returns the last event, which has what the others have.

    `held` is the adapter on its base, as in training, if that is in memory already; afterwards it is as it was.

    Raises InvalidRequest before any weights are loaded: for an adapter that cannot be merged, or an `out` that is not
    empty. Raises VerificationFailed if what was written, loaded again, does not compute what the adapter does. Whatever
    is raised, `out` is as it was.
    """
    began = time.perf_counter()
    check_free(out, "OUT")
    if found.planned.removable:
        found.planned.check_mergeable()
    _check_into(found, into)
    for note in found.notes:
        _told(watcher, "note", text=note)
    rows, of = _rows(found)

    with folder_written_whole(out) as unfinished:
        facts, expected = _write(found, held, unfinished, device, into, rows, watcher)
        _free()
        merged = _logits(_loaded(unfinished, found.task).to(device), rows)
        _free()
        tokens = _TOKENS if found.task.writes and of == "run" else None
        known = {"texts": len(rows), "tokens": tokens, "of": of}
        facts |= _told(watcher, "checked", **known, **_check(expected, merged, facts["dtype"]))
        if found.packed or facts["dtype"] != found.provenance["dtype"]:
            trained = _logits((held or found.as_trained(device)).model, rows)
            _free()
            facts |= _told(watcher, "changed", **_change(found, into, trained, merged))
        size = sum(path.stat().st_size for path in unfinished.rglob("*") if path.is_file())
    seconds = round(time.perf_counter() - began, 3)
    last = {"event": "finished", **facts, "folder": str(out), "bytes": size, "seconds": seconds}
    watcher(last)
    return last


def _check_into(found: Found, into: Into) -> None:
    if into not in get_args(Into):
        raise SettingsError(f"--into is {into!r}{did_you_mean(into, get_args(Into))}")
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
    found: Found,
    held: Opened | None,
    folder: Path,
    device: torch.device,
    into: Into,
    rows: list[dict[str, Tensor]],
    watcher: Watcher,
) -> tuple[Event, _Logits]:
    """Write the checkpoint; returns what is to be said of it and what it should compute. Afterwards the model is gone,
    unless it is what is held.
    """
    as_stored = held is not None and held.adapter.removable and not found.packed and found.dtype == found.stored_dtype
    stored: Any = held.model if held is not None and as_stored else found.base_as_stored(device)
    facts = _told(
        watcher,
        "model",
        model=found.base.name,
        **{"class": type(stored).__name__},
        auto_class=found.task.auto_class.__name__,
        total_parameters=_size(stored),
        dtype=str(stored.dtype).removeprefix("torch."),
        device=str(device),
    )
    with using(stored) if as_stored else nullcontext():
        base = _logits(stored, rows)
    opened = held if held is not None and as_stored else found.attached(stored)
    if into == "dequantized":
        _dequantize((held or found.as_trained(device)).model, opened.model)
        _free()
        with using(opened.model):
            base = _logits(opened.model, rows)
    expected = _Logits(_logits(opened.model, rows), base)
    adapter = opened.adapter
    facts |= _told(
        watcher,
        "merged",
        method=adapter.method.name,
        hosts=len(adapter.hosts_of_method),
        heads=list(adapter.heads),
    )
    with _plain(found, adapter, device, keep=opened is held) as network, quiet():
        if stop := found.provenance.get("stop"):
            network.generation_config.eos_token_id = list(stop)  # where the adapter learned to stop
        network.save_pretrained(folder)
        if found.tokenizer is not None:
            cut_in_files(found.tokenizer, None if found.task.writes else found.provenance["max_length"])
            found.tokenizer.save_pretrained(folder)
    return facts, expected


def _size(model: nn.Module) -> int:
    """Count the parameters of the base, whether or not an adapter is attached."""
    own = {id(p): p.numel() for _, module in base_modules(model) for p in module._parameters.values() if p is not None}
    return sum(own.values())


@torch.no_grad()
def _dequantize(packed: nn.Module, plain: nn.Module) -> None:
    """Give the plain base the weights that the quantized one computes with."""
    for name, host in packed.named_modules():
        if weights.is_linear(host) and weights.is_packed(host):
            weights.write(plain.get_submodule(name), weights.read(host))


@contextmanager
def _plain(found: Found, adapter: Adapter, device: torch.device, keep: bool) -> Iterator[Any]:
    """Give the model with the adapter in its weights, and with nothing of Inlay in what it saves.

    With `keep` it is afterwards what it was, the adapter beside its base."""
    if not adapter.removable:
        plain: Any = found.base_as_stored(device)
        loaded = plain.load_state_dict(adapter.state_dict(), strict=False)  # tied weights have one name of two
        assert not loaded.unexpected_keys
        yield plain
    elif not keep:
        yield adapter.merge_and_detach()
    else:
        model: Any = adapter.model
        generation = copy.deepcopy(getattr(model, "generation_config", None))
        adapter.merge()
        try:
            yield model
        finally:
            adapter.unmerge()
            if generation is not None:
                model.generation_config = generation


def _loaded(folder: Path, task: Task) -> nn.Module:
    written = find_base(str(folder))
    return replace(task, base=written, config=written.config).load("auto")[0]


def _rows(found: Found) -> tuple[list[dict[str, Tensor]], str]:
    """Return texts that the run has written beside the adapter, as tokens; random tokens if there are none."""
    few = _TEXTS if found.task.writes else _LABELLED_TEXTS
    texts, of = _texts_of_run(found, few), "run"
    length = found.provenance["max_length"]
    if found.task.writes:
        length = min(_TOKENS, length)
    if (tokenizer := found.tokenizer) is None:
        network: Any = found.planned.model
        count = network.get_input_embeddings().weight.shape[0]
        drawn = [row[None, :length] for row in _drawn(count, few)]
        return [{"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)} for ids_1T in drawn], "random"
    if not texts:
        special, of = set(tokenizer.all_special_ids), "random"
        plain = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
        texts = [(tokenizer.decode(plain[row].tolist()), None) for row in _drawn(len(plain), few)]
    encoded = [tokenizer(*text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
    keys = found.task.input_keys
    return [{key: value for key, value in row.items() if keys is None or key in keys} for row in encoded], of


def _texts_of_run(found: Found, few: int) -> list[tuple[str, str | None]]:
    """Return so many of the texts that the run has predictions of, evenly spread."""
    path = found.folder.parent / "predictions.jsonl"
    if found.folder.name != "adapter" or not path.is_file():
        return []
    with guarded(path, "the predictions of a run", todo="remove it, and random tokens are compared"):
        entries = list(read_json_lines(path, "the predictions of a run"))
        spread = [entries[i * len(entries) // few] for i in range(few)] if len(entries) > few else entries
        texts = [(e.get("prompt", "") + e["text"], e.get("pair")) for e in spread]
    return texts if all(text.strip() for text, _ in texts) else []


def _drawn(count: int, texts: int) -> Tensor:
    """Return numbers below `count` as tokens of so many texts, always the same."""
    return torch.randint(count, (texts, _TOKENS // 2), generator=torch.Generator().manual_seed(0))


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
    free_unused()
