"""RDT's unified space: 128 slots, each with one meaning, that state and action of any robot map to.

Liu et al. 2024, "RDT-1B", appendix: [0, 50) is the right arm, [50, 100) the left one in the same
order, [100, 103) a wheeled base, the rest is reserved. A robot with one arm has the right one; an
arm with fewer joints fills the first slots; what an action adds to the pose counts as a velocity.

The reserved slots hold, as our own extension, what simulators tell of the scene (`SCENE`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np

from telic.spec import Array, ArraySpec, Interface, near_misses

NUM_SLOTS: Final = 128


class Space(Enum):
    """What the numbers of a policy's states and actions are."""

    own = "own"  # those of its one robot, in the robot's order
    unified = "unified"  # the 128 slots, for any number of robots


@dataclass(frozen=True, slots=True)
class Slot:
    """One entry of the unified space."""

    index: int
    unit: str


def _arm(side: str, first: int) -> Iterator[tuple[str, Slot]]:
    """Yield the 45 names of an arm from slot `first` on."""
    fingers = ["open", *(f"joint_{i}" for i in range(1, 5))]
    parts = [
        ([f"arm_joint_{i}_pos" for i in range(10)], "rad"),
        ([f"gripper_{f}_pos" if f != "open" else "gripper_open" for f in fingers], "0..1"),
        ([f"arm_joint_{i}_vel" for i in range(10)], "rad/s"),
        ([f"gripper_{f}_vel" for f in fingers], "1/s"),
        ([f"eef_pos_{axis}" for axis in "xyz"], "m"),
        ([f"eef_angle_{i}" for i in range(6)], "1"),  # the rotation's first two columns
        ([f"eef_vel_{axis}" for axis in "xyz"], "m/s"),
        ([f"eef_angular_vel_{axis}" for axis in ("roll", "pitch", "yaw")], "rad/s"),
    ]
    named = [(name, unit) for names, unit in parts for name in names]
    for offset, (name, unit) in enumerate(named):
        yield f"{side}_{name}", Slot(first + offset, unit)


_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
# our extension: what it is called, in which unit; in this order in the slots that RDT reserves
SCENE: Final = (
    *((f"object{n}_{entry}", "1" if "q" in entry else "m") for n in (1, 2) for entry in _POSE),
    *((f"goal_{axis}", "m") for axis in "xyz"),
    *((f"previous_eef_pos_{axis}", "m") for axis in "xyz"),
    ("previous_gripper_open", "0..1"),
    *(
        (f"previous_object{n}_{entry}", "1" if "q" in entry else "m")
        for n in (1, 2)
        for entry in _POSE
    ),
)
RESERVED: Final = (*range(103, 128), *range(45, 50), *range(95, 100))

SLOTS: Final[Mapping[str, Slot]] = {
    **dict(_arm("right", 0)),
    **dict(_arm("left", 50)),
    "base_vel_x": Slot(100, "m/s"),
    "base_vel_y": Slot(101, "m/s"),
    "base_angular_vel": Slot(102, "rad/s"),
    **{name: Slot(i, unit) for (name, unit), i in zip(SCENE, RESERVED, strict=True)},
}

# another name -> slot, and by what its number is multiplied to have the slot's unit and sense
ALIASES: Final[Mapping[str, tuple[str, float]]] = {
    **{name.removeprefix("right_"): (name, 1.0) for name in SLOTS if name.startswith("right_")},
    **{
        f"{side}gripper_joint_0_{part}": (f"right_{name}" if not side else f"{side}{name}", 1.0)
        for side in ("", "right_", "left_")
        for part, name in (("pos", "gripper_open"), ("vel", "gripper_open_vel"))
    },
    # Meta-World: 1 is 0.01 m a step of 1/80 s; its gripper closes at +1
    **{f"hand_{axis}": (f"right_eef_pos_{axis}", 1.0) for axis in "xyz"},
    **{f"hand_d{axis}": (f"right_eef_vel_{axis}", 0.8) for axis in "xyz"},
    "gripper_opening": ("right_gripper_open", 1.0),
    "gripper": ("right_gripper_open_vel", -1.0),
    **{f"previous_hand_{axis}": (f"previous_eef_pos_{axis}", 1.0) for axis in "xyz"},
    "previous_gripper_opening": ("previous_gripper_open", 1.0),
    # robosuite: displacements in the controller's own scale
    **{f"d{axis}": (f"right_eef_vel_{axis}", 1.0) for axis in "xyz"},
    "drx": ("right_eef_angular_vel_roll", 1.0),
    "dry": ("right_eef_angular_vel_pitch", 1.0),
    "drz": ("right_eef_angular_vel_yaw", 1.0),
    **{f"robot0_eef_pos.{i}": (f"right_eef_pos_{axis}", 1.0) for i, axis in enumerate("xyz")},
    **{f"robot0_joint_pos.{i}": (f"right_arm_joint_{i}_pos", 1.0) for i in range(10)},
    **{f"robot0_joint_vel.{i}": (f"right_arm_joint_{i}_vel", 1.0) for i in range(10)},
}


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Where the entries of one array go. slots: i64 [n]; factors: f32 [n]."""

    slots: Array
    factors: Array

    @classmethod
    def of(cls, spec: ArraySpec, where: str) -> SlotMap:
        """Return the map of a named array; ValueError, which begins with `where`, if a name is
        missing, unknown, or there twice."""
        if not spec.names:
            raise ValueError(
                f"{where} has no names, by which the unified space maps; give its ArraySpec names "
                "such as eef_pos_x, or use policy.space=own"
            )
        found: dict[int, str] = {}
        factors = []
        for name in spec.names:
            target, factor = ALIASES.get(name, (name, 1.0))
            if target not in SLOTS:
                known = [*SLOTS, *ALIASES]
                raise ValueError(
                    f"{where}: entry {name!r} has no slot in the unified space"
                    f"{near_misses(name, known) or '; embodiment.py lists the names'}"
                )
            index = SLOTS[target].index
            if index in found:
                raise ValueError(
                    f"{where}: entries {found[index]!r} and {name!r} both mean slot {index} "
                    f"({target}); rename one"
                )
            found[index] = name
            factors.append(factor)
        return cls(np.array(list(found), np.int64), np.array(factors, np.float32))

    @property
    def mask(self) -> Array:
        """Return which slots are in use, bool [128]."""
        mask = np.zeros(NUM_SLOTS, bool)
        mask[self.slots] = True
        return mask

    def into(self, values: Array) -> Array:
        """Return values [... n] in their slots, f32 [... 128], the other slots 0."""
        slots = np.zeros((*values.shape[:-1], NUM_SLOTS), np.float32)
        slots[..., self.slots] = values * self.factors
        return slots

    def back(self, slots: Array) -> Array:
        """Return the values [... n] that lie in slots [... 128], f32."""
        values: Array = slots[..., self.slots] / self.factors
        return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Embodiment:
    """One robot in the unified space."""

    interface: Interface
    state: SlotMap
    action: SlotMap

    @classmethod
    def of(cls, interface: Interface, where: str) -> Embodiment:
        """Return the robot of `interface`; ValueError, which begins with `where`, if it does not
        map."""
        return cls(
            interface,
            SlotMap.of(interface.state, f"{where}: state"),
            SlotMap.of(interface.action, f"{where}: action"),
        )

    def into(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of numpy arrays with its states and actions in their slots.

        Those are "state", "goal_state", "action" and "prefix", whichever are there. Adds
        "state_slots" and "action_slots" bool [B 128], the slots in use, and "rate_hz" f32 [B].
        """
        count = len(batch["state"])
        maps = {"state": self.state, "goal_state": self.state}
        maps |= {"action": self.action, "prefix": self.action}
        mapped = {name: map_.into(batch[name]) for name, map_ in maps.items() if name in batch}
        return {
            **batch,
            **mapped,
            "state_slots": np.repeat(self.state.mask[None], count, 0),
            "action_slots": np.repeat(self.action.mask[None], count, 0),
            "rate_hz": np.full(count, self.interface.rate_hz, np.float32),
        }


def unified_interface(robots: Mapping[str, Interface]) -> Interface:
    """Return what a policy for all `robots` reads and answers: slots, and the cameras of all."""
    first, *others = robots.values()
    images = {
        camera: spec
        for camera, spec in first.images.items()
        if all(other.images.get(camera) == spec for other in others)
    }
    names = tuple(sorted(SLOTS, key=lambda name: SLOTS[name].index))
    spec = ArraySpec(shape=(NUM_SLOTS,), names=names, note="RDT's unified space, SI units")
    return Interface(state=spec, action=spec, rate_hz=first.rate_hz, images=images)
