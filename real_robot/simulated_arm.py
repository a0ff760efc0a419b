"""A two-joint arm in numpy: the robot that needs nothing installed and no display.

Each joint is a critically damped position servo, integrated exactly over the time that has really
passed, so it moves as long as somebody looks at it, at whatever rate. A goal for its joints is
drawn per episode and is part of the state; an episode ends when the arm has come to rest there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from telic.ranges import require_range
from telic.real_robot.clock import NS, Clock
from telic.real_robot.robot import MAX_HZ, MIN_HZ, Reading
from telic.real_robot.timeline import Motion
from telic.spec import Array, ArraySpec, Interface

JOINTS = ("shoulder_rad", "elbow_rad")
LIMIT_RAD = 2.0
SERVO_HZ = 4.0  # natural frequency of a joint
REACHED_RAD = 0.05
REST_RAD_S = 0.05


def arm_interface(rate_hz: float = 20.0) -> Interface:
    """Return what the arm offers: state [6] = angles, speeds, goal angles; action [2] = angles."""
    return Interface(
        state=ArraySpec(
            shape=(6,),
            unit="rad; rad/s",
            names=(*JOINTS, *(f"{name}_s" for name in JOINTS), *(f"goal_{n}" for n in JOINTS)),
        ),
        action=ArraySpec(
            shape=(2,), unit="rad", minimum=(-LIMIT_RAD,), maximum=(LIMIT_RAD,), names=JOINTS
        ),
        rate_hz=rate_hz,
    )


@dataclass(kw_only=True, slots=True)
class ArmConfig:
    """The arm's options."""

    identity: ClassVar[None] = None  # there may be any number of it

    control_hz: float = 100.0
    rate_hz: float = 20.0  # of the policy's actions
    seed: int = 0  # of the goals

    def __post_init__(self) -> None:
        prefix = "robot_options."
        require_range(self, "control_hz", "rate_hz", at_least=MIN_HZ, at_most=MAX_HZ, prefix=prefix)
        require_range(self, "seed", at_least=0, prefix=prefix)

    @classmethod
    def small(cls) -> tuple[ArmConfig, Interface]:
        """An example, and the interface of a policy for it: what tests run."""
        return cls(seed=1), arm_interface()

    def build(self, needs: Interface, clock: Clock) -> SimulatedArm:
        """Return the arm; it has no camera to offer, whatever is needed."""
        return SimulatedArm(self, clock)


class SimulatedArm:
    """The arm, moving in the time of `clock`."""

    motion = Motion.absolute
    binary_dims: tuple[int, ...] = ()
    instruction: str | None = "bring the arm to its goal"

    def __init__(self, config: ArmConfig, clock: Clock):
        self.interface = arm_interface(config.rate_hz)
        self.control_hz = config.control_hz
        self._clock = clock
        self._rng = np.random.default_rng(config.seed)
        self._angle = np.zeros(2)
        self._speed = np.zeros(2)
        self._target = np.zeros(2)
        self._goal = self._rng.uniform(-1.5, 1.5, 2)
        self._episode = 0
        self._stopped = False
        self._moved_ns = clock.now_ns()
        self._counts = {"commands": 0, "holds": 0}

    def connect(self) -> None:
        """Switch the servos on where the arm stands."""
        self._moved_ns = self._clock.now_ns()

    def read(self) -> Reading:
        """Return angles, speeds and goal now; a goal that is reached begins a new episode."""
        self._move()
        if (
            np.abs(self._angle - self._goal).max() < REACHED_RAD
            and np.abs(self._speed).max() < REST_RAD_S
        ):
            self._goal = self._rng.uniform(-1.5, 1.5, 2)
            self._episode += 1
        state = np.concatenate([self._angle, self._speed, self._goal]).astype(np.float32)
        return Reading(state=state, t_obs_ns=self._moved_ns, episode=self._episode)

    def command(self, action: Array) -> None:
        """Set the servos' targets."""
        self._move()
        self._target = np.asarray(action, np.float64)
        self._counts["commands"] += 1

    def hold(self) -> Array:
        """Keep the targets; return them."""
        self._counts["holds"] += 1
        return self._target.astype(np.float32)

    def stop(self) -> None:
        """Switch the servos off."""
        self._move()
        self._stopped = True

    def report(self) -> dict[str, Any]:
        """Return counts, goals reached, and whether the arm was off and at rest at the end."""
        speed = float(np.abs(self._speed).max())
        return {
            "episodes": self._episode + 1,
            "successes": self._episode,
            "stopped": self._stopped,
            "final_speed_rad_s": speed,
            **self._counts,
        }

    def _move(self) -> None:
        """Bring the joints to now: x'' = w^2 (target - x) - 2 w x', solved in closed form."""
        now_ns = self._clock.now_ns()
        elapsed_s = (now_ns - self._moved_ns) / NS
        self._moved_ns = now_ns
        omega = 2 * np.pi * SERVO_HZ
        offset = self._angle - self._target
        slope = self._speed + omega * offset
        decay = np.exp(-omega * elapsed_s)
        self._angle = self._target + (offset + slope * elapsed_s) * decay
        self._speed = (slope - omega * (offset + slope * elapsed_s)) * decay
