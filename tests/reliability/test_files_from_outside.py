"""Whatever is in an adapter's or a base's files, they are used rightly or refused: an error with exit 2 to 5, in time.

A fault is any other exception, or numbers that are none in what is used. Seeded: the same damage on every machine.
"""

import functools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import inlay
from inlay.bases.base import empty_classifier, find_base, load_classifier
from inlay.bases.vocabulary import check_ids, check_vocabulary
from inlay.errors import InlayError
from inlay.inference.opened import find_adapter

from ..edited import unseal
from ..shapes import SHAPES, disturb
from ..tiny_models import save_tiny_model
from .mutations import of_file

pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = {name: cls for name, cls in inlay.METHODS.items()}
SLOWEST = 20.0  # seconds, where ours takes hundredths: a limit that noise cannot fail
QUICK, SLOW = 500, 10_000
TEXT = "the film was good"


def fuzz(quick: int, slow: int) -> Callable[[Callable[..., None]], Any]:
    """Run a test in a reduced form, and in the long one where slow tests are run."""

    def both(test: Callable[..., None]) -> Any:
        return pytest.mark.parametrize(
            "examples", [quick, pytest.param(slow, marks=[pytest.mark.slow, pytest.mark.long])]
        )(test)

    return both


def try_all(examples: int, files: list[Path], read: Callable[[], Any]) -> None:
    """Damage one of the files after the other, and read; each is put back."""
    whole = {path: path.read_bytes() for path in files}
    damage = {path: of_file(path) for path in files}
    outcomes = {"read": 0, "refused": 0}

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def once(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        path.write_bytes(data.draw(damage[path]))
        began = time.monotonic()
        try:
            read()
            outcomes["read"] += 1
        except InlayError as problem:
            if not 2 <= problem.exit_code <= 5 or len(str(problem)) > 5000:
                raise AssertionError(f"{problem.exit_code}: {problem}") from None
            outcomes["refused"] += 1
        finally:
            path.write_bytes(whole[path])
        assert time.monotonic() - began < SLOWEST

    once()
    assert outcomes["refused"] > examples / 10, outcomes


@functools.cache
def _model() -> Any:
    return SHAPES["llama"].classifier()


@fuzz(20, SLOW // len(METHODS))
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

    read()
    try_all(examples, sorted(path for path in tmp_path.iterdir() if path.is_file()), read)
    assert not inlay.adapters(_model())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in `base`, and the adapter of a run on it in `adapter`."""
    folder = tmp_path_factory.mktemp("outside")
    base = find_base(save_tiny_model(SHAPES["bert"], folder / "base"))
    model, heads = load_classifier(base, base.classifier_config(("bad", "good"), 0), torch.float32)
    adapter = inlay.attach(model, inlay.LoRA(rank=2), heads=heads)
    disturb(adapter)
    about = {"model": base.name, "task": "classify", "labels": ["bad", "good"], "columns": {"text": "text"}}
    about |= {"seed": 0, "max_length": 16, "dtype": "float32", "quantize": "none", "data": {"path": "rows.jsonl"}}
    adapter.save(folder / "adapter", provenance=about, tokenizer=base.tokenizer())
    return folder


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "adapter"
    shutil.copytree(folder / "adapter", copy)
    return copy


@fuzz(60, SLOW)
def test_what_a_run_says_of_its_adapter(examples: int, adapter: Path) -> None:
    unseal(adapter)

    def read() -> None:
        found = find_adapter(adapter)
        assert found.provenance["dtype"] in ("float32", "float16", "bfloat16")
        found.check_reads()
        found.as_trained(torch.device("cpu")).answer([TEXT])

    read()
    own = [adapter / "provenance.json"]
    unsealed = own[0].read_text()
    about = json.loads(unsealed)
    about.pop("sealed"), about.pop("digests")
    own[0].write_text(json.dumps(about))  # of an adapter that somebody made: nothing is found by its digest
    try_all(examples, own, read)


@fuzz(80, SLOW)
def test_a_bases_files(examples: int, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(folder / "base", copy)

    def read() -> None:
        base = find_base(str(copy))
        tokenizer = base.tokenizer()
        config = base.classifier_config(("bad", "good"), tokenizer.pad_token_id)
        check_vocabulary(tokenizer, empty := empty_classifier(config))
        check_ids(tokenizer, empty, [tokenizer(TEXT)["input_ids"]])
        model, _ = load_classifier(base, config, torch.float32)
        row = tokenizer(TEXT, return_tensors="pt", truncation=True, max_length=min(16, base.positions))
        with torch.no_grad():
            model.eval()(**row)

    read()
    try_all(examples, sorted(path for path in copy.iterdir() if path.is_file()), read)
