import pytest

from inlay.data.settings import DataSettings
from inlay.errors import SettingsError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "mesages"}, "data.format is 'mesages'; did you mean messages?"),
        ({"valid_fraction": 0.0}, "data.valid_fraction is 0.0"),
        ({"valid_fraction": 0.5}, "data.valid_fraction is 0.5"),
        ({"valid_fraction": float("nan")}, "data.valid_fraction is nan"),
        ({"format": "messages", "text": "body"}, "data.text is 'body', but data.format messages has no such column"),
        ({"format": "text", "label": "stars"}, "data.label is 'stars', but data.format text has no such column"),
        ({"format": "text", "prompt": "a"}, "data.prompt is 'a', but data.format text has no such column"),
        ({"format": "instruction", "completion": "a"}, "data.completion is 'a', but data.format instruction has no"),
        ({"prompt": "a", "completion": "a"}, "data.prompt is 'a', data.completion is 'a'; each must be another column"),
        ({"text": "a", "label": "a"}, "data.text is 'a', data.label is 'a'; each must be another column"),
    ],
)
def test_a_setting_that_cannot_take_effect_is_an_error(settings, message):
    with pytest.raises(SettingsError, match=f"^{message}".replace(".", r"\.").replace("?", r"\?")):
        DataSettings(path="x.csv", **settings)


def test_the_named_columns_are_those_given():
    assert DataSettings(path="x.csv", text="body", label="stars").named_columns() == {"text": "body", "label": "stars"}
    named = DataSettings(path="x.csv", format="prompt-completion", prompt="in", completion="out").named_columns()
    assert named == {"prompt": "in", "completion": "out"}
