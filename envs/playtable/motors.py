"""The motors of arm and fingers, and the steps in which time passes.

PyBullet's motors give a joint a speed within one physics step, with a limited force, and its
contacts stop what touches within one too. So do these. The solver of contacts does not know of
damping that the integrator adds afterwards: damped implicitly, strong motors on light fingers
divide the forces that keep them out of a block by ten or more, and sink. Here the integrator adds
none: a motor's damping takes a joint's speed away in one step, its rotor is as heavy as that
needs, and the solver sees all of it.
"""

from __future__ import annotations

import os
from typing import Any, Final

from telic.spec import Array

PHYSICS_HZ: Final = int(os.environ.get('PH','120'))
OPEN_N = float(os.environ.get('ON','2'))
CLOSING_HZ: Final = int(os.environ.get('CH','240'))  # while the fingers close, by up to 4 mm each in 1/240 s

APPROACH: Final = 0.1  # of what is missing, in 1/240 s: PyBullet's position gain
ARM_ROTOR: Final = 2.0  # kg m^2, of each joint
MAX_TORQUE: Final = float(os.environ.get("MT","400"))  # N m, of them as much as CALVIN's 200 for the rotor

FINGER_KG: Final = 0.06
CLOSING_ROTOR_KG: Final = 3.4  # on top: a 40 mm block is held with 190 N from each side
_OPENING_N: Final = 1.2  # of each: together less than the friction of a block on the desk
_CLOSING_N: Final = 2000.0  # more than is ever asked for
_HOLDING_N: Final = 200.0  # CALVIN's motors'
_GEAR_N: Final = 50.0  # CALVIN's constraint between the fingers
_HOLDS: Final = [0.9999, 0.9999, 0.001, 0.5, 2]
FINGER_JOINTS: Final = ("finger_left", "finger_right")
_MOVING_M_S: Final = 0.02  # fingers that do are not yet closed

_STOPS: Final = 1.0  # of the speed at which bodies meet, in one physics step
_PARTS: Final = 0.25  # of the depth to which they met, in one physics step
# felt from 0.7 mm on, so that 190 N leave the fingers where they touch, and seen from 1.4 mm on
FINGER_CONTACT: Final = {
    "margin": 0.0014,
    "gap": 0.0007,
    "solimp": [0.95, 0.99, 0.001, 0.5, 2],
    "priority": 1,
}


def finger_contact(hertz: float) -> list[float]:
    """Return solref of the fingers' contacts, direct (-stiffness, -damping), at a physics rate."""
    return [-_PARTS * hertz**2, -_STOPS * hertz]


def add_arm_motor(spec: Any, mujoco: Any, joint: str) -> None:
    """Add a position motor whose error decays as that of PyBullet's, by a tenth in 1/240 s."""
    _add_motor(spec, mujoco, joint, _gains(ARM_ROTOR, PHYSICS_HZ), MAX_TORQUE)


def add_finger_motor(spec: Any, mujoco: Any, joint: str) -> None:
    """Add a position motor whose error decays as that of PyBullet's, by a tenth in 1/240 s."""
    gains = _gains(FINGER_KG + CLOSING_ROTOR_KG, PHYSICS_HZ)
    _add_motor(spec, mujoco, joint, gains, _CLOSING_N)


def add_gear(spec: Any, mujoco: Any) -> None:
    """Add what keeps the fingers as far from the middle as one another, with a limited force."""
    gear = spec.add_tendon(
        name="gear", frictionloss=_GEAR_N, solimp_friction=_HOLDS,
        solref_friction=_gear_contact(PHYSICS_HZ),
    )  # fmt: skip
    for joint, side in zip(FINGER_JOINTS, (1.0, -1.0), strict=True):
        gear.wrap_joint(joint, side)


def _gear_contact(hertz: float) -> list[float]:
    """Return solref, direct, that ends the fingers' relative speed in one physics step."""
    return [0.0, -hertz]


def _gains(inertia: float, hertz: float, approach: float | None = None) -> tuple[float, float]:
    """Return stiffness and damping that make a free joint's speed right in one physics step."""
    damping = inertia * hertz
    if approach is None:
        approach = 1.0 - (1.0 - APPROACH) ** (240.0 / hertz)
    return damping * hertz * approach, damping


def _add_motor(
    spec: Any, mujoco: Any, joint: str, gains: tuple[float, float], force: float
) -> None:
    stiffness, damping = gains
    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[stiffness, *[0] * 9], biasprm=[0, -stiffness, -damping, *[0] * 7],
        forcerange=[-force, force], forcelimited=True,
    )  # fmt: skip


class Motors:
    """Motors of one model: what the fingers' may do, and how finely time passes for all.

    model: an MjModel of one's own; it is changed.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        fingers = FINGER_JOINTS
        self._gear = model.tendon("gear").id
        self._driven = [int(model.joint(n).dofadr[0]) for n in [f"arm_{i}" for i in range(1, 8)] + list(fingers)]
        self._joints = [int(model.joint(name).dofadr[0]) for name in fingers]
        bodies = [model.body(name).id for name in fingers]
        self._geoms = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in bodies]
        self.begin(closes=False)

    def begin(self, closes: bool) -> None:
        """Take the fingers to have had this command for long."""
        self._holds = False
        self._set(closes, PHYSICS_HZ)

    @property
    def setting(self) -> tuple[bool, float]:
        """What the motors are set to: whether they close, and the physics rate."""
        return self._closes, self._rate

    def set_again(self, setting: tuple[bool, float]) -> None:
        """Set the motors to an earlier `setting`."""
        self._set(*setting)

    def command(self, closes: bool, speeds: Array) -> float:
        """Set the motors for the next action, and return the physics rate for it.

        speeds: of the model's degrees of freedom, now.
        """
        moves = closes != self._closes or not self._holds and abs(speeds[self._joints[0]])>.02 or  abs(speeds[self._joints].sum()) > 2 * _MOVING_M_S
        rate = CLOSING_HZ if closes and moves else PHYSICS_HZ
        holds = closes and not moves
        if (closes, rate, holds) != (self._closes, self._rate, self._holds):
            self._holds = holds
            self._set(closes, rate)
        return rate

    def _set(self, closes: bool, hertz: float) -> None:
        model = self._model
        model.opt.timestep = 1.0 / hertz
        model.dof_frictionloss[self._joints] = 200.0 if closes else OPEN_N
        model.dof_solref[self._driven] = _gear_contact(hertz)
        model.tendon_solref_fri[self._gear] = _gear_contact(hertz)
        model.geom_solref[self._geoms] = finger_contact(hertz)
        model.pair_solref[:] = finger_contact(hertz)
        self._closes, self._rate = closes, hertz
