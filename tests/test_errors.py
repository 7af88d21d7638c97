"""What all errors of Inlay have in common."""

from inlay.errors import SettingsError


def test_a_very_long_message_is_said_by_its_begin_and_its_end() -> None:
    said = str(SettingsError(f"model {'9' * 100_000!r} is not there; name another"))
    assert len(said) < 5000
    assert said.startswith("model '999")
    assert said.endswith("999' is not there; name another")
    assert str(SettingsError("short")) == "short"
