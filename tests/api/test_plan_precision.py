"""What a plan says of how far off it may be."""

import pytest

from ..plans import plan_of, planned


@pytest.mark.parametrize(
    ("earlier", "of_kind", "said"),
    [
        (0, 0, "Tensors are exact. The process may take half as much again, and time be half off: no run"),
        (6, 0, "Time is corrected by 6 earlier runs on this machine. The process may take half as much again: none"),
        (6, 2, "Time and process are corrected by 6 earlier runs on this machine. Scoring the base"),
    ],
)
def test_a_plan_is_corrected_by_runs_of_its_kind(earlier: int, of_kind: int, said: str) -> None:
    found = plan_of(planned("lora", 680_000, 1700, None), earlier_runs=earlier, runs_of_kind=of_kind)
    assert found.precision.startswith(said)
    assert found.precision.endswith("come on top of the training's time.")
