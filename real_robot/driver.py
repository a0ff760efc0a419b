"""A robot behind copies, whether what it gives is sound, and what its methods raise.

The arrays of the loop never reach a robot, nor those of a robot the loop: a driver may change what
it was given in place, and go on writing into what it gave. What a method raises is a fault.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
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
    """The methods of `robot`, of which none raises.

    fault: what the first of them that raised did raise, in words; holds: whether `hold` works,
    which is not called again after it raised.
    """

    def __init__(self, robot: Robot):
        self.fault: str | None = None
        self.holds = True
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
        nothing = Reading(state=np.empty(0, np.float32), t_obs_ns=0)
        done, reading = self._call("read", self._robot.read)
        if not done:
            return nothing, self.fault
        if not isinstance(reading, Reading):
            return nothing, f"read() gave a {type(reading).__name__}, expected a Reading"
        if not isinstance(reading.images, Mapping):
            return nothing, f"images is a {type(reading.images).__name__}, expected one by camera"
        state = _copy(reading.state)
        reading = replace(reading, state=state, images=dict(reading.images))
        if (problem := self._problem(reading)) is not None:
            return reading, problem
        # numpy's own whole numbers wrap where two of them are subtracted
        return replace(reading, t_obs_ns=int(reading.t_obs_ns), episode=int(reading.episode)), None

    def command(self, action: Array) -> bool:
        """Have the robot carry out `action` [A]; return whether it took it."""
        done, _ = self._call("command", lambda: self._robot.command(action.copy()))
        return done

    def hold(self) -> Held:
        """Have the robot stay where it is; return the command that does so."""
        given = None
        if self.holds:
            self.holds, given = self._call("hold", self._robot.hold)
        if not self.holds:
            return Held(action=self._rest, problem=self.fault)
        given = _copy(given)
        if given.dtype.kind in "iuf":
            given = given.astype(np.float32)
        if (problem := self._action.problem(given)) is not None:
            return Held(action=self._rest, problem=f"of what hold() returned, {problem}")
        return Held(action=given)

    def stop(self) -> None:
        """Bring it into its safe state and let go of it."""
        self._call("stop", self._robot.stop)

    def _call(self, name: str, method: Callable[[], Any]) -> tuple[bool, Any]:
        """Return whether `method` came to its end, and what it gave."""
        try:
            return True, method()
        except (Exception, SystemExit) as error:  # a library that leaves takes the robot along
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            where = f"{Path(place.filename).name} line {place.lineno}"
            fault = f"the robot's {name}() raised {text} ({where})"
            if self.fault is None:
                self.fault = fault
            elif name in ("hold", "stop"):  # which come after a fault
                self.fault = f"{self.fault}; then {fault}"
            return False, None

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
