"""What a run was asked for, as its folder tells it in run.yaml."""

from pathlib import Path

from ..core.method import Method
from ..errors import SettingsError
from ..formats.read import read_yaml
from .settings import RunSettings, non_default


def check_same_settings(folder: Path, settings: RunSettings[Method]) -> None:
    """Raise SettingsError if the folder holds a run with other settings, which would pass for this one."""
    path = folder / "run.yaml"
    if not path.is_file():
        return
    there, asked = read_yaml(path, "a run's settings", error=SettingsError), non_default(settings)
    if not isinstance(there, dict):
        raise SettingsError(f"{path} has no settings; give --out another folder")
    names = sorted(n for n in (there.keys() | asked.keys()) - {"out"} if there.get(n) != asked.get(n))
    if names:  # the folder, which `out` names, may have been moved
        differ = "; ".join(f"{n} was {there.get(n, 'the default')}, is {asked.get(n, 'the default')}" for n in names)
        raise SettingsError(
            f"{folder} holds a run with other settings ({differ}); give --out another folder, or the settings as they "
            "were"
        )
