"""How commands take named settings and changes to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tyro.conf import arg

from simpl_core.errors import ConfigError

Preset = Literal["official", "fast", "small"]
Settings = Annotated[tuple[str, ...], arg(name="set", metavar="KEY=VALUE ...")]


def changes(settings: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts as fields of a configuration.

    Raises:
        ConfigError: one without `=`.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, got {setting!r}")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = {"True": True, "False": False, "None": None}.get(text, text)
    return found
