"""The motors of arm and fingers, and the steps in which time passes.

PyBullet's motors give a joint a speed within one physics step, with a limited force, in the same
solution that keeps bodies apart: a blocked arm presses until one of its motors is at its limit,
and only that one gives way. So do the arm's here. MuJoCo's solver has such constraints, dry
friction: its reference speed, which is 0, is set to the motor's.

The fingers' closing motors are as strong as 1 m/s of their speed and a grip of 190 N ask for:
rotors as heavy as that needs, whose damping takes their speed away in one step. The integrator
adds no damping: what it adds is not known to the solver of contacts, and fingers would sink.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from telic.spec import Array

PHYSICS_HZ: Final = 120
CLOSING_HZ: Final = 480  # while the fingers close, by up to 2 mm each in 1/480 s

APPROACH: Final = 0.1  # of what is missing, in 1/240 s: PyBullet's position gain
_ARM_NM: Final = 200.0  # of each joint, CALVIN's, which hold the arm's weight too
_ARM_RAD_S: Final = 2.0  # at most, CALVIN's
_HOLDS: Final = [0.9999, 0.9999, 0.001, 0.5, 2]  # a constraint that hardly creeps
ARM_MOTOR: Final = {"frictionloss": _ARM_NM, "solimp_friction": _HOLDS}  # of an arm's joint

FINGERS: Final = ("finger_left", "finger_right")
FINGER_KG: Final = 0.06
CLOSING_ROTOR_KG: Final = 3.4  # on top
_OPENING_N: Final = 1.2  # of each: together less than the friction of a block on the desk
_CLOSING_N: Final = 2000.0  # more than the rotor ever asks for
_HOLDING_N: Final = 200.0  # of fingers that have closed: CALVIN's
_HOLDING_APPROACH: Final = 0.5  # of what is missing, in a step: all of the force from 8 mm on
_GEAR_N: Final = 50.0  # CALVIN's, of what keeps both as far from the middle as one another
_CENTRES: Final = 4.8  # of their difference, in a second: 0.1 of PyBullet's 0.2 in each 1/240 s
_MOVING_M_S: Final = 0.02  # of their width: fingers that do are not yet closed

_STOPS: Final = 1.0  # of the speed at which bodies meet, in one physics step
_PARTS: Final = 0.25  # of the depth to which they met, in one physics step
# felt from 0.7 mm on, so that 190 N leave the fingers where they touch, and seen from 1.4 mm on
FINGER_CONTACT: Final = {
    "margin": 0.0014,
    "gap": 0.0007,
    "solimp": [0.95, 0.99, 0.001, 0.5, 2],
    "priority": 1,
}

Setting = tuple[bool, float, bool]


def finger_contact(hertz: float) -> list[float]:
    """Return solref of the fingers' contacts, direct (-stiffness, -damping), at a physics rate."""
    return [-_PARTS * hertz**2, -_STOPS * hertz]


def _at_once(hertz: float) -> list[float]:
    """Return solref, direct, of a friction that brings a speed about in one physics step."""
    return [0.0, -hertz]


def _approach(hertz: float) -> float:
    """Return the part of what is missing that PyBullet's motors go in a step at this rate."""
    return float(1.0 - (1.0 - APPROACH) ** (240.0 / hertz))


def _gains(inertia: float, hertz: float, approach: float) -> tuple[float, float]:
    """Return stiffness and damping that make a free joint's speed right in one physics step."""
    damping = inertia * hertz
    return damping * hertz * approach, damping


def add_finger_motors(spec: Any, mujoco: Any) -> None:
    """Add both fingers' motors, and the gear that gives way where one is pushed too hard."""
    gear = spec.add_tendon(name="gear", frictionloss=_GEAR_N, solimp_friction=_HOLDS)
    for joint, side in zip(FINGERS, (1.0, -1.0), strict=True):
        gear.wrap_joint(joint, side)
        spec.add_actuator(
            name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gaintype=mujoco.mjtGain.mjGAIN_FIXED, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[0.0] * 10, biasprm=[0.0] * 10,
            forcerange=[-_CLOSING_N, _CLOSING_N], forcelimited=True,
        )  # fmt: skip


class Motors:
    """Motors of one model: what they may do, and how time passes for all.

    model: an MjModel of one's own; it is changed. `angles` [7] is where the arm is to go.
    """

    def __init__(self, model: Any, mujoco: Any) -> None:
        self._model, self._mujoco = model, mujoco
        arm = [model.joint(f"arm_{index}") for index in range(1, 8)]
        dofs = [int(joint.dofadr[0]) for joint in arm]
        self._turns, self._places = _span(dofs), _span([int(joint.qposadr[0]) for joint in arm])
        self._rows = _span(friction_rows(model, mujoco, dofs, "gear"))
        self._motors = [model.actuator(name).id for name in FINGERS]
        self._joints = [int(model.joint(name).dofadr[0]) for name in FINGERS]
        self._widths = [int(model.joint(name).qposadr[0]) for name in FINGERS]
        bodies = [model.body(name).id for name in FINGERS]
        self._geoms = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in bodies]
        self.angles = np.zeros(7)
        self.begin(closes=False)

    def begin(self, closes: bool) -> None:
        """Take the fingers to have had this command for long."""
        self._set(closes, PHYSICS_HZ, False)

    @property
    def setting(self) -> Setting:
        """What the fingers' motors are set to: whether they close, the physics rate, and hold."""
        return self._setting

    def set_again(self, setting: Setting) -> None:
        """Set the fingers' motors to an earlier `setting`."""
        self._set(*setting)

    def command(self, closes: bool, speeds: Array) -> float:
        """Set the fingers' motors for the next action, and return the physics rate for it.

        speeds: of the model's degrees of freedom, now.
        """
        before = self._setting[0]
        left, right = self._joints
        moves = closes != before or abs(speeds[left] + speeds[right]) > _MOVING_M_S
        setting = (closes, CLOSING_HZ if closes and moves else PHYSICS_HZ, closes and not moves)
        if setting != self._setting:
            self._set(*setting)
        return setting[1]

    def advance(self, data: Any, steps: int) -> None:
        """Let physics steps pass with the arm on its way to `angles`.

        The solver begins with the arm at its motors' speeds, where it mostly ends too: with two
        iterations a step instead of six.
        """
        model, hertz = self._model, self._setting[1]
        begin, end, rows = self._mujoco.mj_step1, self._mujoco.mj_step2, self._rows
        qpos, qvel, guess = data.qpos, data.qvel, data.qacc_warmstart
        left, right = self._widths
        gain, speeds = _approach(hertz) * hertz, np.empty(8)
        arm = speeds[:7]
        for _ in range(steps):
            begin(model, data)
            np.subtract(self.angles, qpos[self._places], out=arm)
            np.multiply(arm, gain, out=arm)
            speeds[7] = _CENTRES * (qpos[right] - qpos[left])
            np.maximum(speeds, -_ARM_RAD_S, out=speeds)
            np.minimum(speeds, _ARM_RAD_S, out=speeds)
            np.multiply(speeds, hertz, out=speeds)
            data.efc_aref[rows] += speeds
            guess[self._turns] = arm - hertz * qvel[self._turns]
            end(model, data)

    def _set(self, closes: bool, hertz: float, holds: bool) -> None:
        model = self._model
        rotor, force = (CLOSING_ROTOR_KG, _CLOSING_N) if closes else (0.0, _OPENING_N)
        approach = _HOLDING_APPROACH if holds else _approach(hertz)
        stiffness, damping = _gains(FINGER_KG + rotor, hertz, approach)
        model.opt.timestep = 1.0 / hertz
        model.dof_armature[self._joints] = rotor
        model.actuator_gainprm[self._motors, 0] = stiffness
        model.actuator_biasprm[self._motors, 1:3] = -stiffness, -damping
        force = _HOLDING_N if holds else force
        model.actuator_forcerange[self._motors] = -force, force
        model.dof_solref[self._turns] = _at_once(hertz)
        model.tendon_solref_fri[:] = _at_once(hertz)
        model.geom_solref[self._geoms] = finger_contact(hertz)
        model.pair_solref[:] = finger_contact(hertz)
        self._setting: Setting = (closes, hertz, holds)


def friction_rows(model: Any, mujoco: Any, dofs: list[int], tendon: str) -> list[int]:
    """Return which of the solver's rows are the dry friction of degrees of freedom and a tendon.

    They come before limits and contacts and after equality constraints, in a model's every state
    alike. ValueError for one that has no dry friction, or where equality constraints, which may be
    switched on and off, would shift the rows.
    """
    if model.neq:
        raise ValueError(
            f"the model has {model.neq} equality constraints, expected none: switched on or off, "
            "they would shift the rows of the motors' dry friction"
        )
    data, kinds = mujoco.MjData(model), mujoco.mjtConstraint
    mujoco.mj_fwdPosition(model, data)
    found = {key: row for row, key in enumerate(zip(data.efc_type, data.efc_id, strict=True))}
    wanted = [(int(kinds.mjCNSTR_FRICTION_DOF), dof) for dof in dofs]
    wanted += [(int(kinds.mjCNSTR_FRICTION_TENDON), int(model.tendon(tendon).id))]
    for kind, index in wanted:
        if (kind, index) not in found:
            what = f"tendon {tendon!r}"
            if kind == kinds.mjCNSTR_FRICTION_DOF:
                what = f"joint {model.joint(int(model.dof_jntid[index])).name!r}"
            raise ValueError(f"{what} has no dry friction (frictionloss), which is its motor")
    return [found[key] for key in wanted]


def _span(numbers: list[int]) -> Any:
    """Return an index of these numbers: a slice where they follow one another, else an array."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return np.array(numbers)
