"""Settings from a command line or a file: whatever they are, they are usable or refused with a sentence, exit 2."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import inlay
from inlay.cli import main
from inlay.cli.config_file import read_config_file
from inlay.cli.data import _Tokens
from inlay.cli.demo import Demo
from inlay.cli.eval import Eval
from inlay.cli.predict import Predict
from inlay.cli.rank import Rank
from inlay.cli.train import parse_settings
from inlay.data.settings import DataSettings
from inlay.errors import SettingsError
from inlay.lab.compare.settings import CompareSettings
from inlay.methods import METHODS
from inlay.ranges import Range, kind_of
from inlay.training.settings import RunSettings

from .attempts import MANY, bounded, seeded

DATA = DataSettings(path="d")
NEEDED: dict[type, dict[str, Any]] = {
    RunSettings: {"model": "m", "data": DATA, "method": inlay.LoRA()},
    CompareSettings: {"model": "m", "data": DATA},
    DataSettings: {"path": "d"},
    Predict: {"adapter": "a"},
    Eval: {"adapter": "a"},
    Rank: {"subject": "a"},
    Demo: {},
    _Tokens: {"model": "m"},
    **dict.fromkeys(METHODS.values(), {}),
}
NUMBERS = [
    (owner, field.name)
    for owner in NEEDED
    for field in dataclasses.fields(owner)
    if kind_of(field.type).type in (int, float)
]
HOSTILE = [0, -1, 1, 2**31, 2**63, 2**64, 10**18, 10**400, -(10**18), 1e12, 1e308, 5e-324, -0.0, 0.5, 1.5]
numbers = st.one_of(
    st.sampled_from([*HOSTILE, math.nan, math.inf, -math.inf]), st.integers(), st.floats(), st.integers(-5, 5000)
)


def range_of(owner: type, name: str) -> Range:
    found = kind_of(owner.__dataclass_fields__[name].type).range
    assert found is not None, f"{owner.__name__}.{name} has no range"
    return found


def several(owner: type, name: str, value: Any) -> Any:
    """The value in the form that the setting has."""
    return {"": value, "list": (value,), "pairs": {"q_proj": value}}[
        kind_of(owner.__dataclass_fields__[name].type).several
    ]


@pytest.mark.parametrize(("owner", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_limits_and_is_held_to_them(owner: type, name: str) -> None:
    limits = range_of(owner, name)
    low = limits.least if limits.least is not None else limits.above
    high = limits.most if limits.most is not None else limits.below
    assert low is not None
    assert high is not None
    below, above = (low if low == limits.above else low - max(1, abs(low) / 10)), high + max(1, abs(high) / 10)
    for value in (below, above, math.nan, math.inf, -math.inf, "x", True):
        with pytest.raises(SettingsError, match=rf"{name}( of 'q_proj')? is .*; it must be "):
            owner(**NEEDED[owner] | {name: several(owner, name, value)})


@seeded(500)
@given(st.sampled_from(NUMBERS), numbers)
def test_a_number_is_in_its_range_or_refused(which: tuple[type, str], value: float) -> None:
    owner, name = which
    try:
        made = owner(**NEEDED[owner] | {name: several(owner, name, value)})
    except SettingsError:
        return
    assert getattr(made, name) == several(owner, name, value)
    assert math.isfinite(value)
    assert value in range_of(owner, name)


def test_numbers_of_the_usual_kinds_are_taken() -> None:
    import numpy

    assert inlay.LoRA(rank=numpy.int64(4), alpha=8, dropout=numpy.float32(0.5)).rank == 4  # pyright: ignore
    assert inlay.LoRA(targets="q_proj").targets == ("q_proj",)  # pyright: ignore


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "-1"], "seed is -1; it must be at least 0"),
        (["--seed", "4294967296"], "seed is 4294967296; it must be at most 4,294,967,295"),
        (["--weight-decay", "nan"], "weight_decay is nan; it must be at least 0 and at most 1,000"),
        (["--epochs", "inf"], "epochs is inf; it must be above 0 and at most 100,000"),
        (["--epochs", "1e12"], "epochs is 1000000000000.0; it must be at most 100,000"),
        (["--learning-rate", "inf"], "learning_rate is inf; it must be above 0 and at most 1e+38"),
        (["--learning-rate=-inf"], "learning_rate is -inf"),
        (["--batch-size", "1" + 18 * "0"], "batch_size is 1000000000000000000; it must be at most 1,000,000"),
        (["--batch-size", 400 * "9"], "batch_size is a number of very many digits"),
        (["--batch-size", 5000 * "9"], "--batch-size"),
        (["--batch-size", "16.0"], "--batch-size"),
        (["--clip", "nan"], "clip is nan"),
        (["--method.rank", "1000000"], "method.rank is 1000000; it must be at most 65,536"),
        (["--method.alpha", "nan"], "method.alpha is nan"),
        (["--method.rank-pattern", "q", "0"], "method.rank_pattern of 'q' is 0"),
        (["--checkpoint-minutes", "inf"], "checkpoint_minutes is inf"),
        (["--data.valid-fraction", "nan"], "data.valid_fraction is nan"),
        (["--method", ""], "unknown method ''"),
        (["--config", ""], ".: a file of settings is needed"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_flag_that_cannot_be_ends_with_2(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "builtin:minilm", "builtin:tickets", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model: m\ndata: --help\n", "run.yaml:2: data.path has '--help', which begins like a flag"),
        (b"model: -x\ndata: d\n", "run.yaml:1: model has '-x'"),
        (b"model: m\ndata: d\nout: --help\nseed: x\n", "--seed"),
        (
            b"model: m\ndata: d\nmethod:\n  name: lora\n  targets: [q_proj, --help]\n",
            "run.yaml:5: method.targets has '--help'",
        ),
        (
            b"model: m\ndata: d\nmethod:\n  name: lora\n  rank_pattern: {-h: 3}\n",
            "run.yaml:5: method.rank_pattern has '-h'",
        ),
        (b"model: m\ndata: d\nmethod:\n  name: --help\n", "unknown method '--help'"),
        ("model: m\ndata: d\n".encode("utf-16"), "run.yaml: a file of settings that cannot be read ('utf-8' codec"),
        ("model: m\ndata: grün\n".encode("latin-1"), "run.yaml: a file of settings that cannot be read ('utf-8' codec"),
        (b"model: m\ndata: a\x00b\n", "run.yaml: not YAML"),
        (b'model: m\ndata: "a\\0b"\n', "data.path is 'a\\x00b'; it cannot have a NUL"),
        (b'model: m\ndata: "\\UFFFFFFFF"\n', "run.yaml: not YAML"),
        (b"model: m\ndata: !!python/object/apply:os.system [ls]\n", "run.yaml:2: settings have no tag"),
        (b"model: m\ndata: d\nseed: !!int 3\n", "run.yaml:3: settings have no tag"),
        (b"model: &m x\ndata: d\n", "run.yaml:1: settings have no anchor or alias 'm'"),
        (b"model: m\ndata: d\n<<: {seed: 1}\n", "unknown setting <<"),
        (LAUGHS.encode(), "run.yaml:1: settings have no anchor or alias 'a'"),
        (b"? [a, b]\n: c\n", "run.yaml:1: the name of a setting is a list"),
        (b"model: m\nmodel: n\n", "run.yaml:2: model is set in line 1 already"),
        (b"model: m\ndata: d\ndata.path: e\n", "run.yaml:3: data.path is set in line 2 already"),
        (b"model: m\ndata: d\nmethod:\n  name: lora\nbatch-size: 2\nbatch_size: 3\n", "run.yaml:6: batch_size is set"),
        (b"", "run.yaml: a run's settings are a mapping"),
        (b"# nothing\n", "run.yaml: a run's settings are a mapping"),
        (b"[model, m]\n", "run.yaml: a run's settings are a mapping"),
        (b"model: m\n---\nmodel: n\n", "run.yaml: not YAML"),
        (b"model: " + 2000 * b"[", "run.yaml: nested too deeply"),
        (b"model: m\ndata: d\nseed: [1, 2]\n", "run.yaml:3: seed is a list; it takes one value"),
        (b"model: m\ndata: d\nseed: {a: 1}\n", "run.yaml:3: seed is a mapping; it takes one value"),
        (b"model: m\ndata: d\nseed:\n", "run.yaml:3: seed has no value"),
        (b"model: m\ndata: d\nforgetting: maybe\n", "run.yaml:3: forgetting is 'maybe'; it must be true or false"),
        (b"model: m\ndata: d\nseed: 12:30\n", "--seed"),
        (b"model: m\ndata: d\nepochs: .inf\n", "--epochs"),
        (
            b"model: m\ndata: d\nmethod:\n  name: lora\n  targets: {a: 1}\n",
            "method.targets is a mapping; it takes a list",
        ),
        (b"model: m\ndata: d\nmethod:\n  name: [lora]\n", "method is a list"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)
def test_a_file_that_cannot_be_ends_with_2(
    text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_bytes(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_file_as_large_as_a_disk_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    with path.open("wb") as file:
        file.truncate(2**34)
    assert main(["train", "--config", str(path)]) == 2
    assert "too many for a file of settings" in capsys.readouterr().err


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: m\ndata:\n  path: 2020-01-01\n  format: labelled-text\n  label: no\n  text: 010\nout: 1e3\n"
        "seed: 010\nlearning_rate: 1e-4\nforgetting: off\nepochs: null\n"
        "method:\n  name: lora\n  targets: q_proj\n  tokens: [3, 4]\n"
    )
    asked = parse_settings(["--config", str(path)])
    assert (asked.data.path, asked.data.label, asked.data.text, asked.out) == ("2020-01-01", "no", "010", "1e3")
    assert (asked.seed, asked.learning_rate, asked.forgetting, asked.epochs) == (10, 1e-4, False, None)
    assert (asked.method.targets, asked.method.tokens) == (("q_proj",), (3, 4))


KEYS = ["model", "data", "method", "seed", "epochs", "out", "forgetting", "dtype", "batch-size", "retain", "data.path"]
INNER = ["name", "rank", "alpha", "targets", "rank_pattern", "path", "format", "text", "label", "train_norms", "tasks"]
WORDS = [
    "m",
    "d",
    "lora",
    "--help",
    "-h",
    "--",
    "-1",
    "~",
    "null",
    "true",
    "no",
    "nan",
    ".inf",
    "1e400",
    "",
    " ",
    "é",
    "\x1b[2J",
]
words = st.one_of(st.sampled_from(WORDS), st.sampled_from(list(METHODS)), st.text(max_size=8), numbers.map(str))
values = st.recursive(
    words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER) | words, inner, max_size=4),
)
files = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.dictionaries(st.sampled_from(KEYS) | words, values, max_size=6).map(lambda value: _written(value)),
)


def _written(value: Any) -> bytes:
    """Write YAML without quotes, so that words mean what YAML makes of them."""
    if isinstance(value, dict):
        return b"{" + b", ".join(_written(k) + b": " + _written(v) for k, v in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_written, value)) + b"]"
    return value.encode("utf-8", "surrogatepass")


def _reads(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with bounded():
        try:
            asked = read_config_file(path)
            arguments = asked.arguments(METHODS[asked.method or "lora"])
        except SettingsError:
            return
    known = (
        "--data.",
        "--method.",
        *(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunSettings)),
    )
    for argument in arguments:
        assert not argument.startswith("--") or argument.startswith((*known, "--no-"))
        assert argument not in ("-h", "--help")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "run.yaml"


def test_any_file_is_read_or_refused(file: Path) -> None:
    seeded(500)(given(files)(lambda content: _reads(file, content)))()


@pytest.mark.slow
def test_very_many_files_are_read_or_refused(file: Path) -> None:
    seeded(MANY)(given(files)(lambda content: _reads(file, content)))()


def _parses(arguments: list[str]) -> None:
    with bounded():
        try:
            asked = parse_settings(arguments)
        except SettingsError:
            return
    for owner in (asked, asked.data, asked.method):
        for field in dataclasses.fields(owner):
            value = getattr(owner, field.name)
            assert not isinstance(value, float) or math.isfinite(value)


FLAGS = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunSettings)] + [
    "--method.rank",
    "--config",
]
flags = st.lists(st.tuples(st.sampled_from(FLAGS), words | st.none()), max_size=4).map(
    lambda pairs: [each for pair in pairs for each in pair if each is not None and each not in ("--help", "-h")]
)


@seeded(40)
@given(flags)
def test_any_flags_are_read_or_refused(given_flags: list[str]) -> None:
    _parses(["m", "d", *given_flags])


@pytest.mark.slow
@seeded(MANY)
@given(flags)
def test_very_many_flags_are_read_or_refused(given_flags: list[str]) -> None:
    _parses(["m", "d", *given_flags])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("lora:rank=", "lora:rank=: rank has no value"),
        ("lora:rank=4,rank=8", "lora:rank=4,rank=8: rank is given twice"),
        ("lora:rank=--help", "--rank"),
        ("lora:targets=--help", "'--help' match"),
        ("lora:rank=!!python/object/apply:os.system [ls]", "settings have no tag"),
        ("lora:rank=&a 3", "settings have no anchor or alias"),
        ("lora:rank=" + 2000 * "[", "nested too deeply"),
        ("lora:rank=nan", "--rank"),
        ("lora:alpha=nan", "method.alpha is nan"),
    ],
    ids=lambda value: value[:40],
)
def test_a_method_to_compare_that_cannot_be(label: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "builtin:minilm", "builtin:tickets", "--methods", label, "full"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("lora", {"targets": "attention"}),
        ("norm", {"targets": "norms"}),
        ("ia3", {"targets": "dense", "feedforward": "dense"}),
        ("pattern", {"include": ".*bias", "exclude": ".*0.*"}),
    ],
)
def test_one_text_or_a_list_is_taken_for_several(name: str, texts: dict[str, Any]) -> None:
    kind: Any = METHODS[name]
    as_tuples = kind(**{field: (text,) for field, text in texts.items()})
    assert kind(**texts) == as_tuples == kind(**{field: [text] for field, text in texts.items()})
