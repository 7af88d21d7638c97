import pytest


@pytest.fixture(autouse=True)
def plots_left_out() -> None:
    """Draw the plots: they are looked at here."""
