"""What a robot is to the control loop, and the table of those that there are.

A robot is one file: a config dataclass with `build`, the class that it builds, and one line in
`ROBOTS`, or none: `robot=my_package.my_arm:MyArmConfig` works too. Its methods are called by the
control process alone, in this order:

    connect (read (command | hold))* hold stop
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast

from telic.plugins import import_named
from telic.real_robot.clock import Clock
from telic.real_robot.timeline import Motion
from telic.spec import Array, Interface, near_misses

# name -> where its config is; imported when it is asked for, so that no robot needs what another
# one does
ROBOTS = {
    "metaworld": "telic.real_robot.simulated:MetaWorldConfig",
    "arm": "telic.real_robot.simulated_arm:ArmConfig",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the sensors said at `t_obs_ns`. state: f32 [P]; images: camera -> u8 [h w 3].

    `episode` counts how often the scene was put to a new start. `fault` says in words why the
    robot cannot go on; it ends the run.
    """

    state: Array
    t_obs_ns: int
    images: Mapping[str, Array] = field(default_factory=dict)
    episode: int = 0
    fault: str | None = None


class Robot(Protocol):
    """A robot under control. No method may block for longer than a control period."""

    interface: Interface
    control_hz: float  # how many commands a second it wants
    motion: Motion  # what an action means
    switched: tuple[int, ...]  # entries of an action that jump: never blended or interpolated
    instruction: str | None  # the sentence for what is to be done here, where there is one

    def connect(self) -> None:
        """Make it ready for commands, at rest. Raises ValueError or OSError if it cannot be."""
        ...

    def read(self) -> Reading:
        """Return the newest reading."""
        ...

    def command(self, action: Array) -> None:
        """Have it carry out `action` f32 [A], which is within the safety envelope."""
        ...

    def hold(self) -> Array:
        """Have it stay where it is; return the command f32 [A] that does so."""
        ...

    def stop(self) -> None:
        """Bring it into its safe state, without motion, and let go of it. It is not used again."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what it knows of the run as JSON data: successes, its own faults."""
        ...


class RobotConfig(Protocol):
    """Options of one robot; checks in `__post_init__` what can be checked without the robot."""

    def build(self, needs: Interface, clock: Clock) -> Robot:
        """Return the robot, not connected, with the cameras that a policy `needs` if it can."""
        ...


def robot_config(
    name: str, options: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})
) -> RobotConfig:
    """Return the config of a robot with `options`, and those of `defaults` that it knows.

    `name` is a key of `ROBOTS`, or "module:Config" for a robot of another package. ValueError if
    there is no such robot or option, or the robot refuses a value.
    """
    schema = _schema(name)
    known = [entry.name for entry in fields(schema)]
    for option in options:
        if option not in known:
            raise ValueError(
                f"robot {name} has no option {option!r}, it has {', '.join(known) or 'none'}"
                f"{near_misses(option, known)}"
            )
    kept = {option: value for option, value in defaults.items() if option in known}
    return cast(RobotConfig, schema(**(kept | dict(options))))


def _schema(name: str) -> type[Any]:
    """Return the config dataclass of the robot `name`."""
    module, _, attribute = ROBOTS.get(name, name).partition(":")
    if not attribute:
        raise ValueError(
            f"robot={name} is not one of {', '.join(ROBOTS)}, nor module:Config of another package"
            f"{near_misses(name, ROBOTS)}"
        )
    found = getattr(import_named(module, f"robot={name}"), attribute, None)
    if not (isinstance(found, type) and is_dataclass(found) and hasattr(found, "build")):
        raise ValueError(f"robot={name}: {module} has no dataclass {attribute} with `build`")
    return found
