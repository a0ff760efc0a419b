"""What a robot is to the control loop, and the table of those that there are.

A robot is one file: a config dataclass with `build`, the class that it builds, and one entry in
`ROBOTS`, or none: `robot=my_package.my_arm:MyArmConfig` works too. A config with `small()`, which
answers with an example and the interface of a policy for it, is what tests run. Its methods are
called by the control process alone, in this order:

    connect (read (command | hold))* hold stop
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast, get_args, get_type_hints

from telic.plugins import import_named
from telic.real_robot.clock import Clock
from telic.real_robot.timeline import Motion
from telic.registry import Registry
from telic.spec import Array, Interface, near_misses

# name -> its config, or where that is; imported when it is asked for, so that no robot needs what
# another one does
ROBOTS: Registry[str | type[Any]] = Registry(
    "robot",
    {
        "metaworld": "telic.real_robot.simulated:MetaWorldConfig",
        "arm": "telic.real_robot.simulated_arm:ArmConfig",
    },
)

MIN_HZ, MAX_HZ = 0.01, 100_000.0  # of a robot's rates
_PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


# options that tell where a robot is
_ADDRESSES = ("address", "device", "host", "hostname", "ip", "port", "serial", "url")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The sensors' values at `t_obs_ns`. state: f32 [P]; images: camera -> u8 [h w 3].

    `episode` counts how often the scene was put to a new start. `fault` says in words why the
    robot cannot go on; it ends the run.
    """

    state: Array
    t_obs_ns: int
    images: Mapping[str, Array] = field(default_factory=dict)
    episode: int = 0
    fault: str | None = None


class Robot(Protocol):
    """A robot under control. No method may block for longer than a control period.

    What a method raises after `connect` is a fault of the run: it ends through HOLD, as far as
    `hold` works, and `stop`, with the method and the error as its reason.

    Arrays that it is given are its own to change, and those that it gives may go on changing: the
    loop has copies (`Driver`). Stamps are `now_ns()` of the clock given to `build`.
    """

    interface: Interface
    control_hz: float  # how many commands a second it wants
    motion: Motion  # what an action means
    binary_dims: tuple[int, ...]  # entries of an action that jump: never blended or interpolated
    instruction: str | None  # the sentence for what is to be done here, where there is one

    def connect(self) -> None:
        """Make it ready for commands, at rest. Raises ValueError or OSError if it cannot be."""
        ...

    def read(self) -> Reading:
        """Return the newest reading; one that is not sound, or not of now, means HOLD."""
        ...

    def command(self, action: Array) -> None:
        """Have it carry out `action` f32 [A], which is within the safety envelope."""
        ...

    def hold(self) -> Array:
        """Have it stay where it is; return the command f32 [A] that does so.

        Motion goes on from that command: it must be finite and within the bounds.
        """
        ...

    def stop(self) -> None:
        """Bring it into its safe state, without motion, and let go of it. It is not used again."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what it knows of the run as JSON data: successes, its own faults."""
        ...


class RobotConfig(Protocol):
    """Options of one robot; checks in `__post_init__` what can be checked without the robot.

    `identity`, where there is one, names the robot: no two runs may drive what has the same; None
    is for simulated ones. Without it `identity_of` makes one.
    """

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
    schema = robot_schema(name)
    known = [entry.name for entry in fields(schema)]
    for option in options:
        if option not in known:
            raise ValueError(
                f"robot {name} has no option {option!r}, it has {', '.join(known) or 'none'}"
                f"{near_misses(option, known)}"
            )
    kept = {option: value for option, value in defaults.items() if option in known}
    given = kept | dict(options)
    hints = get_type_hints(schema)
    for entry in fields(schema):
        if entry.name in given:
            given[entry.name] = _as_asked(given[entry.name], hints[entry.name], entry.name)
        elif entry.init and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(
                f"robot {name} needs robot_options.{entry.name}, which has no default: "
                f"'robot_options={{{entry.name}: ...}}'"
            )
    return cast(RobotConfig, schema(**given))


def _as_asked(value: Any, hint: Any, option: str) -> Any:
    """Return the value of an option as its type; ValueError where it is of another plain type."""
    if hint is float and type(value) is int:
        return float(value)
    plain = [kind for kind in get_args(hint) or (hint,) if kind in _PLAIN]
    if not plain or type(value) in plain or (value is None and type(None) in get_args(hint)):
        return value
    if float in plain and type(value) is int:
        return float(value)
    wanted = " or ".join(_PLAIN[kind] for kind in plain)
    raise ValueError(f"robot_options.{option}={value} must be {wanted}")


def identity_of(config: RobotConfig) -> str | None:
    """Return the name of the robot that `config` is for, by which it is locked; None: it is not.

    Of a config that does not say it, what tells where the robot is, or else the config's class.
    """
    if hasattr(config, "identity"):
        return cast("str | None", config.identity)
    values = [(entry.name, getattr(config, entry.name)) for entry in fields(cast(Any, config))]
    where = [f"{name}={value}" for name, value in values if name in _ADDRESSES and value]
    kind = type(config)
    return ", ".join(where) or f"{kind.__module__}:{kind.__qualname__}"


def require_facts(robot: Robot) -> None:
    """Raise ValueError unless what the robot says of itself can be run: its rates and entries."""
    for name, rate_hz in (
        ("control_hz", robot.control_hz),
        ("interface.rate_hz", robot.interface.rate_hz),
    ):
        if not (isinstance(rate_hz, int | float) and MIN_HZ <= rate_hz <= MAX_HZ):
            raise ValueError(
                f"the robot's {name} is {rate_hz}, must be within {MIN_HZ:g}..{MAX_HZ:g}"
            )
    for name in ("state", "action"):
        shape = getattr(robot.interface, name).shape
        if len(shape) != 1 or not shape[0]:
            raise ValueError(f"the robot's {name} has the shape {shape}, expected (entries,)")
    size = robot.interface.action.shape[0]
    for entry in robot.binary_dims:
        if size is None or not 0 <= entry < size:
            raise ValueError(f"the robot's binary_dims entry {entry} is none of its {size} entries")
    if not isinstance(robot.motion, Motion):
        raise ValueError(f"the robot's motion is {robot.motion!r}, expected a Motion")


def robot_schema(name: str) -> type[Any]:
    """The config dataclass of a robot, by its key in `ROBOTS` or by "module:Config"."""
    entry = ROBOTS.get(name, name)
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    if not attribute:
        raise ValueError(
            f"robot={name} is not one of {', '.join(ROBOTS)}, nor module:Config of another package"
            f"{near_misses(name, ROBOTS)}"
        )
    found = getattr(import_named(module, f"robot={name}"), attribute, None)
    if not (isinstance(found, type) and is_dataclass(found) and hasattr(found, "build")):
        raise ValueError(f"robot={name}: {module} has no dataclass {attribute} with `build`")
    return found
