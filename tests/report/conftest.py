import pytest

from inlay.report import write_report

from .fake_runs import RUNS


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> dict[str, str]:
    """The page of every made-up run, by the run's name."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(build(folder / name)).read_text() for name, build in RUNS.items()}
