"""Packages that only some uses need, and that come with an extra of the same project: `pip install 'inlay[EXTRA]'`."""

import importlib.util

from .errors import SettingsError


def check_installed(package: str, use: str, extra: str) -> None:
    """Raise SettingsError, which says how to install it, if the package is not there. `use` is what needs it."""
    if importlib.util.find_spec(package) is None:
        raise SettingsError(f"{use}, which is not installed: pip install 'inlay[{extra}]'")
