"""Whatever is in an adapter's or a base's files, they are used rightly or refused: an error with exit 2 to 5, in time.

A fault is any other exception, or numbers that are none in what is used. Seeded: the same damage on every machine.
"""

import copy
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

import inlay
from inlay.bases.auto_class import labeller_class
from inlay.bases.base import Base, empty_classifier, find_base, load_classifier
from inlay.bases.vocabulary import check_ids, check_vocabulary
from inlay.inference.opened import find_adapter

from ..edited import unseal
from ..shapes import SHAPES, disturb
from ..tiny_models import save_tiny_model
from .attempts import MANY, fuzz, try_all
from .mutations import of_file

pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = {name: cls for name, cls in inlay.METHODS.items()}
TEXT = "the film was good"


def damage_to(folder: Path) -> dict[Path, st.SearchStrategy[bytes]]:
    return {path: of_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


@functools.cache
def _model() -> Any:
    return SHAPES["llama"].classifier()


@fuzz(23, -(-MANY // len(METHODS)))
@pytest.mark.parametrize("name", METHODS)
def test_an_adapters_files(name: str, examples: int, tmp_path: Path) -> None:
    model = SHAPES["llama"].classifier()
    method = METHODS[name](**METHODS[name].example)
    adapter = inlay.attach(model, method)
    disturb(adapter)
    adapter.save(tmp_path)
    unseal(tmp_path)
    ids = torch.tensor([[5, 6, 7]])

    def read() -> None:
        other = inlay.load(host := SHAPES["llama"].classifier() if not adapter.removable else _model(), tmp_path)
        try:
            with torch.no_grad():
                host(input_ids=ids)
            for key, tensor in other.state_dict().items():
                assert not tensor.is_floating_point() or tensor.isfinite().all(), key
        finally:
            if other.removable:
                other.detach()

    try_all(examples, damage_to(tmp_path), read)
    assert not inlay.adapters(_model())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in `base`, and the adapter of a run on it in `adapter`."""
    folder = tmp_path_factory.mktemp("outside")
    base = find_base(save_tiny_model(SHAPES["bert"].shallow, folder / "base"))
    model, heads = load_classifier(base, base.classifier_config(("bad", "good"), 0), torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(rank=2), heads=heads)
    disturb(adapter)
    about = {"model": base.name, "task": "classify", "labels": ["bad", "good"], "columns": {"text": "text"}}
    about |= {"seed": 0, "max_length": 16, "dtype": "float32", "quantize": "none", "data": {"path": "rows.jsonl"}}
    adapter.save(folder / "adapter", provenance=about, tokenizer=base.tokenizer())
    return folder


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    own = tmp_path / "adapter"
    shutil.copytree(folder / "adapter", own)
    return own


@pytest.fixture
def known_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is read once: no test that has this changes it."""
    path, tokenizer, load = str(folder / "base"), Base.tokenizer, Base.load
    made: dict[Any, Any] = {}

    def tokenizer_of(base: Base) -> Any:
        return (
            tokenizer(base)
            if base.path != path
            else made.get("tokenizer") or made.setdefault("tokenizer", tokenizer(base))
        )

    def loaded(base: Base, auto_class: Any, config: Any, take: Any = None, **how: Any) -> Any:
        if base.path != path or config is None or set(config.id2label.values()) != {"bad", "good"}:
            return load(base, auto_class, config, take, **how)
        key = (*config.id2label.values(), *map(str, how.items()))
        return copy.deepcopy(made.get(key) or made.setdefault(key, load(base, auto_class, config, take, **how)))

    monkeypatch.setattr(Base, "tokenizer", tokenizer_of)
    monkeypatch.setattr(Base, "load", loaded)


@fuzz(300)
def test_what_a_run_says_of_its_adapter(examples: int, adapter: Path, known_base: None) -> None:
    unseal(adapter)

    def read() -> None:
        found = find_adapter(adapter)
        assert found.provenance["dtype"] in ("float32", "float16", "bfloat16")
        found.check_reads()
        found.as_trained(torch.device("cpu")).answer([TEXT])

    own = adapter / "provenance.json"
    about = json.loads(own.read_text())
    about.pop("sealed"), about.pop("digests")
    own.write_text(json.dumps(about))  # of an adapter that somebody made: nothing is found by its digest
    try_all(examples, {own: of_file(own)}, read)


@fuzz(500)
def test_a_bases_files(examples: int, folder: Path, tmp_path: Path) -> None:
    """What is read of files that are whole is read once."""
    own = tmp_path / "base"
    shutil.copytree(folder / "base", own)
    whole = {path: path.read_bytes() for path in own.iterdir()}
    of_weights, of_model = {"model.safetensors"}, {"model.safetensors", "config.json", "generation_config.json"}
    of_texts = {path.name for path in whole} - of_weights
    known: dict[str, Any] = {}

    def read() -> None:
        touched = {path.name for path, content in whole.items() if path.read_bytes() != content}

        def part(name: str, files: set[str], make: Callable[[], Any]) -> Any:
            if name in known and not touched & files:
                return known[name]
            made = make()
            return made if touched else known.setdefault(name, made)

        base = find_base(str(own))
        tokenizer = part("tokenizer", of_texts, base.tokenizer)
        config = part("config", of_texts, lambda: base.classifier_config(("bad", "good"), tokenizer.pad_token_id))
        check_vocabulary(tokenizer, empty := part("empty", {"config.json"}, lambda: empty_classifier(config)))
        check_ids(tokenizer, empty, [tokenizer(TEXT)["input_ids"]])
        part("notes", of_model, lambda: base.check_weights(labeller_class(config), config))  # as every verb does
        model, _ = part("model", of_model, lambda: load_classifier(base, config, torch.float32))
        row = tokenizer(TEXT, return_tensors="pt", truncation=True, max_length=min(16, base.positions))
        with torch.no_grad():
            model.eval()(**row)
        assert all(p.isfinite().all() for p in model.parameters())

    try_all(examples, damage_to(own), read)
