"""Message types by name, and their definitions as files of recordings carry them."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from simpl.core.recording import MessageType
from simpl_core.errors import EnvironmentMissingError

SEPARATOR = "=" * 80
_COMPOUND = re.compile(r"[A-Za-z]\w*/[A-Za-z]\w*")


def message_class(name: str) -> Any:
    """The class of a type named `package/msg/Name`.

    Raises:
        EnvironmentMissingError: its package is not installed.
    """
    try:
        package, kind, short = name.split("/")
        return getattr(importlib.import_module(f"{package}.{kind}"), short)
    except (ValueError, ImportError, AttributeError) as error:
        raise EnvironmentMissingError(f"message type {name} is not known here: {error}") from error


def describe_type(kind: Any) -> MessageType:
    """Name and whole definition of a message class: its own text, then that of each type in it.

    Raises:
        EnvironmentMissingError: a definition is not installed.
    """
    package, short = kind.__module__.split(".")[0], kind.__name__
    texts = {f"{package}/{short}": ""}
    for name in texts_of(kind, texts):
        texts[name] = _definition(name)
    own, *others = texts.items()
    parts = [own[1], *(f"{SEPARATOR}\nMSG: {name}\n{text}" for name, text in others)]
    return MessageType(f"{package}/msg/{short}", "\n".join(part.rstrip("\n") + "\n" for part in parts))


def texts_of(kind: Any, known: dict[str, str]) -> list[str]:
    """Adds the types inside of `kind` to `known`, each once, in the order in which they are met; all their names."""
    for field in kind.get_fields_and_field_types().values():
        for name in _COMPOUND.findall(field):
            if name not in known:
                known[name] = ""
                texts_of(message_class("/msg/".join(name.split("/"))), known)
    return list(known)


def _definition(name: str) -> str:
    package, short = name.split("/")
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    files = [Path(prefix) / "share" / package / "msg" / f"{short}.msg" for prefix in prefixes if prefix]
    for file in files:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise EnvironmentMissingError(f"the definition of {name} is not installed: no {files[-1]}")
