"""From actions to angles of the arm: an accumulated target pose, then inverse kinematics.

Relative actions as CALVIN's: 0.02 m and 0.05 rad a step, in the world frame, added to a target
that began at the measured pose; angles are added one by one, about the fixed axes x, y, z.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np

from telic.envs.playtable.panda import HIGH, LOW, NEUTRAL, NUM_JOINTS, add_arm
from telic.envs.playtable.rotations import matrix
from telic.envs.rendering import load_mujoco
from telic.spec import Array, ArraySpec

RATE_HZ: Final = 30.0
STEP_M: Final = 0.02
STEP_RAD: Final = 0.05
NUM_ACTIONS: Final = 7

_MAX_ITERATIONS: Final = 6
_CLOSE: Final = 1e-4  # m and rad, of the answer
_DAMPING: Final = 0.03
_TO_NEUTRAL: Final = 0.05  # of the way to the neutral posture, where the tool does not feel it
_MAX_TURN: Final = 0.4  # rad an iteration

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
    note="change of the target pose in a step; gripper: above 0 opens, else closes",
)


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
    """Damped least squares (Nakamura and Hanafusa 1986), drawn to the neutral posture."""

    def __init__(self) -> None:
        self._mujoco = load_mujoco()
        self._model, self._data = _arm()
        self._site = self._model.site("tcp").id
        self._jacobian = np.zeros((6, self._model.nv))

    def joints(self, position: Array, euler: Array, start: Array) -> Array:
        """Return joint angles [7] within limits that bring the tool to a pose, as near as it gets.

        position [3] in m and euler [3] in rad, world frame; start: angles [7] to begin from.
        """
        goal = matrix(euler)
        angles = np.clip(start, LOW, HIGH)
        for iteration in range(_MAX_ITERATIONS):
            error = self._error(angles, position, goal)
            if iteration and np.abs(error).max() < _CLOSE:
                break
            step = self._step(error, NEUTRAL - angles if iteration == 0 else None)
            largest = np.abs(step).max()
            if largest > _MAX_TURN:
                step *= _MAX_TURN / largest
            angles = np.clip(angles + step, LOW, HIGH)
        return angles

    def _error(self, angles: Array, position: Array, goal: Array) -> Array:
        """Return what is missing, position and rotation [6], and put the arm model there."""
        data, model, mujoco = self._data, self._model, self._mujoco
        data.qpos[:NUM_JOINTS] = angles
        mujoco.mj_kinematics(model, data)
        turn = goal @ data.site_xmat[self._site].reshape(3, 3).T
        error = np.empty(6)
        error[:3] = position - data.site_xpos[self._site]
        error[3] = (turn[2, 1] - turn[1, 2]) / 2
        error[4] = (turn[0, 2] - turn[2, 0]) / 2
        error[5] = (turn[1, 0] - turn[0, 1]) / 2
        return error

    def _step(self, error: Array, preference: Array | None) -> Array:
        """Return J^T (J J^T + damping^2)^-1 error, and of `preference` what moves no tool."""
        self._mujoco.mj_comPos(self._model, self._data)
        whole = self._jacobian
        self._mujoco.mj_jacSite(self._model, self._data, whole[:3], whole[3:], self._site)
        jacobian = whole[:, :NUM_JOINTS]
        square = jacobian @ jacobian.T
        square.flat[::7] += _DAMPING**2
        if preference is not None:
            error = error - jacobian @ (_TO_NEUTRAL * preference)
        answer = np.empty(6)
        self._mujoco.mju_cholFactor(square, 0.0)
        self._mujoco.mju_cholSolve(answer, square, error)
        step: Array = jacobian.T @ answer
        return step if preference is None else step + _TO_NEUTRAL * preference
