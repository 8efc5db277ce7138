"""Where robot profiles and data sheets are: installed ones by name, others by path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from simpl_core.errors import ConfigError

_SUFFIXES = (".yaml", ".yml")


def find_profile(name: str) -> Path:
    """Path of a robot profile by path or by name.

    Raises:
        ConfigError: it is neither.
    """
    if name.endswith(_SUFFIXES):
        return Path(name)
    return _installed(name, installed_profiles(), "robot profile")


def installed_profiles() -> dict[str, Path]:
    """The profiles that came with the package, by name."""
    files = (file for folder in _config_folders() for file in folder.glob("*.yaml"))
    return {file.stem: file for file in files if not file.name.endswith(".params.yaml")}


def find_datasheet(name: str, folder: Path | None = None) -> Path:
    """Path of a data sheet by path or by name.

    Args:
        name: of an installed one, or a path that ends in .yaml.
        folder: where a relative path starts; the working directory by default.

    Raises:
        ConfigError: it is neither.
    """
    if name.endswith(_SUFFIXES):
        return (folder or Path()) / name
    files = (file for config in _config_folders() for file in (config / "datasheets").glob("*.yaml"))
    return _installed(name, {file.stem: file for file in files}, "data sheet")


def _installed(name: str, installed: dict[str, Path], what: str) -> Path:
    if name not in installed:
        known = ", ".join(sorted(installed)) or "none"
        raise ConfigError(f"there is no {what} {name!r}; there are: {known}. A path ends in .yaml")
    return installed[name]


def _config_folders() -> list[Path]:
    """Where profiles may be, the most important last."""
    prefixes = [*reversed(os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    # The wheels' environment has no AMENT_PREFIX_PATH: there the workspace is installed into Python's own prefix.
    installed = [Path(prefix) / "share" / "simpl" / "config" for prefix in prefixes if prefix]
    return [folder for folder in (*installed, Path(__file__).resolve().parents[2] / "config") if folder.is_dir()]
