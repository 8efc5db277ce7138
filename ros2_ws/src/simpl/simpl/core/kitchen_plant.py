"""The kitchen posing as a robot: commands in, stamped sensor readings out, and a record of what really happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.kitchen import CONTROL_PERIOD, SUBSTEPS, KitchenPhysics

FloatArray = NDArray[np.float64]

PERIOD_NS = round(CONTROL_PERIOD * 1e9)
SLICES = 8
"""Sensor readings per control period in real time: 100 Hz."""
SLICE = CONTROL_PERIOD / SLICES
"""Time between two readings in real time [s]."""
_NEXT = 0.9 * CONTROL_PERIOD  # real time: a command so long after an aim is a new one, and jitter makes none of two


class KitchenPlant:
    """Physics, noisy sensors and velocity commands, either step by step or along a clock.

    Args:
        noise: factor on the sensor noise.
        command_timeout: in real time, how long the last command goes on acting without a newer one [s]; after it
            the arm holds its position, as motions of a real arm with a duration do.
    """

    def __init__(self, noise: float = 1.0, command_timeout: float = 0.2) -> None:
        self._physics = KitchenPhysics(noise)
        self._command_timeout = command_timeout
        self.record = PlantRecord()
        self.reset(0, 0)

    @property
    def qpos(self) -> FloatArray:
        """True coordinates (30,) [rad, m]."""
        return self._physics.qpos

    def reset(self, seed: int, stamp: int) -> None:
        """Put everything back and read the sensors; `seed` is of their noise, `stamp` the time of the reading [ns]."""
        self._physics.reset()
        self._rng = np.random.default_rng(seed)
        self._command: FloatArray | None = None
        self._command_at = self._aimed_at = self._moved_at = 0.0
        self._begin = np.zeros(0)  # where the motion under way began, and what was covered since with other velocities
        self.record.clear()
        self._read(stamp)
        self.record.state(stamp, self.qpos)

    def step(self, velocity: FloatArray, stamp: int) -> None:
        """Lockstep: one command for one control period, exactly as the environment does it.

        Args:
            velocity: finite (9,) [rad/s, m/s].
            stamp: time of the reading at its end [ns].
        """
        self.record.command(self.stamp, velocity)
        self._physics.set_velocity_target(velocity, self.measured[: velocity.size])
        self._physics.step(SUBSTEPS)
        self._read(stamp)
        self.record.state(stamp, self.qpos)

    def command(self, velocity: FloatArray, now: float, stamp: int) -> None:
        """Real time: obey `velocity` (9,) from now on (steady clock [s]); `stamp` is for the record [ns]."""
        before, since = self._command, max(self._command_at, self._aimed_at)
        self._command, self._command_at = velocity, now
        self.record.command(stamp, velocity)
        moving = before is not None and bool(before.any())
        if velocity.any() or moving or before is None:
            self._moved_at = now
        if before is not None and moving and velocity.any() and now - self._aimed_at < _NEXT:
            # Between two aims: what was covered stays, and the rest of the period goes on with the new velocity.
            self._begin = self._begin + before * (now - since)
            left = 1.0 - (now - self._aimed_at) / CONTROL_PERIOD
            self._physics.set_velocity_target(velocity * left, self._begin)
        elif velocity.any() or moving or before is None:
            self._aim(now)

    def advance(self, now: float, stamp: int) -> None:
        """Real time: let one slice pass and read the sensors."""
        moving = self._command is not None and now - self._command_at < self._command_timeout
        if moving and self._command is not None and self._command.any() and now - self._aimed_at >= CONTROL_PERIOD:
            self._aim(now)  # a velocity controller goes on with its last command
        self._physics.step(SUBSTEPS // SLICES)
        self._read(stamp)
        if moving and now - self._moved_at < self._command_timeout:  # zeros all night are not worth gigabytes
            self.record.state(stamp, self.qpos)

    def _aim(self, now: float) -> None:
        if self._command is not None:
            self._begin = self.measured[: self._command.size]
            self._physics.set_velocity_target(self._command, self._begin)
            self._aimed_at = now

    def _read(self, stamp: int) -> None:
        self.stamp = stamp
        self.measured = self._physics.observe(self._rng)


class PlantRecord:
    """What the plant did in one episode, without noise: the truth that others' records are compared with."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._stamps: list[int] = []
        self._qpos: list[FloatArray] = []
        self._command_stamps: list[int] = []
        self._commands: list[FloatArray] = []

    def state(self, stamp: int, qpos: FloatArray) -> None:
        """True coordinates (30,) at `stamp` [ns]."""
        self._stamps.append(stamp)
        self._qpos.append(qpos)

    def command(self, stamp: int, velocity: FloatArray) -> None:
        """A command (9,) obeyed from `stamp` [ns] on."""
        self._command_stamps.append(stamp)
        self._commands.append(velocity)

    def save(self, folder: Path, episode: int) -> Path | None:
        """Write `episode_XXX.npz`, whole or not at all; None when nothing was commanded.

        Keys: qpos (T, 30), stamps (T,) [ns], commands (N, 9), command_stamps (N,) [ns]. A record of the same number
        that is already there (an episode done over) is kept beside it.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._commands:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"episode_{episode:03d}.npz"
        attempt = 1
        while path.exists():
            path = folder / f"episode_{episode:03d}_{attempt}.npz"
            attempt += 1
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.savez(
                file,
                qpos=np.array(self._qpos),
                stamps=np.array(self._stamps, dtype=np.int64),
                commands=np.array(self._commands),
                command_stamps=np.array(self._command_stamps, dtype=np.int64),
            )
        partial.replace(path)
        return path
