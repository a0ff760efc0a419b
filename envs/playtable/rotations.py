"""Rotations as Euler angles about the fixed axes x, y, z, which is how CALVIN writes them."""

from __future__ import annotations

from math import atan2, cos, hypot, pi, sin

import numpy as np

from telic.spec import Array


def matrix(euler: Array) -> Array:
    """Return Rz(e[2]) Ry(e[1]) Rx(e[0]), f64 [3 3]."""
    cx, cy, cz = cos(euler[0]), cos(euler[1]), cos(euler[2])
    sx, sy, sz = sin(euler[0]), sin(euler[1]), sin(euler[2])
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def euler(rotation: Array) -> Array:
    """Return the angles e, f64 [3] in rad, with matrix(e) = rotation; e[1] within a right angle."""
    return np.array(angles_of(np.ravel(rotation).tolist()))


def angles_of(rotation: list[float]) -> tuple[float, float, float]:
    """Return `euler` of a rotation matrix's nine entries, row by row."""
    r00, _, _, r10, r11, r12, r20, r21, r22 = rotation
    level = hypot(r00, r10)
    if level < 1e-9:  # looking straight along z: only the difference of roll and yaw is defined
        return atan2(-r12, r11), atan2(-r20, level), 0.0
    return atan2(r21, r22), atan2(-r20, level), atan2(r10, r00)


def quaternion(angles: Array) -> Array:
    """Return the unit quaternion w, x, y, z of matrix(angles), f64 [4]."""
    cx, cy, cz = (cos(angle / 2) for angle in angles)
    sx, sy, sz = (sin(angle / 2) for angle in angles)
    return np.array(
        [
            cx * cy * cz + sx * sy * sz,
            sx * cy * cz - cx * sy * sz,
            cx * sy * cz + sx * cy * sz,
            cx * cy * sz - sx * sy * cz,
        ]
    )


def wrapped(angle: Array) -> Array:
    """Return the angles moved by whole turns into [-pi, pi)."""
    return (np.asarray(angle) + pi) % (2 * pi) - pi
