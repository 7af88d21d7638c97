"""What a plan says of how far off it may be."""

import pytest

from ..plans import plan_of, planned


@pytest.mark.parametrize(
    ("earlier", "of_kind", "said"),
    [
        (0, 0, "Tensors are exact. The process may take a fifth more, and time be half off: no run"),
        (6, 0, "Time is corrected by 6 earlier runs on this machine. The process may take a fifth more: none"),
        (6, 2, "Time and process are corrected by 6 earlier runs on this machine. On top of the training's time come"),
    ],
)
def test_a_plan_is_corrected_by_runs_of_its_kind(earlier: int, of_kind: int, said: str) -> None:
    found = plan_of(planned("lora", 680_000, 1700, None), earlier_runs=earlier, runs_of_kind=of_kind)
    assert found.precision.startswith(said)
    assert found.precision.endswith("On top of the training's time come scoring the base and forgetting.")


def test_a_plan_says_that_other_programs_use_the_processor() -> None:
    found = plan_of(planned("lora", 680_000, 1700, None), processor_share=0.5)
    assert found.precision.endswith(
        " Other programs, or a limit, leave this process 50.0 % of its processor time now: the times told are rough."
    )
    assert found.as_json()["processor_share"] == 0.5


@pytest.mark.parametrize(
    ("texts", "each", "said"),
    [
        (130, 0.5, "130 texts (about 1 min 5 s)"),
        (130, None, "130 texts (no run of this model tells how long)"),
        (None, 0.5, "texts"),
    ],
)
def test_the_time_of_texts_is_told_as_far_as_earlier_runs_tell_it(
    texts: int | None, each: float | None, said: str
) -> None:
    found = plan_of(planned("lora", 680_000, 1700, None), texts=texts, text_seconds=each)
    assert found.precision.endswith(f"On top of the training's time come scoring the base, {said} and forgetting.")
