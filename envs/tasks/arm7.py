"""A seven-joint arm in numpy; a sentence names the pose to take.

Kinematics and joint limits are those of a Franka arm (Denavit-Hartenberg parameters after Craig,
rounded from the maker's manual); each joint is a critically damped position servo, integrated
exactly. The start is drawn anew for each episode; what to do is in the sentence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from telic.envs.task import DictObs, Expert, TaskEnv, box, observation_space
from telic.spec import Array, ArraySpec, Interface, near_misses

RATE_HZ: Final = 20.0
SERVO_HZ: Final = 3.0  # natural frequency of a joint
REACHED_RAD: Final = 0.1  # of each joint, for success
REST_RAD_S: Final = 0.2
EXPERT_RAD: Final = 0.35  # how far ahead of a joint the expert puts its target
NUM_JOINTS: Final = 7

LOW: Final = np.array([-2.89, -1.76, -2.89, -3.07, -2.89, -0.01, -2.89])
HIGH: Final = np.array([2.89, 1.76, 2.89, -0.07, 2.89, 3.75, 2.89])
HOME: Final = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
_START_RAD: Final = 0.5  # a start lies at most this far from HOME, in each joint
# of each joint: length a and twist alpha of the link before it, offset d along its axis
_LINKS: Final = (
    (0.0, 0.0, 0.333),
    (0.0, -np.pi / 2, 0.0),
    (0.0, np.pi / 2, 0.316),
    (0.0825, np.pi / 2, 0.0),
    (-0.0825, -np.pi / 2, 0.384),
    (0.0, np.pi / 2, 0.0),
    (0.088, np.pi / 2, 0.0),
)
_FLANGE_M: Final = 0.107

# task -> (pose in rad, sentences)
POSES: Final[dict[str, tuple[tuple[float, ...], tuple[str, ...]]]] = {
    "raise": (
        (0.0, 0.0, 0.0, -0.6, 0.0, 1.9, 0.785),
        ("raise the arm", "lift the arm up", "stretch the arm upwards", "put your hand up"),
    ),
    "lower": (
        (0.0, 0.6, 0.0, -2.2, 0.0, 2.8, 0.785),
        ("lower the arm", "bring the arm down", "reach down to the table", "put your hand down"),
    ),
    "left": (
        (1.2, -0.3, 0.3, -2.0, 0.0, 1.7, 0.785),
        ("turn to the left", "swing the arm left", "point the arm to the left", "go left"),
    ),
    "right": (
        (-1.2, -0.3, -0.3, -2.0, 0.0, 1.7, 0.785),
        ("turn to the right", "swing the arm right", "point the arm to the right", "go right"),
    ),
}

JOINTS: Final = tuple(f"arm_joint_{i}_pos" for i in range(NUM_JOINTS))
INTERFACE: Final = Interface(
    state=ArraySpec(
        shape=(17,),
        unit="rad; rad/s; m",
        names=(
            *JOINTS,
            *(f"arm_joint_{i}_vel" for i in range(NUM_JOINTS)),
            *(f"eef_pos_{axis}" for axis in "xyz"),
        ),
        rate_hz=RATE_HZ,
        frame="base",
        note="joint angles, joint speeds, place of the flange",
    ),
    action=ArraySpec(
        shape=(NUM_JOINTS,),
        unit="rad",
        minimum=tuple(LOW.tolist()),
        maximum=tuple(HIGH.tolist()),
        names=JOINTS,
        rate_hz=RATE_HZ,
        note="targets of the joints' servos",
    ),
    rate_hz=RATE_HZ,
)


class Arm7Task(TaskEnv):
    """One pose to take, from a start near home that `reset(seed=)` draws."""

    metadata = {"render_modes": [], "render_fps": int(RATE_HZ)}  # noqa: RUF012

    def __init__(
        self,
        name: str,
        *,
        cameras: Sequence[str] = (),
        image_size: tuple[int, int] = (96, 96),
        max_steps: int = 100,
    ) -> None:
        if name not in POSES:
            raise ValueError(f"arm7 has no task {name!r}{near_misses(name, POSES)}")
        self.task_id = f"arm7/{name}"
        for camera in cameras:
            self.picture(camera, image_size)
        if max_steps < 1:
            raise ValueError(f"{name}: max_steps={max_steps} must be at least 1")
        pose, sentences = POSES[name]
        self.instructions = list(sentences)
        self.max_steps = max_steps
        self.interface = INTERFACE
        self.observation_space = observation_space(INTERFACE)
        self.action_space = box(INTERFACE.action)
        self.pose = np.array(pose)
        self._angle = HOME.copy()
        self._speed = np.zeros(NUM_JOINTS)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[DictObs, dict[str, Any]]:
        """Begin the episode of `seed`, at rest."""
        super().reset(seed=seed)
        start = HOME + self.np_random.uniform(-_START_RAD, _START_RAD, NUM_JOINTS)
        self._angle = np.clip(start, LOW, HIGH)
        self._speed = np.zeros(NUM_JOINTS)
        self._steps = 0
        return self._observation(), {"instruction": self.instructions[0]}

    def step(self, action: Array) -> tuple[DictObs, float, bool, bool, dict[str, Any]]:
        """Move one tick of 50 ms towards the joint targets `action` f32 [7], clipped to limits."""
        target = np.clip(np.asarray(action, np.float64), LOW, HIGH)
        self._angle, self._speed = servo(self._angle, self._speed, target, 1 / RATE_HZ)
        self._steps += 1
        error = float(np.abs(self._angle - self.pose).max())
        success = error < REACHED_RAD and float(np.abs(self._speed).max()) < REST_RAD_S
        truncated = self._steps >= self.max_steps
        return self._observation(), -error, False, truncated, {"success": success}

    def expert(self) -> Expert:
        """Return the expert that leads every joint straight to the pose."""
        return _Straight(self.pose)

    def _observation(self) -> DictObs:
        parts = (self._angle, self._speed, flange(self._angle))
        return {"state": np.concatenate(parts).astype(np.float32)}


class _Straight:
    def __init__(self, pose: Array) -> None:
        self._pose = pose

    def act(self, obs: DictObs) -> Array:
        angle = obs["state"][:NUM_JOINTS]
        target = angle + np.clip(self._pose - angle, -EXPERT_RAD, EXPERT_RAD)
        return INTERFACE.action.clip(target)


def servo(angle: Array, speed: Array, target: Array, seconds: float) -> tuple[Array, Array]:
    """Return angles and speeds after `seconds`: x'' = w^2 (target - x) - 2 w x', in closed form."""
    omega = 2 * np.pi * SERVO_HZ
    offset = angle - target
    slope = speed + omega * offset
    decay = np.exp(-omega * seconds)
    moved = target + (offset + slope * seconds) * decay
    return moved, (slope - omega * (offset + slope * seconds)) * decay


def flange(angle: Array) -> Array:
    """Return the place of the flange [3] in the base's frame, m."""
    pose = np.eye(4)
    for (length, twist, offset), joint in zip(_LINKS, angle, strict=True):
        c, s, ct, st = np.cos(joint), np.sin(joint), np.cos(twist), np.sin(twist)
        pose = pose @ np.array(
            [
                [c, -s, 0, length],
                [s * ct, c * ct, -st, -offset * st],
                [s * st, c * st, ct, offset * ct],
                [0, 0, 0, 1],
            ]
        )
    place: Array = pose[:3, 3] + _FLANGE_M * pose[:3, 2]
    return place
