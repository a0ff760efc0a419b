"""A robot behind copies, and whether what it gives is sound.

The arrays of the loop never reach a robot, nor those of a robot the loop: a driver may change what
it was given in place, and go on writing into what it gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from telic.real_robot.robot import Reading, Robot
from telic.spec import Array, ArraySpec

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """The command f32 [A] that keeps a robot where it is, or zeros and what is wrong with it."""

    action: Array
    problem: str | None = None


class Driver:
    """The methods of `robot` that the loop calls at every tick."""

    def __init__(self, robot: Robot):
        self._robot = robot
        interface = robot.interface
        self._action = _unbounded(interface.action)
        self._rest = np.zeros(tuple(n or 0 for n in interface.action.shape), np.float32)
        self._specs = {"state": _unbounded(interface.state)}
        self._specs |= {f"image/{camera}": spec for camera, spec in interface.images.items()}

    def read(self) -> tuple[Reading, str | None]:
        """Return the newest reading, and what is wrong with it apart from its time, or None.

        Pictures are not copied: who keeps one copies it within the tick.
        """
        reading = self._robot.read()
        state = _copy(reading.state)
        reading = replace(reading, state=state, images=dict(reading.images))
        if (problem := self._problem(reading)) is not None:
            return reading, problem
        # numpy's own whole numbers wrap where two of them are subtracted
        return replace(reading, t_obs_ns=int(reading.t_obs_ns), episode=int(reading.episode)), None

    def command(self, action: Array) -> None:
        """Have the robot carry out `action` [A]."""
        self._robot.command(action.copy())

    def hold(self) -> Held:
        """Have the robot stay where it is; return the command that does so."""
        given = _copy(self._robot.hold())
        if given.dtype.kind in "iuf":
            given = given.astype(np.float32)
        if (problem := self._action.problem(given)) is not None:
            return Held(action=self._rest, problem=f"of what hold() returned, {problem}")
        return Held(action=given)

    def _problem(self, reading: Reading) -> str | None:
        for name in ("t_obs_ns", "episode"):
            value = getattr(reading, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or not _INT64.min <= value <= _INT64.max:
                return f"{name} is {value!r}, expected a whole number of 64 bits"
        for name, spec in self._specs.items():
            camera = name.removeprefix("image/")
            value = reading.state if name == "state" else reading.images.get(camera)
            if value is None:
                return f"camera {camera!r} gave no image"
            if (problem := spec.problem(value)) is not None:
                return f"{name} {problem}"
        return None


def _unbounded(spec: ArraySpec) -> ArraySpec:
    return replace(spec, minimum=None, maximum=None)


def _copy(value: Any) -> Array:
    """Return a copy of `value` as an array; of what cannot be one, an array of an object."""
    try:
        return np.array(value)
    except (TypeError, ValueError):
        return np.array(None)
