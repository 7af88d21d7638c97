import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MKL_CBWR"] = "AUTO,STRICT"  # else a product's last bit depends on where in memory its factors lie
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import signal
from collections.abc import Iterator

import pytest
import torch

pytest.register_assert_rewrite("tests.training.resume.runs")  # else a failed assertion there does not show its values
pytest.register_assert_rewrite("inlay.testing.contract", "inlay.testing.several_adapters")

from inlay.cost import busy, calibration  # noqa: E402
from inlay.registries import REGISTRIES  # noqa: E402

from .shapes import SHAPES, Shape  # noqa: E402
from .tiny_models import save_tiny_model, write_reviews  # noqa: E402

torch.set_num_threads(1)  # the models here are too small to share
calibration.STEPS[:] = [trial for trial in calibration.STEPS if trial.is_short]  # no test is about this machine's speed
busy._SECONDS, busy._FREE = 0.001, -1.0  # nor is what else this machine does
os.fsync = lambda _: None  # no file here needs to outlive a power failure, and a short run would wait for 250 of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes come first, so that no other process waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """Take what is imported by now out of what `gc.collect` looks through: every run calls it, and most of the time of
    a short one would go there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_record(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the runs of a test out of this machine's record, and the record's corrections out of the test."""
    monkeypatch.setenv("INLAY_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what it puts into the background with Ctrl-C ignored, and nohup with the end of a terminal; so
    would this process be, and others."""
    wanted = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    numbers = {getattr(signal, name): handler for name, handler in wanted.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    """What a test registers is known to it alone: lists of methods would be others after it."""
    before = [dict(registry._registered) for registry in REGISTRIES]
    yield
    for registry, things in zip(REGISTRIES, before, strict=True):
        registry._registered.clear()
        registry._registered.update(things)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small BERT with a tokenizer."""
    return save_tiny_model(SHAPES["bert"], tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small Llama with a tokenizer."""
    return save_tiny_model(SHAPES["llama"], tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with train, valid and test files, two labels."""
    return write_reviews(tmp_path_factory.mktemp("reviews"))
