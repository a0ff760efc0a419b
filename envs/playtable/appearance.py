"""What of the table is only seen: light, floor, grain of the wood, rails, and the door's place.

Nothing here touches or weighs; the shapes that do and are covered by wood are no longer drawn.
CALVIN is drawn by one of PyBullet's two renderers, whose light differs: OpenGL by default, and the
slow TinyRenderer without EGL. LIGHTS has the nearest that MuJoCo's light can do for each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import pi
from typing import Any, Final

import numpy as np
from scipy.spatial import ConvexHull

from telic.envs.playtable import layout as table
from telic.envs.playtable.layout import OUT, UP, Layout, Rgb
from telic.envs.playtable.robot_visuals import HIDDEN_GROUP, TOUCHING_GROUP, VISUAL, add_mesh
from telic.envs.playtable.rotations import quaternion
from telic.envs.playtable.shadows import ALPHA, TABLE_SHADOW
from telic.envs.playtable.textures import WOOD_PIXELS, wood
from telic.spec import Array, near_misses

_NUM_LIGHTS: Final = 3
_PERIOD_M: Final = 0.45  # of the picture of wood
_FLOOR_RGB: Final = (1.0, 0.87)  # grey of its two tiles, half a metre wide
_HANDLE_RGBA: Final = (0.37, 0.37, 0.37, 1.0)
_SLOPE: Final = quaternion(np.array([-pi / 6, 0.0, 0.0]))  # y and z of the slope: -OUT and UP
_DOOR_IN_M: Final = 0.01  # CALVIN's door stands so much deeper than the shape that touches


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """Brightness of a surface by its normal n: ambient + the sum of max(0, n . towards)."""

    ambient: float
    towards: tuple[tuple[float, float, float], ...]
    shadows: bool  # of the table on the floor, and of the arm


# opengl: 0.5 + (0.5 or, turned away, 0.35) (0.5 + 0.5 n . l), fitted over all n, closest on the
# table's own; l = (-0.05, -0.2, 0.98). tiny: 0.6 + 0.35 max(0, n . l) and a little gloss.
LIGHTS: Final = {
    "opengl": Light(
        ambient=0.556,
        towards=((0.0, 0.129, 0.138), (0.119, -0.155, 0.276), (-0.177, -0.087, 0.028)),
        shadows=True,
    ),
    "tiny": Light(ambient=0.597, towards=((-0.155, 0.093, 0.337),), shadows=False),
}
# contrast of the grain and its axis in the frame of the table, by scene; parts of C are as A's
_GRAIN: Final = {
    "A": (0.13, (1.0, 0.0, 0.0)),
    "B": (0.03, (0.0, 1.0, 0.0)),
    "C": (0.11, (0.0, 1.0, 0.0)),
    "D": (0.14, (1.0, 0.0, 0.0)),
}


def dress(spec: Any, mujoco: Any, plan: Layout, scene: str) -> None:
    """Add lights, floor and wood to the spec of a scene whose furniture is complete."""
    for geom in spec.geoms:
        if geom.contype or geom.conaffinity:
            geom.group = max(geom.group, TOUCHING_GROUP)
    spec.compiler.inertiagrouprange = [TOUCHING_GROUP, HIDDEN_GROUP]  # bodies weigh as without
    spec.visual.quality.numquads = 1  # light is even over a face: one square is as good as 16
    for index in range(_NUM_LIGHTS):
        spec.worldbody.add_light(name=f"light_{index}", directional=True, castshadow=False)
    _add_floor(spec, mujoco)
    _add_wood(spec, mujoco, plan, scene)
    _add_rails(spec, mujoco, plan)


def set_light(model: Any, renderer: str) -> None:
    """Light a compiled model as CALVIN's "opengl" or "tiny" renderer does; ValueError for another.

    With "opengl", table and arm cast shadows too; TinyRenderer draws none.
    """
    if renderer not in LIGHTS:
        raise ValueError(
            f"CALVIN has no renderer {renderer!r}; it has {', '.join(LIGHTS)}"
            f"{near_misses(renderer, LIGHTS)}"
        )
    light = LIGHTS[renderer]
    model.vis.headlight.ambient[:] = light.ambient
    model.vis.headlight.diffuse[:] = model.vis.headlight.specular[:] = 0.0
    model.light_ambient[:] = model.light_specular[:] = 0.0
    model.light_active[:] = 0
    for index, towards in enumerate(light.towards):
        strength = float(np.linalg.norm(towards))
        model.light_active[index] = 1
        model.light_diffuse[index] = strength
        model.light_dir[index] = -np.array(towards) / strength
    model.geom_rgba[model.geom("shadow").id] = (0, 0, 0, ALPHA if light.shadows else 0)


def _add_floor(spec: Any, mujoco: Any) -> None:
    light, dark = _FLOOR_RGB
    spec.add_texture(
        name="checker", type=mujoco.mjtTexture.mjTEXTURE_2D, width=512, height=512,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, rgb1=[light] * 3, rgb2=[dark] * 3,
    )  # fmt: skip
    floor = spec.add_material(name="floor", texrepeat=[2, 2], texuniform=True)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "checker"
    spec.geom("floor").material = "floor"
    (left, right), (front, back) = TABLE_SHADOW
    corners = np.array([(left, front), (right, front), (right, back), (left, back)])
    add_mesh(
        spec, mujoco, spec.worldbody, "shadow", np.c_[corners, np.full(4, 0.001)],
        np.array([(0, 1, 2), (0, 2, 3)]),
    )  # fmt: skip


def _add_wood(spec: Any, mujoco: Any, plan: Layout, scene: str) -> None:
    """Cover the wooden boxes and prisms of each body with one mesh that has a grain."""
    grains = {
        role: _GRAIN[scene if rgb == plan.wood else "A"]
        for role, rgb in (("wood", plan.wood), ("parts", plan.parts))
    }
    for seed, (role, (contrast, _)) in enumerate(grains.items()):
        _add_wood_material(spec, mujoco, role, getattr(plan, role), contrast, seed)
    for name in ("base", "plank", "slide", "drawer"):
        body = spec.body(name)
        solids: dict[str, list[Array]] = defaultdict(list)
        for geom in body.geoms:
            role = _role(geom, plan, name)
            if role and geom.type != mujoco.mjtGeom.mjGEOM_CYLINDER:
                geom.group = HIDDEN_GROUP
                solids[role].append(_triangles(spec, mujoco, geom))
        for role, surfaces in solids.items():
            corners = np.concatenate(surfaces) - (_DOOR_IN_M * OUT if name == "slide" else 0.0)
            add_mesh(
                spec, mujoco, body, f"{name}_{role}", corners.reshape(-1, 3),
                np.arange(3 * len(corners)).reshape(-1, 3),
                texcoords=_texcoords(corners, np.array(grains[role][1])), material=role,
            )  # fmt: skip
    _fill_behind_the_handle(spec, mujoco)


def _role(geom: Any, plan: Layout, body: str) -> str:
    """Return which wood a geom is of, "wood" or "parts", or "" for none."""
    if np.allclose(geom.rgba[:3], plan.parts) and body in ("slide", "drawer"):
        return "parts"
    return "wood" if np.allclose(geom.rgba[:3], plan.wood) else ""


def _add_wood_material(
    spec: Any, mujoco: Any, name: str, rgb: Rgb, contrast: float, seed: int
) -> None:
    texture = spec.add_texture(
        name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=WOOD_PIXELS, height=WOOD_PIXELS,
        nchannel=3,
    )  # fmt: skip
    texture.data = wood(rgb, contrast, seed).tobytes()
    material = spec.add_material(name=name)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _triangles(spec: Any, mujoco: Any, geom: Any) -> Array:
    """Return the surface [F 3 3] of a box or a convex mesh in the frame of its body, facing out."""
    if geom.type == mujoco.mjtGeom.mjGEOM_BOX:
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
        points = signs * np.asarray(geom.size)
    else:
        points = np.asarray(spec.mesh(geom.meshname).uservert).reshape(-1, 3)
    hull = ConvexHull(points)
    corners = points[hull.simplices]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inwards = (normals * hull.equations[:, :3]).sum(1) < 0
    corners[inwards] = corners[inwards][:, ::-1]
    turn = np.empty(9)
    mujoco.mju_quat2Mat(turn, geom.quat)
    return corners @ turn.reshape(3, 3).T + np.asarray(geom.pos)


def _texcoords(corners: Array, grain: Array) -> Array:
    """Return texture coordinates [F*3 2] of triangles [F 3 3], the fibre along `grain`.

    On faces across the grain the fibre runs along their longest other axis.
    """
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    along = grain - (normals @ grain)[:, None] * normals
    across = np.linalg.norm(along, axis=1) < 0.3
    other = np.roll(grain, 1) if grain[1] else np.array([0.0, 1.0, 0.0])
    along[across] = other - (normals[across] @ other)[:, None] * normals[across]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    sideways = np.cross(normals, along)
    shift = 0.37 * (normals @ np.array([1.0, 2.0, 3.0]))  # another part of the picture on each side
    u = np.einsum("fij,fj->fi", corners, along) / _PERIOD_M + shift[:, None]
    v = np.einsum("fij,fj->fi", corners, sideways) / _PERIOD_M + shift[:, None]
    return np.stack([u, v], axis=-1).reshape(-1, 2)


def _fill_behind_the_handle(spec: Any, mujoco: Any) -> None:
    """Lengthen the posts of the door's handle down to where the door is seen."""
    for up in (-0.07, 0.07):
        middle = up * UP + 1.5 * _DOOR_IN_M * OUT
        spec.body("slide").add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, _DOOR_IN_M / 2, 0.01],
            pos=[table.SLIDE_HANDLE_X, middle[1], middle[2]], rgba=_HANDLE_RGBA,
            quat=_SLOPE, **VISUAL,
        )  # fmt: skip


def _add_rails(spec: Any, mujoco: Any, plan: Layout) -> None:
    """Show the two grooves of the switch as dark lines on the slope."""
    middle = np.array([0.0, *table.SLOPE_FOOT]) + 0.12 * UP
    dark = tuple(0.6 * channel for channel in plan.wood)
    for side in (-0.05, 0.05):
        spec.body("base").add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.003, 0.0005, 0.06], rgba=(*dark, 1.0),
            pos=[plan.switch_x + side, middle[1], middle[2]], quat=_SLOPE, **VISUAL,
        )  # fmt: skip
