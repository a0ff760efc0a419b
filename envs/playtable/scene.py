"""The MuJoCo model of a scene, built from the numbers of its layout."""

from __future__ import annotations

from functools import cache
from math import pi
from typing import Any, Final

import numpy as np

from telic.envs.playtable import layout as table
from telic.envs.playtable.appearance import dress
from telic.envs.playtable.bars import rounded, straight
from telic.envs.playtable.layout import CAMERAS, OUT, UP, Layout
from telic.envs.playtable.motors import PHYSICS_HZ
from telic.envs.playtable.panda import add_arm, add_grip
from telic.envs.playtable.robot_visuals import HIDDEN_GROUP, add_robot_visuals
from telic.envs.playtable.rotations import matrix, quaternion
from telic.envs.rendering import load_mujoco
from telic.spec import Array

CONTACT: Final = {"margin": 0.0007, "gap": 0.0007}  # seen from 0.7 mm on, felt from 0 on
BULB_RGBA: Final = ((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0))  # off, on
LED_RGBA: Final = ((1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 1.0))

_FIXTURE: Final = {"contype": 1, "conaffinity": 0, "friction": [0.35, 0.005, 0.0001]} | CONTACT
_BLOCK: Final = {"contype": 2, "conaffinity": 3, "friction": [0.35, 0.005, 0.0001]} | CONTACT
# the handles, as thick to the fingers and as round as CALVIN's convex parts
_SLIDE_EDGE: Final = 0.0055  # m, radius
_DRAWER_EDGE: Final = 0.004
_SWITCH_EDGE: Final = 0.006
# of the switch's bar: along x, up the slope and out of it; its ends are rounder than its edges
_SWITCH_END: Final = (
    (0.0502, (-0.0082, 0.0242), (0.0436, 0.0643)),
    (0.0552, (-0.0070, 0.0227), (0.0436, 0.0623)),
    (0.0592, (-0.0045, 0.0205), (0.0436, 0.0577)),
    (0.0602, (-0.0020, 0.0182), (0.0416, 0.0547)),
)
_ONLY_DRAWN: Final = {"contype": 0, "conaffinity": 0}
_ONLY_FELT: Final = {"group": HIDDEN_GROUP}
_GREY: Final = (0.37, 0.37, 0.37, 1.0)
_FRICTION_N: Final = 4.0  # of door, drawer and switch: CALVIN's motors resist with as much
_HOLDS: Final = [0.9999, 0.9999, 0.001, 0.5, 2]  # friction that hardly creeps
_STOPS: Final = [0.995, 0.999, 0.001, 0.5, 2]  # ends of travel that hardly give
_SLOPE_AXES: Final = np.array([[1.0, 0.0, 0.0], UP, OUT])
_SLOPE: Final = quaternion(np.array([-pi / 6, 0.0, 0.0]))  # y and z of the slope: -OUT and UP


@cache
def build(scene: str) -> Any:
    """Return a compiled MjModel of a scene; ValueError for a scene that does not exist.

    Bodies that can be touched: floor (the world), base, plank, slide, drawer, button, switch,
    block_<colour>, hand and fingers. The model is shared: copy it before changing it.
    """
    plan = table.layout(scene)
    mujoco = load_mujoco()
    spec = mujoco.MjSpec()
    _set_options(spec, mujoco)
    _add_surroundings(spec, mujoco)
    _Furniture(spec, mujoco, plan).add_all()
    hand = add_arm(spec, mujoco, CONTACT)
    for colour in table.COLOURS:
        add_grip(spec, mujoco, f"block_{colour}")
    _add_cameras(spec, hand)
    add_robot_visuals(spec, mujoco)
    dress(spec, mujoco, plan, scene)
    return spec.compile()


def _set_options(spec: Any, mujoco: Any) -> None:
    spec.compiler.degree = False
    option = spec.option
    option.timestep = 1 / PHYSICS_HZ
    option.gravity = [0, 0, -9.8]
    option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    option.tolerance = 1e-12  # so that where the solver begins shows in no trajectory
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 10.0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 14, 8
    spec.stat.extent = 1.0  # unit of the two above


def _add_surroundings(spec: Any, mujoco: Any) -> None:
    world = spec.worldbody
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[3, 3, 1], **_FIXTURE)


class _Furniture:
    """Adds desk, cabinet, moving parts and blocks of one layout to a spec."""

    def __init__(self, spec: Any, mujoco: Any, plan: Layout) -> None:
        self._spec, self._mujoco, self._plan = spec, mujoco, plan
        self._wood = (*plan.wood, 1.0)
        self._parts = (*plan.parts, 1.0)

    def add_all(self) -> None:
        self._base = self._spec.worldbody.add_body(name="base")
        self._add_desk()
        self._add_cabinet()
        self._add_lights()
        self._add_slide()
        self._add_drawer()
        self._add_button()
        self._add_switch()
        for colour in table.COLOURS:
            self._add_block(colour)

    def _box(self, body: Any, x: Any, y: Any, z: Any, rgba: Any, **more: Any) -> None:
        """Add a box between the given limits in the body's frame."""
        low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
        body.add_geom(
            type=self._mujoco.mjtGeom.mjGEOM_BOX, pos=(low + high) / 2, size=(high - low) / 2,
            rgba=rgba, **(_FIXTURE | more),
        )  # fmt: skip

    def _add_desk(self) -> None:
        base, wood = self._base, self._wood
        for x in ((-0.44, -0.40), (0.40, 0.44)):
            for y in ((-0.18, -0.148), (0.148, 0.18)):
                self._box(base, x, y, (0, 0.40), wood)
        self._box(base, (-0.44, 0.44), (-0.18, 0.02), (0.40, table.SURFACE_Z), wood)
        self._box(base, (-0.44, 0.44), (0.02, 0.18), (0.40, 0.42), wood)
        for x in ((-0.42, self._plan.drawer_x - 0.221), (self._plan.drawer_x + 0.221, 0.42)):
            if x[1] - x[0] > 0.01:
                self._box(base, x, (-0.16, 0.16), (0.30, 0.40), wood)
        base.add_geom(
            type=self._mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.04, 0.01, 0], rgba=wood,
            pos=[self._plan.button_x, table.BUTTON_Y, table.SURFACE_Z + 0.01], **_FIXTURE,
        )  # fmt: skip

    def _add_cabinet(self) -> None:
        base, wood, plan = self._base, self._wood, self._plan
        left, right = plan.plank_x - table.PLANK_HALF_X, plan.plank_x + table.PLANK_HALF_X
        plank = self._spec.worldbody.add_body(name="plank")
        self._box(plank, (left, right), (0.02, table.CAVITY_BACK_Y), (0.42, table.SHELF_Z), wood)
        self._box(base, (left, right), (table.CAVITY_BACK_Y, 0.18), (0.42, 0.648), wood)
        self._box(base, (left, right), (0.13, table.CAVITY_BACK_Y), (0.628, 0.648), wood)
        for name, x in (("left", (-0.44, left)), ("right", (right, 0.44))):
            profile = [(0.02, 0.42), table.SLOPE_FOOT, table.SLOPE_TOP, (0.18, 0.648), (0.18, 0.42)]
            points = [(side, y, z) for side in x for y, z in profile]
            self._spec.add_mesh(
                name=f"cabinet_{name}", uservert=np.ravel(points),
                inertia=self._mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
            )  # fmt: skip
            base.add_geom(
                type=self._mujoco.mjtGeom.mjGEOM_MESH, meshname=f"cabinet_{name}", rgba=wood,
                **_FIXTURE,
            )  # fmt: skip

    def _add_lights(self) -> None:
        visual = {"contype": 1, "conaffinity": 0} | CONTACT
        self._base.add_geom(
            name="led", type=self._mujoco.mjtGeom.mjGEOM_BOX, size=[0.08, 0.02, 0.008],
            pos=[self._plan.button_x, 0.16, 0.656], rgba=LED_RGBA[0], **visual,
        )  # fmt: skip
        self._base.add_geom(
            name="bulb", type=self._mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.028, 0, 0],
            pos=[self._plan.switch_x, 0.16, 0.6695], rgba=BULB_RGBA[0], **visual,
        )  # fmt: skip

    def _part(
        self, name: str, pos: Any, axis: Any, reach: float, kilograms: float, **more: Any
    ) -> Any:
        """Add a part that slides along `axis` from 0 to `reach`, and rubs."""
        body = self._spec.worldbody.add_body(name=name, pos=pos)
        body.add_joint(
            name=name, type=self._mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, range=[0, reach],
            limited=True, solimp_friction=_HOLDS, solimp_limit=_STOPS, **more,
        )  # fmt: skip
        body.explicitinertial = True
        body.mass, body.inertia, body.ipos = kilograms, [0.01, 0.01, 0.01], [0, 0, 0]
        return body

    def _slanted(self, body: Any, x: Any, up: Any, out: Any, rgba: Any, **more: Any) -> None:
        """Add a box on the slope: limits along x, up the slope and out of it."""
        centre = np.mean(up) * UP + np.mean(out) * OUT
        body.add_geom(
            type=self._mujoco.mjtGeom.mjGEOM_BOX, quat=_SLOPE, rgba=rgba,
            pos=[np.mean(x), centre[1], centre[2]],
            size=[np.ptp(x) / 2, np.ptp(out) / 2, np.ptp(up) / 2], **(_FIXTURE | more),
        )  # fmt: skip

    def _felt(self, body: Any, name: str, vertices: Array, axes: Array = _SLOPE_AXES) -> None:
        """Add the convex hull of vertices along `axes` of a part, which is not drawn."""
        self._spec.add_mesh(
            name=name, uservert=np.ravel(vertices @ axes),
            inertia=self._mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX,
        )  # fmt: skip
        body.add_geom(
            type=self._mujoco.mjtGeom.mjGEOM_MESH, meshname=name, **(_FIXTURE | _ONLY_FELT)
        )

    def _add_slide(self) -> None:
        body = self._part(
            "slide", [self._plan.slide_x, *table.SLIDE_YZ], [-1, 0, 0], self._plan.slide_range,
            1.54, frictionloss=_FRICTION_N, damping=0.04 * 1.54,
        )  # fmt: skip
        self._slanted(body, (0, table.DOOR_WIDTH), (-0.11, 0.11), (0.0, 0.02), self._parts)
        handle = (table.SLIDE_HANDLE_X - 0.02, table.SLIDE_HANDLE_X + 0.02)
        self._slanted(body, handle, (-0.08, 0.08), (0.06, 0.08), _GREY, **_ONLY_DRAWN)
        self._slanted(body, handle, (-0.08, -0.06), (0.02, 0.06), _GREY)
        self._slanted(body, handle, (0.06, 0.08), (0.02, 0.06), _GREY)
        felt = ((handle[0] - 0.0008, handle[1] + 0.0008), (-0.0803, 0.0808), (0.0587, 0.0801))
        self._felt(body, "slide_bar", straight(1, felt, _SLIDE_EDGE))

    def _add_drawer(self) -> None:
        body = self._part(
            "drawer", [self._plan.drawer_x, 0, 0], [0, -1, 0], table.DRAWER_RANGE,
            4.23, frictionloss=_FRICTION_N, damping=0.04 * 4.23,
        )  # fmt: skip
        tray, front = (0.32, 0.40), (-0.18, -0.16)
        self._box(body, (-0.20, 0.20), (-0.16, 0.06), (0.32, table.DRAWER_FLOOR_Z), self._parts)
        self._box(body, (-0.20, -0.18), (-0.16, 0.06), tray, self._parts)
        self._box(body, (0.18, 0.20), (-0.16, 0.06), tray, self._parts)
        self._box(body, (-0.18, 0.18), (0.04, 0.06), tray, self._parts)
        self._box(body, (-0.22, 0.22), front, (0.30, 0.40), self._parts)
        self._box(body, (-0.12, 0.12), (-0.26, -0.24), (0.34, 0.38), _GREY, **_ONLY_DRAWN)
        self._box(body, (-0.12, -0.10), (-0.24, -0.18), (0.34, 0.38), _GREY)
        self._box(body, (0.10, 0.12), (-0.24, -0.18), (0.34, 0.38), _GREY)
        felt = ((-0.1206, 0.1206), (-0.2617, -0.2383), (0.3396, 0.3804))
        self._felt(body, "drawer_bar", straight(0, felt, _DRAWER_EDGE), np.eye(3))

    def _add_button(self) -> None:
        body = self._part(
            "button", [self._plan.button_x, table.BUTTON_Y, 0.472], [0, 0, -1],
            table.BUTTON_RANGE, 0.154, stiffness=270, damping=11,
        )  # fmt: skip
        body.gravcomp = 1
        body.add_geom(
            type=self._mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.032, 0.012, 0],
            rgba=(0, 0, 0, 1), **_FIXTURE,
        )  # fmt: skip

    def _add_switch(self) -> None:
        body = self._part(
            "switch", [self._plan.switch_x, *table.SWITCH_YZ], UP, table.SWITCH_RANGE,
            0.239, frictionloss=_FRICTION_N, damping=0.04 * 0.239,
        )  # fmt: skip
        grey = (0.4, 0.4, 0.4, 1.0)
        for side, x in (("left", (-0.06, -0.04)), ("right", (0.04, 0.06))):
            self._slanted(body, x, (-0.008, 0.024), (0.0, 0.064), grey, **_ONLY_DRAWN)
            felt = (x, (-0.0082, 0.0242), (0.0, 0.05))
            self._felt(body, f"switch_{side}", straight(2, felt, _SWITCH_EDGE))
        self._slanted(body, (-0.04, 0.04), (-0.008, 0.024), (0.044, 0.064), grey, **_ONLY_DRAWN)
        ends = [(side * x, up, out) for side in (-1, 1) for x, up, out in _SWITCH_END]
        self._felt(body, "switch_bar", rounded(0, tuple(ends), _SWITCH_EDGE))

    def _add_block(self, colour: str) -> None:
        body = self._spec.worldbody.add_body(name=f"block_{colour}", pos=[0, 0, 1])
        body.add_freejoint(name=f"block_{colour}")
        size = [self._plan.length(colour) / 2, table.BLOCK_WIDTH / 2, table.BLOCK_WIDTH / 2]
        body.add_geom(
            name=f"block_{colour}", type=self._mujoco.mjtGeom.mjGEOM_BOX, size=size,
            rgba=(*table.BLOCK_RGB[colour], 1.0), mass=table.BLOCK_KG, **_BLOCK,
        )  # fmt: skip


def _add_cameras(spec: Any, hand: Any) -> None:
    forward = np.subtract(table.STATIC_LOOK_AT, table.STATIC_EYE)
    spec.worldbody.add_camera(
        name="static", pos=table.STATIC_EYE, fovy=CAMERAS["static"].fovy,
        quat=_looking(forward, np.array(table.STATIC_UP)),
    )  # fmt: skip
    frame = matrix(np.array(table.GRIPPER_RPY))
    hand.add_camera(
        name="gripper", pos=table.GRIPPER_EYE, fovy=CAMERAS["gripper"].fovy,
        quat=_looking(frame[:, 1], -frame[:, 2]),
    )  # fmt: skip


def _looking(forward: Array, up: Array) -> Array:
    """Return the quaternion of a camera that looks along `forward`: MuJoCo's look along -z."""
    back = -forward / np.linalg.norm(forward)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back], axis=1)
    quat = np.empty(4)
    load_mujoco().mju_mat2Quat(quat, axes.ravel())
    return quat
