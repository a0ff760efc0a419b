"""The shadow of arm and hand on desk and floor, as flat patches added to a picture.

MuJoCo's own shadows make a picture 2.7 times slower on a CPU, at 256 texels a side already. Here
each link casts a row of rectangles, moved along the light onto whatever level surface is below.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from telic.envs.playtable.layout import SURFACE_Z
from telic.spec import Array

TOWARDS_LIGHT: Final = np.array([-0.05, -0.2, 0.98])  # of CALVIN's OpenGL renderer
SHADE: Final = 0.149  # of the light of a level surface that a shadow takes away
ALPHA: Final = 1 - (1 - SHADE) ** 0.5  # MuJoCo draws what is transparent twice
# what the table shades on the floor, x and y: desk and cabinet, moved along the light
TABLE_SHADOW: Final = ((-0.42, 0.46), (-0.10, 0.31))

_DESK: Final = ((-0.44, 0.44), (-0.18, 0.02))  # x and y of the surface before the cabinet
_TABLE: Final = ((-0.44, 0.44), (-0.18, 0.18))
_THICK_M: Final = 0.0005
_RGBA: Final = np.array([0.0, 0.0, 0.0, ALPHA], np.float32)
# body, from, to, half width in m, number of rectangles
_CASTERS: Final = (
    ("link2", (0.0, -0.02, 0.0), (0.0, -0.316, 0.0), 0.07, 2),
    ("link4", (-0.0825, 0.0, 0.0), (-0.0825, 0.384, 0.0), 0.065, 2),
    ("link7", (0.0, 0.0, -0.005), (0.0, 0.0, 0.005), 0.045, 1),
    ("hand", (-0.016, -0.10, 0.04), (-0.016, 0.10, 0.04), 0.016, 3),
    ("hand", (0.016, -0.10, 0.04), (0.016, 0.10, 0.04), 0.016, 3),
)


class ArmShadow:
    """Adds the arm's shadow to scenes of one model."""

    def __init__(self, model: Any, mujoco: Any) -> None:
        self._mujoco, self._model = mujoco, model
        self._table = model.geom("shadow").id
        pieces = [
            (model.body(name).id, start, end, half, share / count)
            for name, start, end, half, count in _CASTERS
            for share in range(count)
        ]
        counts = [caster[4] for caster in _CASTERS for _ in range(caster[4])]
        self._bodies = np.array([piece[0] for piece in pieces])
        starts, ends = (np.array([piece[i] for piece in pieces]) for i in (1, 2))
        along = (ends - starts) / np.array(counts)[:, None]
        shares = np.array([piece[4] for piece in pieces])[:, None]
        self._starts = starts + (ends - starts) * shares
        self._ends = self._starts + along
        self._sizes = np.array([(0.0, piece[3], _THICK_M) for piece in pieces])
        self._turns = np.tile(np.eye(3).ravel(), (len(pieces), 1))
        self._box = int(mujoco.mjtGeom.mjGEOM_BOX)

    def add(self, scene: Any, data: Any) -> None:
        """Append the patches to an MjvScene of the state in `data`, if the table has a shadow."""
        if self._model.geom_rgba[self._table, 3] == 0:
            return
        turns = data.xmat[self._bodies].reshape(-1, 3, 3)
        places = data.xpos[self._bodies]
        starts = places + np.einsum("nij,nj->ni", turns, self._starts)
        ends = places + np.einsum("nij,nj->ni", turns, self._ends)
        middles = (starts + ends) / 2
        heights, visible = _grounds(middles)
        middles = _moved(middles, heights)
        flat = (ends - starts) - np.outer((ends - starts)[:, 2] / TOWARDS_LIGHT[2], TOWARDS_LIGHT)
        lengths = np.hypot(flat[:, 0], flat[:, 1])
        upright = lengths < 0.02  # a square, whichever way it is turned
        cos, sin = np.where(upright, [[1.0], [0.0]], flat[:, :2].T / np.maximum(lengths, 1e-6))
        turns = self._turns.copy()
        turns[:, 0], turns[:, 1], turns[:, 3], turns[:, 4] = cos, -sin, sin, cos
        sizes = self._sizes.copy()
        sizes[:, 0] = np.where(upright, self._sizes[:, 1], lengths / 2)
        for index in np.flatnonzero(visible)[: scene.maxgeom - scene.ngeom]:
            geom = scene.geoms[scene.ngeom]
            self._mujoco.mjv_initGeom(
                geom, self._box, sizes[index], middles[index], turns[index], _RGBA
            )
            geom.transparent = 1
            scene.ngeom += 1


def _grounds(points: Array) -> tuple[Array, Array]:
    """Return the height [n] on which points [n 3] cast their shadow and whether it is drawn [n].

    Not on the floor below the table, which is dark already, nor on the cabinet.
    """
    on_desk = _moved(points, np.full(len(points), SURFACE_Z))
    above = points[:, 2] > SURFACE_Z
    desk = above & _inside(on_desk, _DESK)
    on_floor = _moved(points, np.zeros(len(points)))
    floor = ~(above & _inside(on_desk, _TABLE)) & ~_inside(on_floor, TABLE_SHADOW)
    return np.where(desk, SURFACE_Z, 0.0) + 0.001, desk | floor


def _moved(points: Array, heights: Array) -> Array:
    """Return points [n 3] moved along the light to the given heights [n]."""
    return points - np.outer((points[:, 2] - heights) / TOWARDS_LIGHT[2], TOWARDS_LIGHT)


def _inside(points: Array, rectangle: tuple[tuple[float, float], tuple[float, float]]) -> Array:
    (left, right), (front, back) = rectangle
    x, y = points[:, 0], points[:, 1]
    return (left < x) & (x < right) & (front < y) & (y < back)
