"""What a guard leaves to its successor: that a person has to release the arm. No ROS."""

from __future__ import annotations

import json
import os
from pathlib import Path

from simpl.core.guard_types import HELD, Command, Held, Mode
from simpl_core.errors import ConfigError


class Latch:
    """Keeps the stop that holds the arm in a file, for as long as it does.

    Args:
        file: where; None remembers nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._kept: tuple[Mode, bool] | None = None

    def left(self) -> Held | None:
        """What an earlier guard was in when it ended.

        Raises:
            ConfigError: the file cannot be read: whether the arm may move is not known.
        """
        if self._file is None:
            return None
        try:
            said = json.loads(self._file.read_text())
            # An earlier version's file says nothing of a pause.
            held = Held(Mode[said["mode"]], str(said["reason"]), bool(said.get("paused", False)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._file} cannot be read ({error}); it says what stop an earlier guard was in: look after the "
                "arm, then remove the file"
            ) from error
        self._kept = held.mode, held.paused
        return held

    def note(self, command: Command) -> None:
        """Call it with every command that was sent; writes what has changed, and only with the arm at rest.

        A disk may take its time, and until the next command an arm goes on at its last velocity.

        Raises:
            OSError: the file cannot be written; it is tried again with the next command.
        """
        held = (command.mode, command.paused) if command.mode in HELD else None
        if self._file is None or held == self._kept or command.velocity.any():
            return
        if held is None:
            self._file.unlink(missing_ok=True)
        else:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_name(f".{self._file.name}.part")
            with partial.open("w") as file:
                json.dump({"mode": command.mode.name, "reason": command.reason, "paused": command.paused}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._file)
        self._kept = held
