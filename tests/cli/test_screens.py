"""Every screen of every verb at 80, 100 and 120 columns, as files in screens/ that were read by a person.

After a change of words: `INLAY_SCREENS=write pytest tests/cli/test_screens.py`, and look at the difference. What is not
the same everywhere, such as times, is fixed here or masked; nothing is trained for these screens but one small run.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import inlay
from inlay.cli import VERBS, doctor, main, plan
from inlay.cli.compare_screen import print_result
from inlay.cli.console import watching
from inlay.cli.demo import _answer
from inlay.cli.demos import DEMOS
from inlay.cli.merge import _line as merge_line
from inlay.cli.next_steps import next_steps
from inlay.cli.screen import note, screens, show, width
from inlay.cost.accuracy import Accuracy, Errors
from inlay.lab.rank.analysis import Analysis, Layer
from inlay.lab.rank.curve import CutCurve, Point
from inlay.lab.rank.directions import AgainstBase, Overlap
from inlay.lab.rank.ranks import Ranks
from inlay.lab.rank.screen import analysis_screen, suggestion_screen
from inlay.lab.rank.suggestion import Suggested, Suggestion
from inlay.models.sites import Place
from inlay.stats import Difference

from ..compare.fakes import accuracies, comparison_of, write_language_model
from ..plans import some_methods
from ..tiny_models import write_rows

WIDTHS = (80, 100, 120)
FOLDER = Path(__file__).parent / "screens"
VERY_WIDE = 2_000


class Terminal(io.StringIO):
    """A terminal in memory, without bars that move."""

    encoding = "utf-8"  # pyright: ignore[reportAssignmentType]

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(columns: int) -> Iterator[Terminal]:
    shown = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "dumb")
        patch.setattr("sys.stdout", shown)
        patch.setattr("sys.stderr", shown)
        yield shown


def verb(*arguments: str) -> Callable[[], object]:
    def run() -> None:
        with suppress(SystemExit):  # after a help
            main(list(arguments))

    return run


def events(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def replayed(name: str) -> Callable[[], object]:
    def run() -> None:
        with screens(), watching(json_lines=False) as watcher:
            for event in events(name):
                watcher(event)

    return run


def merged() -> None:
    for event in events("merge"):
        merge_line(event)


def examined() -> None:
    """Show a machine that is the same everywhere."""
    machine = {"system": "Linux-6.1-x86_64", "processor cores": "2 (2 threads used)", "device": "cpu"}
    machine |= {"memory": "12.0 GiB free of 16.0 GiB", "computes in": "float32 (bfloat16 would be slower here)"}
    found = {"machine": machine, "packages": {"torch": "2.13.0"}, "extras": {"optuna": "missing"}}
    versions = {"optuna": None, "ray": None}
    record = Accuracy(runs=12, time=Errors(0.081, 0.35), tensors=Errors(0.0, 0.0), process=Errors(0.034, -0.092))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "examine", lambda: found)
        patch.setattr(doctor, "plans_on_record", lambda: record)
        patch.setattr(doctor, "_version", lambda name: versions.get(name, "1.0"))
        main(["doctor"])


def demo_answers() -> None:
    classify, generate = DEMOS.values()
    drawn = "I remember a fox that slept under the bridge for as long as anybody in the village could remember to tell."
    with screens():
        for i, text in enumerate(classify.inputs):
            show(
                _answer(classify, {"label": "dispute_charge", "probability": (0.974, 0.5, 1.0)[i], "text": text}, ""), 4
            )
        for prompt in generate.inputs:
            show(_answer(generate, {"prompt": prompt, "text": "A red fox slept under the bridge."}, drawn), 11)


def next_lines() -> None:
    with screens():
        run = SimpleNamespace(folder=Path("runs/tickets-lora"), summary={}, example='"a text"')
        show(next_steps(run))  # pyright: ignore[reportArgumentType]


def analysed() -> None:
    ranks = Ranks(numerical=16, stable=2.41, effective=11.8, participation=5.0, energy={90: 6, 95: 9, 99: 14})
    overlap = Overlap(directions=16, left=0.07, right=0.05, random_left=0.04, random_right=0.04)
    base = AgainstBase(overlap=overlap, amplification=2.0, intruders=3)
    layers = [
        Layer(
            name=f"{block}.{name}",
            place=Place(block=block, role=role, within=name),
            shape=(384, 384),
            way="thin",
            norm=1.0,
            relative=0.1257 + 0.09 * i,
            values=[2.0, 1.0, 0.5],
            ranks=ranks,
            base=base,
            other=None,
        )
        for i, (block, role, name) in enumerate(
            [
                ("layer.0", "attention", "query"),
                ("layer.1", "attention", "query"),
                ("layer.0", "mixer", "in_proj"),
                ("layer.0", "feedforward", "up"),
                ("layer.0", "experts", "gate"),
                (None, "outside", "pooler"),
            ]
        )
    ]
    points = [
        Point(
            rank=rank, parameters=42_200 * rank, scores=scores(score), gain=Difference(gain, gain - 0.03, gain + 0.03)
        )
        for rank, score, gain in ((16, 0.574, -0.005), (8, 0.563, -0.016), (4, 0.589, 0.011), (1, 0.384, -0.195))
    ]
    found = Analysis(
        folder="runs/tickets-lora",
        method="lora",
        model="builtin:minilm",
        trainable=680_000,
        layers=layers,
        others=0,
        curve=CutCurve(split="valid", rows=1190, score="accuracy", whole=scores(0.579), points=points),
        cut=None,
        compared_with=None,
        notes=[],
        seconds={"loading": 0.458, "spectra": 0.049, "directions": 7.5, "curve": 33.9},
    )
    print(analysis_screen(found, width()))


def scores(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "macro_f1": accuracy - 0.03, "loss": 1.2}


def planned() -> None:
    with screens():
        plan._show(some_methods(), Path("plan.html"))


def suggested() -> None:
    layers = [
        Suggested(
            name=f"{i}",
            place=Place(block="layer.0", role=role, within=f"{i}"),
            shape=(384, 384),
            rank=rank,
            gains=[1.0],
            enough=2,
        )
        for i, (role, rank) in enumerate([("attention", 11), ("attention", 32), ("feedforward", 12)])
    ]
    found = Suggestion(
        origin="gradients",
        rank=16,
        floor=1,
        parameters=675_000,
        uniform_parameters=676_000,
        layers=layers,
        settings_file="rank-suggestion/suggested.yaml",
        method=inlay.LoRA(),
    )
    print(suggestion_screen(found, width()))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str, reviews_folder: str) -> Path:
    """A folder with a model, data, a run and two comparisons, of which each screen has the same short names."""
    folder = tmp_path_factory.mktemp("screens")
    (folder / "base").symlink_to(tiny_bert)
    (folder / "reviews").symlink_to(reviews_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_rows(folder / "answers.jsonl", [{"prompt": f"say {i} ", "completion": f"so {i}"} for i in range(20)])
        arguments = [
            "--epochs",
            "4",
            "--learning-rate",
            "5e-3",
            "--dtype",
            "float32",
            "--no-forgetting",
            "--out",
            "run",
        ]
        assert main(["train", "base", "reviews", *arguments]) == 0
    return folder


def compared(folder: Path) -> None:
    names = {"bitfit": 0.945, "pfeiffer": 0.957, "lora": 0.970, "prefix": 0.953, "full": 0.967}
    of_seeds: dict[str, Sequence[float]] = {
        name: accuracies(mean, 0.004, seed=i) for i, (name, mean) in enumerate(names.items())
    }
    failures = {"prefix-2": "step 37: loss is not finite, and was 2.31 at the first step"}
    print_result(comparison_of(folder / "a", of_seeds, failures=failures, then=("data/sst2",)))
    print("\n")
    of_losses: dict[str, Sequence[float]] = {"lora": (0.70, 0.71), "full": (0.60, 0.68), "prefix": (1.4, 1.5)}
    print_result(comparison_of(folder / "b", of_losses, write=write_language_model))


CASES: dict[str, Callable[[], object]] = {
    "overview": verb(),
    **{f"help-{name}": verb(name, "--help") for name in VERBS},
    "help-train-adalora": verb("train", "--method", "adalora", "--help"),
    "methods": verb("methods"),
    "methods-lora": verb("methods", "lora"),
    "methods-prompts": verb("methods", "prompts"),
    "doctor": examined,
    "train-classifier": replayed("train-classifier"),
    "train-language-model": replayed("train-language-model"),
    "train-next": next_lines,
    "compare-progress": replayed("compare-progress"),
    "demo-answers": demo_answers,
    "merge": merged,
    "plan": planned,
    "rank": analysed,
    "rank-suggestion": suggested,
    "error-flag": verb("train", "m", "d", "--rank", "8"),
    "error-long": verb("train", "builtin:tickets", "builtin:tickets", "--method.rank-pattern", "query", "many"),
}
IN_A_WORKPLACE: dict[str, Callable[[], object]] = {
    "data": verb("data", "reviews"),
    "data-with-model": verb("data", "answers.jsonl", "builtin:tiny-lm", "--samples", "1"),
    "doctor-model": verb("doctor", "base", "--method", "ia3"),
    "eval": verb("eval", "run"),
    "predict": verb("predict", "run", "the film was good and great"),
    "compare": lambda: compared(Path("compared")),
}


def captured(make: Callable[[], object], columns: int) -> str:
    with terminal(columns) as shown:
        make()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))


def check(name: str, make: Callable[[], object], mask: str | None = None) -> None:
    found = {columns: captured(make, columns) for columns in WIDTHS}
    words = set(captured(make, VERY_WIDE).split())
    for columns, text in found.items():
        broken = [word for word in text.split() if word not in words]
        assert broken == [], f"{name} at {columns} columns breaks words"
        assert not re.search(r"^ *%", text, re.MULTILINE), (
            f"{name} at {columns} columns has a sign apart from its number"
        )
        wide = [line for line in text.split("\n") if len(line) > columns and " " in line.strip()]
        assert wide == [], f"{name} has lines of more than {columns} columns"
    text = "".join(f"{'=' * columns}\n{text}\n" for columns, text in found.items())
    text = re.sub(mask, "#", text) if mask else text
    file = FOLDER / f"{name}.txt"
    if os.environ.get("INLAY_SCREENS") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_screen(name: str) -> None:
    check(name, CASES[name])


@pytest.mark.parametrize("name", IN_A_WORKPLACE)
def test_a_screen_of_a_run(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    check(name, IN_A_WORKPLACE[name], r"\d" if name in ("eval", "predict") else None)


def test_no_screen_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*CASES, *IN_A_WORKPLACE}


def test_a_folder_that_a_shell_would_take_for_two_words_is_quoted_in_a_command() -> None:
    run: Any = SimpleNamespace(folder=Path("my runs/first"), summary={}, example='"a text"')
    told = next_steps(run)
    assert "inlay predict 'my runs/first' \"a text\"" in told
    assert "inlay eval 'my runs/first'" in told
    assert "report  my runs/first/report.html" in told


def test_a_note_beside_the_results_is_shown_whole_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, results = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("sys.stdout", results)  # a file: the width is that of what shows the note
    monkeypatch.setenv("COLUMNS", "80")
    note("the answers to 2 of 3 rows have no end: no more tokens were allowed; --max-tokens sets how many")
    first, second = shown.getvalue().splitlines()
    assert len(first) <= 80
    assert second.startswith(" " * 8)
    assert not results.getvalue()
