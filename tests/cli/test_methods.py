"""`inlay methods` explains what the code does: counted on a 7B model, and written in the methods' own docstrings."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import pytest

import inlay
from inlay.cli import main
from inlay.errors import AdapterStateError
from inlay.methods import FAMILIES, METHODS
from inlay.methods.explained import Explained, blocks, explained, settings
from inlay.methods.llama_7b import on_llama_7b

from ..shapes import SHAPES, method

ROOT = Path(__file__).parent.parent.parent
LAYERS, WIDTH, INNER, VOCABULARY = 32, 4096, 11008, 32000
LINEARS = 4 * [(WIDTH, WIDTH)] + 2 * [(INNER, WIDTH)] + [(WIDTH, INNER)]  # (outputs, inputs) of a layer's


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_explained_in_all_parts(name: str) -> None:
    text = explained(METHODS[name])
    for part in dataclasses.astuple(text):
        assert part.strip()
    assert re.search("[═║]", text.picture), "what is trained has double lines"
    assert len(text.picture.splitlines()) <= 10
    assert max(map(len, [*text.picture.splitlines(), *text.formula.splitlines()])) <= 76
    assert not re.search(r"\de-\d", "".join(dataclasses.astuple(text))), "a learning rate belongs to the class"


WHOLE = ("A picture.", "    x", "    x = 1", "When: always.", "Cost: none.")


@pytest.mark.parametrize("missing", range(1, len(WHOLE)))
def test_a_docstring_of_another_shape_is_an_idea_and_a_picture(missing: int) -> None:
    class Whole(inlay.LoRA):
        __doc__ = "\n\n".join(WHOLE)

    assert explained(Whole) == Explained(idea="A picture.", picture="x", formula="x = 1", when="always.", cost="none.")

    class Partly(inlay.LoRA):
        __doc__ = "\n\n".join(part for i, part in enumerate(WHOLE) if i != missing)

    there = [part for i, part in enumerate(WHOLE) if i != missing]
    idea = " ".join(part for part in there if not part.startswith(" "))
    picture = "\n\n".join(part.strip() for part in there if part.startswith(" "))
    assert explained(Partly) == Explained(idea=idea, picture=picture, formula="", when="", cost="")


def test_a_method_without_a_docstring_of_its_own_has_not_its_parents() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Silent(inlay.LoRA):
        pass

    assert explained(Silent).idea == f"Trains {inlay.LoRA.summary}."


def test_paragraphs_become_lines_and_indented_blocks_keep_theirs() -> None:
    first, second = blocks("One\n    two.\n\n        a\n          b\n    ")
    assert (first.text, first.is_verbatim) == ("One two.", False)
    assert (second.text, second.is_verbatim) == ("a\n  b", True)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_its_default_and_its_text(name: str) -> None:
    found = settings(METHODS[name])
    assert [s.name for s in found] == [field.name for field in dataclasses.fields(METHODS[name])]
    assert all(s.text.endswith(".") for s in found)
    assert {s.name: s.default for s in found} == {s.name: getattr(METHODS[name](), s.name) for s in found}


def test_a_setting_that_is_inherited_has_its_parents_text() -> None:
    (targets,) = (s for s in settings(inlay.DoRA) if s.name == "targets")
    assert targets.text.startswith("Which layers: all-linear")


@pytest.mark.parametrize(
    ("name", "trained"),
    {
        "full": LAYERS * (sum(o * i for o, i in LINEARS) + 2 * WIDTH) + WIDTH + 2 * VOCABULARY * WIDTH,
        "bitfit": LAYERS * sum(o for o, _ in LINEARS),
        "norm": (2 * LAYERS + 1) * WIDTH,
        "last-layers": 2 * (sum(o * i for o, i in LINEARS) + 2 * WIDTH) + WIDTH,
        "pattern": LAYERS * WIDTH**2,
        "sparse": LAYERS * sum(4 * (o + i) for o, i in LINEARS),
        "houlsby": LAYERS * 2 * (2 * WIDTH * 64 + WIDTH + 64) + (2 * LAYERS + 1) * WIDTH,
        "pfeiffer": LAYERS * (2 * WIDTH * 256 + WIDTH + 256),
        "parallel": LAYERS * (2 * WIDTH * 2048 + WIDTH + 2048),
        "ia3": LAYERS * (2 * WIDTH + INNER),
        "lora": LAYERS * sum(16 * (o + i) for o, i in LINEARS),
        "dora": LAYERS * sum(16 * (o + i) + o for o, i in LINEARS),
        "adalora": LAYERS * sum(24 * (o + i + 1) for o, i in LINEARS),
        "dynamic-rank": LAYERS * sum(24 * (o + i + 1) for o, i in LINEARS),
        "loha": LAYERS * sum(2 * 8 * (o + i) for o, i in LINEARS),
        "lokr": LAYERS * (4 * (64 * 64 + 8 * (64 + 64)) + 3 * (64 * 86 + 8 * (64 + 128))),
        "vera": LAYERS * sum(256 + o for o, _ in LINEARS),
        "oft": LAYERS * sum(i // 32 * (32 * 31 // 2) for _, i in LINEARS),
        "prompt": 20 * WIDTH,
        "p-tuning": 20 * WIDTH + 3 * (WIDTH**2 + WIDTH),
        "multitask-prompt": 20 * WIDTH + 20 + WIDTH,
        "prefix": 20 * LAYERS * 2 * WIDTH,
    }.items(),
)
def test_the_count_on_llama_2_7b_is_the_formulas(name: str, trained: int) -> None:
    count = on_llama_7b(METHODS[name])
    assert (count.trained, count.total) == (trained, 6_738_415_616)


def test_what_a_llama_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "bitfit"]) == 0
    assert "with add_missing true" in " ".join(capsys.readouterr().out.split())
    assert main(["methods", "lora"]) == 0
    assert "(0.59 %)\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_merging_is_so(name: str) -> None:
    bert = SHAPES["bert"]
    adapter = inlay.attach(bert.classifier(), method(name, bert))
    if on_llama_7b(METHODS[name]).can_merge:
        adapter.merge()
    else:
        with pytest.raises(AdapterStateError):
            adapter.merge()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *FAMILIES, *METHODS])
def test_no_line_is_wider_than_the_terminal(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["methods", *([name] if name else [])]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_shown_with_everything_that_is_known_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    chosen = METHODS[name]
    text, count = explained(chosen), on_llama_7b(chosen)
    for part in (text.idea, text.picture, text.formula, text.when, text.cost, chosen.summary, chosen.paper):
        assert " ".join(part.split()) in shown
    assert f"{count.trained:,} of 6,738,415,616" in shown
    assert f"{chosen.learning_rate:g} for a classifier, {chosen.writing_rate:g} for a language model, at" in shown
    assert f"{chosen.epochs:g}, or more for fewer" in shown
    assert all(f"{s.name} = " in shown and " ".join(s.text.split()) in shown for s in settings(chosen))

    assert main(["methods", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[name]
    assert (found["family"], found["picture"], found["cost"]) == (chosen.family, text.picture, text.cost)
    assert found["on_llama_2_7b"]["trained_parameters"] == count.trained
    assert found["settings"].keys() == {s.name for s in settings(chosen)}


def test_all_methods_are_listed_by_family_with_their_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +[\d.]+ %", shown, flags=re.MULTILINE) for name in METHODS)
    families = [line for line in shown.splitlines() if line in FAMILIES]
    assert families == list(FAMILIES)
    assert {m.family for m in METHODS.values()} == set(FAMILIES)

    assert main(["methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [name for family in found.values() for name in family["methods"]] == list(METHODS)


@pytest.mark.parametrize(
    ("family", "concepts"),
    {
        "baseline": ["catastrophic forgetting"],
        "selective": ["frozen"],
        "additive": ["bottleneck"],
        "reparameterized": ["rank of a matrix", "intrinsic dimension", "alpha / rank", "Choosing a rank", "Merging"],
        "prompts": ["virtual token", "embeddings", "every layer", "Length", "start", "High learning rates", "Cost"],
    }.items(),
)
def test_a_family_is_shown_with_its_idea_and_its_methods(
    family: str, concepts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", family]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(concept in shown for concept in concepts)
    assert all(f" {m.name} " in shown for m in METHODS.values() if m.family == family)
    assert main(["methods", family, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[family]
    assert all(concept in found["explanation"] for concept in concepts)
    assert list(found["methods"]) == [m.name for m in METHODS.values() if m.family == family]


def test_an_unknown_name_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "additiv"]) == 2
    assert "did you mean additive?" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_the_help_of_train_has_no_picture(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", name, "--help"])
    shown = capsys.readouterr().out
    assert "When:" not in shown
    assert "═" not in shown


def test_the_page_says_what_the_code_says() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "methods_page.py"))["page"]()
    there = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert there == made, "docs/methods.md is old; make it anew: python scripts/methods_page.py > docs/methods.md"


def test_qlora_is_explained_as_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "qlora"]) == 0
    of_qlora = capsys.readouterr().out
    assert main(["methods", "lora"]) == 0
    assert of_qlora == "qlora is lora with --quantize nf4:\n\n" + capsys.readouterr().out
