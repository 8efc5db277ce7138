"""Reads documents of YAML and collects everything that is wrong with them, so that people mend it in one go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from simpl_core.errors import ConfigError

MISSING: Any = object()
"""In place of a value whose key is missing: that has been said already."""

_HUGE = 1e300  # an integer of YAML may be larger than any float


class _OneValuePerKey(yaml.SafeLoader):
    """YAML takes the last of two values for one key without a word; of two limits that may be the wrong one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"key {twice[0]!r} is there twice, {str(node.start_mark).strip()}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """What is in a YAML file.

    Args:
        path: of the file.
        what: it holds, for messages to people.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _OneValuePerKey)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} {path} is not YAML: {' '.join(str(error).split())}") from error


class DocumentReader:
    """Takes values out of nested dictionaries and lists; `finish` raises if anything was wrong.

    A value that is not what it should be is noted and replaced: a number by NaN, which no comparison is true for, a
    text by "", a list or mapping by an empty one. So reading goes on to the end.

    Args:
        source: name of the document, for messages to people.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.problems: list[str] = []

    def note(self, where: str, problem: str) -> None:
        """Something is wrong at `where` ("" for the document itself)."""
        self.problems.append(f"{where}: {problem}" if where else problem)

    def finish(self) -> None:
        """Everything has been read.

        Raises:
            ConfigError: with every problem, one a line if there are several.
        """
        if len(self.problems) == 1:
            raise ConfigError(f"{self._source}: {self.problems[0]}")
        if self.problems:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            raise ConfigError(f"{self._source} has {len(self.problems)} problems:{lines}")

    def mapping(
        self, value: Any, where: str, required: frozenset[str], optional: frozenset[str] = frozenset()
    ) -> Mapping[str, Any]:
        """A mapping with these keys and no others; what is required and missing is noted here and nowhere else."""
        names = ", ".join(sorted(required | optional))
        if not isinstance(value, Mapping):
            self.note(where, f"holds a {type(value).__name__}, wanted keys {names}")
            return dict.fromkeys(required, MISSING)
        for key in sorted(str(key) for key in set(value) - required - optional):
            self.note(where, f"unknown key {key!r}; the keys are {names}")
        for key in sorted(required - set(value)):
            self.note(where, f"key {key!r} is missing")
        return {key: value.get(key, MISSING) for key in required} | {k: value[k] for k in optional if k in value}

    def items(self, value: Any, where: str, count: int | None = None) -> list[Any]:
        """A list, of `count` items if given."""
        if value is MISSING:
            return []
        if not isinstance(value, list) or (count is not None and len(value) != count):
            size = "" if count is None else f" of {count}"
            self.note("", f"{where} is {value!r}, wanted a list{size}")
            return []
        return value

    def text(self, value: Any, where: str) -> str:
        """A text that is not empty."""
        if value is MISSING:
            return ""
        if not isinstance(value, str) or not value.strip():
            self.note("", f"{where} is {value!r}, wanted a text")
            return ""
        return value.strip()

    def choice(self, value: Any, where: str, choices: tuple[str, ...], hint: str = "") -> str:
        """One of `choices`."""
        if value is MISSING:
            return ""
        if value not in choices:
            self.note("", f"{where} is {value!r}, wanted one of {', '.join(choices)}{hint}")
            return ""
        return str(value)

    def number(self, value: Any, where: str, *, above: float = -math.inf, least: float = -math.inf) -> float:
        """A finite number, more than `above` and at least `least`."""
        if value is MISSING:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:
            hint = "; YAML reads 1e3 as text, write 1.0e+3" if isinstance(value, str) and "e" in value else ""
            self.note("", f"{where} is {value!r}, wanted a finite number{hint}")
        elif value <= above:
            self.note("", f"{where} is {value}, wanted more than {above}")
        elif value < least:
            self.note("", f"{where} is {value}, wanted at least {least}")
        else:
            return float(value)
        return math.nan

    def optional_number(self, value: Any, where: str, *, above: float = -math.inf) -> float | None:
        """As `number`; None, or a key that is not there, says that there is no such limit."""
        return None if value is None or value is MISSING else self.number(value, where, above=above)

    def numbers(self, value: Any, where: str, count: int) -> tuple[float, ...]:
        """So many finite numbers; NaN in place of each where the list is not one of `count`."""
        items = self.items(value, where, count)
        return tuple(self.number(item, where) for item in items) or (math.nan,) * count

    def interval(self, value: Any, where: str) -> tuple[float, float] | None:
        """[lowest, highest], or None where there is no limit."""
        if value is None or value is MISSING:
            return None
        if not isinstance(value, list) or len(value) != 2:
            self.note("", f"{where} is {value!r}, wanted [lowest, highest] or null")
            return math.nan, math.nan
        lowest, highest = self.number(value[0], where), self.number(value[1], where)
        if lowest >= highest:
            self.note("", f"{where} is {value}, which leaves no room; wanted [lowest, highest]")
        return lowest, highest
