"""The arm's visible shape: Franka Emika's meshes, simplified, and fingers of our own.

meshes/panda.npz is made by tools/panda_meshes.py (Apache 2.0, meshes/LICENSE). What is added here
touches nothing and weighs nothing; the shapes that touch and weigh are no longer drawn.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from telic.envs.playtable.layout import GRIPPER_EYE, GRIPPER_RPY
from telic.envs.playtable.panda import NUM_JOINTS
from telic.envs.playtable.rotations import quaternion
from telic.spec import Array

# groups of geoms; MuJoCo draws 0 to 2
VISUAL_GROUP: Final = 0  # only seen
TOUCHING_GROUP: Final = 2  # touch and are seen
HIDDEN_GROUP: Final = 3  # touch and are not
VISUAL: Final = {"contype": 0, "conaffinity": 0, "mass": 0.0, "group": VISUAL_GROUP}
WHITE: Final = (0.945, 0.945, 0.945, 1.0)  # of Franka's own colours
GREY: Final = (0.48, 0.48, 0.51, 1.0)
_PLAIN_WHITE: Final = (1.0, 1.0, 1.0, 1.0)  # of what CALVIN draws without them
_PLAIN: Final = ("link0", "link7")

_HAND_CORE: Final = ((0.0, 0.0, 0.045), (0.017, 0.08, 0.014))  # fills what simplifying opened
_CAMERA_BAR: Final = (0.04, 0.0125, 0.005)  # m; half sizes of the box around the gripper camera
# of a finger, along its z: half width in x, inner and outer edge in y, m
_FINGER: Final = (
    (0.000, 0.0105, 0.012, 0.028),
    (0.018, 0.0105, 0.012, 0.028),
    (0.040, 0.0090, 0.010, 0.023),
    (0.070, 0.0080, 0.004, 0.013),
    (0.0955, 0.0060, 0.000, 0.004),
)
_PAD: Final = ((0.0, 0.007, 0.052), (0.0095, 0.005, 0.014))  # middle and half sizes


def add_robot_visuals(spec: Any, mujoco: Any) -> None:
    """Clothe the arm that `panda.add_arm` has added to an MjSpec."""
    meshes = _meshes()
    names = [f"link{index}" for index in range(NUM_JOINTS + 1)] + ["hand"]
    for name in [*names, "finger_left", "finger_right"]:
        for geom in spec.body(name).geoms:
            geom.group = HIDDEN_GROUP
    for name in names:
        white = _PLAIN_WHITE if name in _PLAIN else WHITE
        for colour, rgba in (("white", white), ("grey", GREY)):
            if mesh := meshes.get(f"{name}_{colour}"):
                add_mesh(spec, mujoco, spec.body(name), f"{name}_{colour}", *mesh, rgba=rgba)
    for name, side in (("finger_left", 1.0), ("finger_right", -1.0)):
        _add_finger(spec, mujoco, spec.body(name), name, side)
    place, half_sizes = _HAND_CORE
    spec.body("hand").add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=half_sizes, pos=place, rgba=GREY, **VISUAL
    )
    spec.body("hand").add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=_CAMERA_BAR, pos=GRIPPER_EYE, rgba=_PLAIN_WHITE,
        quat=quaternion(np.array(GRIPPER_RPY)), **VISUAL,
    )  # fmt: skip


def add_mesh(
    spec: Any, mujoco: Any, body: Any, name: str, vertices: Array, triangles: Array, **more: Any
) -> None:
    """Add a mesh that is only seen: vertices [V 3] in m, body frame, and triangles [F 3].

    more: as in MjSpec's add_geom, and `texcoords` [V 2].
    """
    texcoords = more.pop("texcoords", None)
    mesh = spec.add_mesh(
        name=name, uservert=np.ravel(vertices), userface=np.ravel(triangles),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )  # fmt: skip
    if texcoords is not None:
        mesh.usertexcoord = np.ravel(texcoords)
        mesh.userfacetexcoord = np.ravel(triangles)
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, **(VISUAL | more))


@cache
def _meshes() -> dict[str, tuple[Array, Array]]:
    """Return vertices and triangles of each part, by "link0_white" and so on."""
    with np.load(Path(__file__).with_name("meshes") / "panda.npz") as file:
        parts = [key.removesuffix("_vertices") for key in file if key.endswith("_vertices")]
        return {p: (file[f"{p}_vertices"], file[f"{p}_triangles"].astype(np.int32)) for p in parts}


def _add_finger(spec: Any, mujoco: Any, body: Any, name: str, side: float) -> None:
    corners = [
        (sign * half, side * y, z)
        for z, half, inner, outer in _FINGER
        for sign, y in ((-1, inner), (1, inner), (1, outer), (-1, outer))
    ]
    add_mesh(
        spec, mujoco, body, f"{name}_shape", *_flat(np.array(corners), _tube(len(_FINGER), side)),
        rgba=WHITE,
    )  # fmt: skip
    place, half_sizes = _PAD
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=half_sizes, rgba=_PLAIN_WHITE,
        pos=[place[0], side * place[1], place[2]], **VISUAL,
    )  # fmt: skip


def _tube(rings: int, side: float) -> Array:
    """Return the triangles [F 3] of a closed tube of four-cornered rings, facing out."""
    quads = [(0, 3, 2, 1)]
    for ring in range(rings - 1):
        low, high = 4 * ring, 4 * ring + 4
        quads += [(low + i, low + (i + 1) % 4, high + (i + 1) % 4, high + i) for i in range(4)]
    top = 4 * (rings - 1)
    quads.append((top, top + 1, top + 2, top + 3))
    triangles = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    return triangles if side > 0 else triangles[:, ::-1]


def _flat(vertices: Array, triangles: Array) -> tuple[Array, Array]:
    """Return the mesh with vertices of its own for each triangle, so that edges stay sharp."""
    return vertices[triangles].reshape(-1, 3), np.arange(triangles.size).reshape(-1, 3)
