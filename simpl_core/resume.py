"""State of an unfinished run, so that a kill costs at most the steps since it was saved.

The state may hold nested dicts, lists, tensors and numbers; it is read back with PyTorch's weights-only loader, which
builds no classes.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from simpl_core.errors import CheckpointError

STATE = "resume.pt"
LOCK = ".lock"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep every other process from writing a run into `folder` within the block; a killed process lets go of it.

    Raises:
        CheckpointError: another process is at work in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "?"
            raise CheckpointError(
                f"process {owner} is writing a run into {folder}; wait for it, or give another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Within the block Ctrl-C and SIGTERM raise KeyboardInterrupt only where the answer is called, between two steps.

    What a step has done of its work when it is cut short cannot be saved.
    """
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        asked = True

    def interrupt() -> None:
        if asked:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other one hears signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.default_int_handler:
                before[number] = signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_resume(folder: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Save `state` atomically; `identity` (JSON values) says which run it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{STATE}.{os.getpid()}"
    torch.save({"identity": json.dumps(identity, sort_keys=True), "state": dict(state)}, temporary)
    temporary.replace(folder / STATE)


def load_resume(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state saved in `folder`, or None for a fresh run.

    Raises:
        CheckpointError: the state is unreadable or belongs to a run with other settings.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    theirs, state = read_resume(path)
    changed = other_than(theirs, identity)
    if changed:
        raise CheckpointError(
            f"{folder} holds an unfinished run with other {', '.join(changed)}; "
            f"give another folder or remove {path.name}"
        )
    return state


def other_than(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, as they are once written as JSON."""
    one, two = (json.loads(json.dumps(identity)) for identity in (theirs, ours))
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def read_resume(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and state of whatever run was saved at `path`.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove it to start afresh") from error
    return json.loads(saved["identity"]), saved["state"]
