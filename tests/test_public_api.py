"""What `import inlay` offers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inlay
from inlay.testing import check_description

from .shapes import SHAPES, disturb, logits


def test_all_is_sorted_and_every_name_can_be_imported() -> None:
    names = inlay.__all__
    assert (
        sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    )  # constants, classes, functions
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(inlay, name) is not None
    assert set(dir(inlay)) >= set(names)
    with pytest.raises(AttributeError, match="module 'inlay' has no attribute 'Lora'"):
        _ = inlay.Lora


def test_every_method_is_a_name_of_the_package_and_knows_its_name() -> None:
    for name, method in inlay.METHODS.items():
        assert method.name == name
        assert getattr(inlay, method.__name__) is method
        assert issubclass(method, inlay.Method)
        check_description(method)


def test_a_method_has_few_members() -> None:
    members = {name for name in {*inlay.Method.__annotations__, *vars(inlay.Method), "format"} if name[0] != "_"}
    assert len(members) <= 16, sorted(members)


def test_one_line_names_a_method_of_ours() -> None:
    """Its own file says the rest: lists, help, docs, tests and the package's names follow from these two."""
    source = Path(inlay.__file__).parent
    naming = {
        (path.relative_to(source).as_posix(), line)
        for path in source.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\bOFT\b", line) and path.name != "oft.py"
    }
    assert naming == {("methods/own.py", "from .reparameterized.oft import OFT as OFT")}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, inlay; print(*(m for m in ('torch', 'transformers', 'numpy', 'datasets') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_only_the_command_line_knows_its_own_library() -> None:
    package = Path(str(inlay.__file__)).parent
    others = [path for path in package.rglob("*.py") if path.parent != package / "cli"]
    assert others
    assert not [path for path in others if "tyro" in path.read_text(encoding="utf-8")]


def test_the_errors_can_be_imported_without_torch() -> None:
    code = "import sys, inlay; inlay.InlayError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_example_of_the_python_interface_runs(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    model = shape.model()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ids_BT = shape.inputs()["input_ids"][:3]
    inlay.attach(shape.model(), inlay.LoRA(rank=4), name="b").save(tmp_path / "other")

    adapter = inlay.attach(model, inlay.LoRA(rank=16, alpha=32, targets="all-linear"), name="default")
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapter.save(tmp_path / "adapter")
    other = inlay.load(model, tmp_path / "other", name="b")
    disturb(other)
    assert inlay.adapters(model) == {"default": adapter, "b": other}

    with torch.no_grad():
        with inlay.using(model, "default", "b"):
            both = model(input_ids=ids_BT).logits
        with inlay.using(model):
            base = model(input_ids=ids_BT).logits
        with inlay.using(model, "default"):
            only = model(input_ids=ids_BT).logits
        with inlay.using(model, rows=["default", "b", None]):
            mixed = model(input_ids=ids_BT).logits
        torch.testing.assert_close(mixed[0], only[0])
        torch.testing.assert_close(mixed[2], base[2])
        assert not torch.allclose(both, only, atol=1e-4)

        with inlay.using(model, "default"):
            adapter.merge()
            torch.testing.assert_close(model(input_ids=ids_BT).logits, only, atol=1e-5, rtol=1e-5)
            adapter.unmerge()
    adapter.detach()
    other.detach()
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[n], p) for n, p in before.items())
    assert torch.equal(logits(model, shape), logits(shape.model(), shape))
    assert inlay.METHODS["lora"] is inlay.LoRA


def test_the_version_is_a_version() -> None:
    assert inlay.__version__.count(".") == 2
