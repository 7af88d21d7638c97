"""What a registry finds, lists and refuses: our own things, those of installed packages, those of a program."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inlay
from inlay.errors import SettingsError
from inlay.registry import Registry


class Metric:
    def __init__(self, name: str):
        self.name = name


class Exact(Metric):
    name = "exact"

    def __init__(self) -> None: ...


@pytest.fixture
def registry() -> Registry[Metric]:
    return Registry("metric", group="inlay.nothing", of=Metric, own=[Metric("loss"), Metric("accuracy")])


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of the user's, which is the working directory."""
    lines = ("from tests.core.test_registry import Metric", "word_error = Metric('wer')")
    lines += ("class Holder:", "    best = Metric('best')", "")
    (tmp_path / "their_metrics.py").write_text("\n".join(lines))
    (tmp_path / "damaged_metrics.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for module in ("their_metrics", "damaged_metrics"):
        sys.modules.pop(module, None)


def test_names_come_in_the_order_of_registration_our_own_first(registry: Registry[Metric]) -> None:
    zero = registry.register(Metric("a-zero"))
    assert list(registry) == ["loss", "accuracy", "a-zero"]
    assert len(registry) == 3
    assert registry["a-zero"] is registry.get("a-zero") is zero
    assert "a-one" not in registry
    assert registry.get("a-one") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("los", r"^unknown metric 'los'; did you mean loss\?$"),
        ("spearman", "^unknown metric 'spearman'; known: accuracy, alias, loss$"),
        ("no_such_module:x", "^metric no_such_module:x: its module cannot be imported: ModuleNotFoundError: No module"),
        (":x", "^metric :x: its module cannot be imported: "),
        ("damaged_metrics:x", "cannot be imported: ZeroDivisionError: division by zero$"),
        ("their_metrics:wer", "^metric their_metrics:wer: their_metrics has no wer$"),
        ("their_metrics:", "^metric their_metrics:: their_metrics has no name after the colon$"),
        ("their_metrics:Holder", "^<class 'their_metrics.Holder'> is no metric: it must be of Metric$"),
    ],
)
def test_what_is_not_there_is_said(registry: Registry[Metric], elsewhere: Path, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        registry.find(name, also=["alias"])


def test_a_place_in_a_module_beside_which_the_command_is_called_is_a_name(
    registry: Registry[Metric], elsewhere: Path
) -> None:
    assert registry["their_metrics:word_error"].name == "wer"
    assert registry["their_metrics:Holder.best"] is registry["best"]
    assert list(registry) == ["loss", "accuracy", "wer", "best"]


def test_a_name_is_taken_once_and_a_class_may_be_defined_again(registry: Registry[Metric]) -> None:
    for name, said in [("loss", "the name of the metric loss"), ("", "called ''"), ("a:b", "without a colon")]:
        with pytest.raises(SettingsError, match=said):
            registry.register(Metric(name))
    first, again = (type("Exact", (Exact,), {}) for _ in range(2))
    classes = Registry("metric", group="inlay.nothing", of=Metric)
    classes.register(first)
    assert classes.register(again) is classes["exact"] is again
    with pytest.raises(SettingsError, match=r"Other is called 'exact', which is the name of the metric \S+:Exact;"):
        classes.register(type("Other", (Exact,), {}))
    assert classes.reference(again) == "tests.core.test_registry:Exact"


def test_what_an_installed_package_offers_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offered.py").write_text("from tests.core.test_registry import Metric\nwer = Metric('wer')\n")
    about = tmp_path / "offered-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    lines = ["[inlay.metrics]", "wer = offered:wer", "loss = offered:wer", "cer = offered:wer", "gone = offered:gone"]
    (about / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("metric", group="inlay.metrics", of=Metric, own=[Metric("loss")])
    assert list(registry) == ["loss", "wer", "cer", "gone"]
    assert registry.reference(registry["wer"]) == registry["wer"].name == "wer"
    for name, said in [
        ("loss", "^the installed package offered has a metric 'loss', as Inlay has; uninstall it$"),
        ("cer", "^the installed package offered offers offered:wer as 'cer', which is no metric 'cer'$"),
        ("gone", "^metric gone of the installed package offered: its module cannot be imported: AttributeError"),
    ]:
        with pytest.raises(SettingsError, match=said):
            registry[name]


def test_only_what_a_registry_takes_can_be_registered() -> None:
    with pytest.raises(SettingsError, match="is no method"):
        inlay.register(dataclasses.dataclass)
    assert inlay.register(inlay.LoRA) is inlay.LoRA
    assert len(inlay.METHODS) == 22
