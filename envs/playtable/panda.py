"""The arm: a Franka Panda with long fingers, its kinematics as CALVIN's, its shape our own."""

from __future__ import annotations

from math import pi
from typing import Any, Final

import numpy as np

from telic.envs.playtable.motors import (
    ARM_MOTOR,
    CLOSING_ROTOR_KG,
    FINGER_CONTACT,
    FINGER_KG,
    FINGERS,
    add_finger_motors,
)
from telic.envs.playtable.rotations import quaternion
from telic.spec import Array

NUM_JOINTS: Final = 7
BASE: Final = (-0.34, -0.46, 0.24)
LOW: Final = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
HIGH: Final = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
NEUTRAL: Final = np.array(
    [-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866]
)
FINGER_RANGE: Final = 0.04
TCP_Z: Final = 0.14  # of the tool's point, on the hand
FINGERTIP_Z: Final = 0.154

# of each joint: origin in the link before, turn of its frame about x
_CHAIN: Final = (
    ((0.0, 0.0, 0.333), 0.0),
    ((0.0, 0.0, 0.0), -pi / 2),
    ((0.0, -0.316, 0.0), pi / 2),
    ((0.0825, 0.0, 0.0), pi / 2),
    ((-0.0825, 0.384, 0.0), -pi / 2),
    ((0.0, 0.0, 0.0), pi / 2),
    ((0.088, 0.0, 0.0), pi / 2),
)
# of each link: kg, where its middle is, its inertia about that: CALVIN's URDF, and PyBullet's of it
_LINKS: Final = (
    (2.7, (0, -0.04, -0.05), (0.0230, 0.0178, 0.0115)),
    (2.73, (0, -0.04, 0.06), (0.0235, 0.0116, 0.0182)),
    (2.04, (0.01, 0.01, -0.05), (0.0109, 0.0126, 0.0120)),
    (2.08, (-0.03, 0.03, 0.02), (0.0113, 0.0123, 0.0131)),
    (3.0, (0, 0.04, -0.12), (0.0357, 0.0299, 0.0128)),
    (1.3, (0.04, 0, 0), (0.0034, 0.0051, 0.0060)),
    (0.2, (0, 0, 0.08), (0.0004, 0.0004, 0.0006)),
)
_HAND: Final = (1.01, (-0.02, 0, 0.032), (0.0038, 0.0026, 0.0048))  # and the camera on it
# of each link: capsules from, to, radius
_CAPSULES: Final = (
    (((0, 0, -0.18), (0, 0, 0), 0.06), ((0, -0.05, 0), (0, 0.05, 0), 0.06)),
    (((0, 0, 0), (0, -0.19, 0), 0.058),),
    (((0, 0, -0.12), (0, 0, 0), 0.056), ((0, 0, 0), (0.0825, 0, 0), 0.052)),
    (((0, 0, -0.04), (0, 0, 0.04), 0.055), ((-0.0825, 0, 0), (-0.0825, 0.12, 0), 0.055)),
    (((0, 0, -0.25), (0, 0.05, -0.06), 0.05), ((0, 0.05, -0.06), (0, 0.02, 0), 0.048)),
    (((0, 0, -0.03), (0, 0, 0.03), 0.05), ((0, 0, 0), (0.088, 0, 0), 0.045)),
    (((0, 0, 0), (0, 0, 0.07), 0.045),),
)
# friction of the fingers: PyBullet multiplies their 1.0 by a block's 0.7, a fixture's 0.5
_ON_BLOCKS: Final = 0.7
_ON_FIXTURES: Final = 0.5
_HAND_SECTIONS: Final = ((0.0316, 0.1, 0.0), (0.0173, 0.0975, 0.066))  # half sizes, and z
_HAND_RUBS: Final = 0.25  # 0.5, PyBullet's where a URDF states none, by a fixture's 0.5
# of a finger: half sizes of its box at the hand and of its inner face, and its round back
_FINGER_ROOT: Final = (0.010, 0.010, 0.024)
_FINGER_PAD: Final = (0.0080, 0.002, 0.0238)
_BACK_INNER: Final = 0.001
_BACK_OUTER: Final = 0.0136
_BACK_HALF_X: Final = 0.0109
_BACK_SECTIONS: Final = ((0.048, 1.0), (0.085, 1.0), (0.092, 0.85), (0.0955, 0.6))
_WHITE = (1.0, 1.0, 1.0, 1.0)
_GREY = (0.55, 0.55, 0.57, 1.0)
HAND_SENSES: Final = {"contype": 0, "conaffinity": 3}  # touches table, parts and blocks, not itself


def add_arm(spec: Any, mujoco: Any, contact: dict[str, float]) -> Any:
    """Add the arm to an MjSpec, with its motors, and return its hand body.

    contact: margin and gap of what can touch. Joints are arm_1..7, finger_left, finger_right;
    motors have the same names; site tcp is the tool's point.
    """
    geom, capsule = mujoco.mjtGeom, mujoco.mjtGeom.mjGEOM_CAPSULE
    world = spec.worldbody
    visual = {"contype": 0, "conaffinity": 0}
    world.add_geom(
        type=geom.mjGEOM_CYLINDER, size=[0.13, 0.12, 0], pos=[BASE[0] - 0.05, BASE[1], 0.12],
        rgba=_WHITE, **visual,
    )  # fmt: skip
    body = world.add_body(name="link0", pos=BASE)
    body.add_geom(
        type=capsule, size=[0.07, 0, 0], fromto=[0, 0, 0, 0, 0, 0.13], rgba=_WHITE, **visual
    )
    for index, (place, turn) in enumerate(_CHAIN):
        body = body.add_body(
            name=f"link{index + 1}", pos=place, quat=quaternion(np.array([turn, 0, 0]))
        )
        body.add_joint(
            name=f"arm_{index + 1}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1],
            range=[LOW[index], HIGH[index]], limited=True, **ARM_MOTOR,
        )  # fmt: skip
        _weigh(body, _LINKS[index])
        for start, end, radius in _CAPSULES[index]:
            body.add_geom(
                type=capsule, size=[radius, 0, 0], fromto=[*start, *end], rgba=_WHITE,
                **visual,
            )  # fmt: skip
    return _add_hand(spec, mujoco, body, contact)


def _add_hand(spec: Any, mujoco: Any, flange: Any, contact: dict[str, float]) -> Any:
    box = mujoco.mjtGeom.mjGEOM_BOX
    touching = HAND_SENSES | contact
    hand = flange.add_body(
        name="hand", pos=[0, 0, 0.107], quat=quaternion(np.array([0, 0, -pi / 4]))
    )
    _weigh(hand, _HAND)
    spec.add_mesh(
        name="hand_hull", uservert=np.ravel(_hand_hull()),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
    )  # fmt: skip
    hand.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH, meshname="hand_hull", rgba=_WHITE,
        friction=[_HAND_RUBS, 0.005, 0.0001], priority=1, **touching,
    )  # fmt: skip
    hand.add_site(name="tcp", pos=[0, 0, TCP_Z], group=4)  # not drawn
    for name, side in (("finger_left", 1), ("finger_right", -1)):
        finger = hand.add_body(name=name, pos=[0, 0, 0.0584], gravcomp=1)
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0],
            range=[0, FINGER_RANGE], limited=True, armature=CLOSING_ROTOR_KG,
        )  # fmt: skip
        add = {"mass": FINGER_KG / 3, "condim": 4, "friction": [_ON_FIXTURES, 0.02, 0.0001]}
        add |= touching | FINGER_CONTACT
        for part, half, z in (("root", _FINGER_ROOT, 0.024), ("pad", _FINGER_PAD, 0.0718)):
            finger.add_geom(
                name=f"{name}_{part}", type=box, size=half, pos=[0, half[1] * side, z],
                rgba=_WHITE, **add,
            )  # fmt: skip
        spec.add_mesh(
            name=f"{name}_back", uservert=np.ravel(_finger_back() * [1, side, 1]),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
        )  # fmt: skip
        finger.add_geom(
            name=f"{name}_back", type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"{name}_back",
            rgba=_WHITE, **add,
        )  # fmt: skip
    add_finger_motors(spec, mujoco)
    return hand


def _weigh(body: Any, link: tuple[float, tuple[float, ...], tuple[float, ...]]) -> None:
    """Set a body's kg, where its middle is, and its inertia about that."""
    body.explicitinertial = True
    body.mass, body.ipos, body.inertia = link


def add_grip(spec: Any, mujoco: Any, block: str) -> None:
    """Let the fingers rub on a block, by the name of its geom, as CALVIN's do."""
    friction = [_ON_BLOCKS, _ON_BLOCKS, 0.02, 0.0001, 0.0001]
    more = {key: value for key, value in FINGER_CONTACT.items() if key != "priority"}
    for finger in FINGERS:
        for part in ("root", "pad", "back"):
            spec.add_pair(
                name=f"{finger}_{part}_{block}", geomname1=f"{finger}_{part}", geomname2=block,
                condim=4, friction=friction, **more,
            )  # fmt: skip


def _hand_hull() -> Array:
    """Return vertices [V 3] of the hand, which Franka's collision mesh narrows to the fingers."""
    rings = [[(a * x, b * y, z) for a in (-1, 1) for b in (-1, 1)] for x, y, z in _HAND_SECTIONS]
    return np.array(rings).reshape(-1, 3)


def _finger_back() -> Array:
    """Return vertices [V 3] of the back of the left finger, half an ellipse that ends round."""
    turns = np.linspace(-pi / 2, pi / 2, 9)
    x, y = _BACK_HALF_X * np.sin(turns), (_BACK_OUTER - _BACK_INNER) * np.cos(turns)
    rings = [
        np.stack([share * x, _BACK_INNER + share * y, np.full(len(x), z)], axis=1)
        for z, share in _BACK_SECTIONS
    ]
    return np.concatenate(rings)


def arm_limits_problem(joints: Array, slack: float) -> str | None:
    """Return which joint is beyond its limits by more than `slack` rad, or None."""
    beyond = (joints < LOW - slack) | (joints > HIGH + slack)
    if not beyond.any():
        return None
    first = int(np.argmax(beyond))
    return (
        f"joint {first + 1} of the arm is {joints[first]:.4g}, "
        f"expected {LOW[first]:.4g} to {HIGH[first]:.4g} rad"
    )
