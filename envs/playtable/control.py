"""From actions to angles of the arm: an accumulated target pose, then inverse kinematics.

Relative actions as CALVIN's: 0.02 m and 0.05 rad a step, in the world frame, added to a target
that began at the measured pose; angles are added one by one, about the fixed axes x, y, z.
"""

from __future__ import annotations

from functools import cache
from math import pi
from typing import Any, Final

import numpy as np

from telic.envs.playtable.panda import HIGH, LOW, NEUTRAL, NUM_JOINTS, add_arm
from telic.envs.playtable.rotations import quaternion
from telic.envs.rendering import load_mujoco
from telic.spec import Array, ArraySpec

# raised whenever the same actions move things otherwise; in 1, unstated, fingers sank into blocks
PHYSICS: Final = "playtable 4"
RATE_HZ: Final = 30.0
STEP_M: Final = 0.02
STEP_RAD: Final = 0.05
NUM_ACTIONS: Final = 7

# PyBullet's solver, as CALVIN calls it
_ITERATIONS: Final = 20
_NEAR_M: Final = 1e-4  # of the tool's point, where the iterations end
_DAMPING: Final = 0.6
_PULL: Final = 0.001  # of the way to the neutral posture, in each iteration
_MAX_TURN: Final = pi / 4  # rad an iteration
_FAR: Final = 0.2  # rad, of a joint: iterations that turn it further are done one by one

ACTION_SPEC: Final = ArraySpec(
    shape=(NUM_ACTIONS,),
    minimum=(-1.0,),
    maximum=(1.0,),
    names=("tcp_dx", "tcp_dy", "tcp_dz", "tcp_droll", "tcp_dpitch", "tcp_dyaw", "gripper"),
    unit="0.02 m; 0.05 rad; gripper 1",
    rate_hz=RATE_HZ,
    rotation="euler_xyz_fixed",
    gripper="positive_opens",
    frame="world",
    physics=PHYSICS,
    note="change of the target pose in a step; gripper: above 0 opens, else closes",
)


def checked_action(action: Array) -> Array:
    """Return an action as f64 [7]; ValueError for another shape or what is not finite."""
    action = np.asarray(action, np.float64)
    if action.shape != (NUM_ACTIONS,):
        raise ValueError(
            f"action: shape is {action.shape}, expected ({NUM_ACTIONS},): "
            f"{', '.join(ACTION_SPEC.names)}"
        )
    if not np.isfinite(action).all():
        raise ValueError(f"action: {action.tolist()} is not finite")
    return action


def opening(command: float) -> float:
    """Return 1.0 (open) for a command above 0, else -1.0 (close)."""
    return 1.0 if command > 0 else -1.0


@cache
def _arm() -> tuple[Any, Any]:
    """Return model and data of the arm alone."""
    mujoco = load_mujoco()
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    add_arm(spec, mujoco, {})
    model = spec.compile()
    return model, mujoco.MjData(model)


class InverseKinematics:
    """PyBullet's damped least squares with a pull to the neutral posture, as CALVIN calls it.

    Which of the postures that reach a pose the arm takes depends on where each iteration stops and
    on how weakly it is damped, so that both are part of the robot. An iteration turns the joints by

        d = J^T U e + (1 - J^T U J) p,   U = (J J^T + 0.6^2)^-1,   p = 0.001 (neutral - angles)

    for what is missing, e, after Buss 2004, "Introduction to inverse kinematics", and Liegeois
    1977 for p. Here all twenty are summed with J of half the way, in two evaluations of J: within
    0.005 rad of PyBullet along all of CALVIN's traces (`tests/envs/playtable/test_posture.py`).
    """

    def __init__(self) -> None:
        self._mujoco = load_mujoco()
        self._model, self._data = _arm()
        self._site, self._hand = self._model.site("tcp").id, self._model.body("hand").id
        self._whole = np.zeros((6, self._model.nv))
        self._moved, self._turned = self._whole[:3], self._whole[3:]
        self._damping = _DAMPING**2 * np.eye(6)
        self._error, self._turn = np.zeros(6), np.zeros(3)
        self._missing = np.ones((_ITERATIONS, 7))  # of iterations, less J p; a one behind
        self._map = np.eye(7)  # from one iteration's to the next's, as rows
        self._away = np.zeros((_ITERATIONS, 3))
        self._sum = np.ones(3)

    def joints(self, position: Array, euler: Array, start: Array) -> Array:
        """Return joint angles [7] within limits that bring the tool nearer to a pose.

        position [3] in m and euler [3] in rad, world frame; start: angles [7] to begin from.
        Twenty damped iterations leave a tenth of the way, and half a millimetre for good.
        """
        goal, left = quaternion(euler), _ITERATIONS
        angles = np.array(start, np.float64)
        while left > 0:
            jacobian = self._jacobian(angles)
            error, pull = self._error_to(position, goal), _PULL * (NEUTRAL - angles)
            turned, count, near = self._turns(jacobian, error, pull, left)
            if count > 1 and turned.dot(turned) > _FAR**2 and np.abs(turned).max() > _FAR:
                turned, count, near = self._turns(jacobian, error, pull, 1)
                turned *= min(1.0, _MAX_TURN / np.abs(turned).max())
            elif count > 1:
                jacobian = self._jacobian(angles + turned / 2)
                turned, count, near = self._turns(jacobian, error, pull, left)
            angles += turned
            left = 0 if near else left - count
        return np.minimum(np.maximum(angles, LOW), HIGH)

    def _jacobian(self, angles: Array) -> Array:
        """Return the tool's Jacobian [6 7] with the arm model at `angles`."""
        data, model, mujoco = self._data, self._model, self._mujoco
        data.qpos[:NUM_JOINTS] = angles
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, self._moved, self._turned, self._site)
        return self._whole[:, :NUM_JOINTS].copy()

    def _error_to(self, position: Array, goal: Array) -> Array:
        """Return what the arm model's tool lacks, position and rotation vector [6], world frame."""
        data, error = self._data, self._error
        np.subtract(position, data.site_xpos[self._site], out=error[:3])
        self._mujoco.mju_subQuat(self._turn, goal, data.xquat[self._hand])
        data.site_xmat[self._site].reshape(3, 3).dot(self._turn, out=error[3:])
        return error

    def _turns(
        self, jacobian: Array, error: Array, pull: Array, count: int
    ) -> tuple[Array, int, bool]:
        """Return by how much `count` iterations turn the joints [7] if the Jacobian stays so.

        Also how many there are until one began with the tool there, and whether one did.
        """
        drift = jacobian.dot(pull)
        inverse = np.linalg.inv(jacobian.dot(jacobian.T) + self._damping)
        missing, following = self._missing, self._map
        np.subtract(error, drift, out=missing[0, :6])
        np.multiply(inverse, _DAMPING**2, out=following[:6, :6])
        np.negative(drift, out=following[6, :6])
        known, power = 1, following
        while known < count:  # as many again, by that many iterations at once
            more = min(known, count - known)
            missing[:more].dot(power, out=missing[known : known + more])
            known, power = known + more, power.dot(power)
        away = np.add(missing[:count, :3], drift[:3], out=self._away[:count])
        far = np.multiply(away, away, out=away).dot(self._sum)
        near = bool(far[far.argmin()] <= _NEAR_M**2)
        if near:
            count = int((far <= _NEAR_M**2).argmax()) + 1
        total = inverse.dot(np.add.reduce(missing[:count, :6]))
        return total.dot(jacobian) + count * pull, count, near
