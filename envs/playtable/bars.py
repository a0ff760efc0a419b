"""Solids with rounded edges, as vertices of their convex hulls: the handles as CALVIN's are felt.

Metres, three axes 0..2 of a part. CALVIN's handles, of 20 to 40 mm, have edges of 4 to 10 mm.
"""

from __future__ import annotations

from math import pi

import numpy as np

from telic.spec import Array

Range = tuple[float, float]
Section = tuple[float, Range, Range]  # where along the bar, and its limits on the other two axes

_ARC = np.arange(3) / 2 * pi / 2  # three points a corner


def rounded(axis: int, sections: tuple[Section, ...], radius: float) -> Array:
    """Return vertices [V 3] of a bar along `axis` through sections whose corners are rounded."""
    rings = []
    for place, *limits in sections:
        ring = _rounded_rectangle(np.array(limits), radius)
        rings.append(np.insert(ring, axis, place, axis=1))
    return np.concatenate(rings)


def straight(axis: int, limits: tuple[Range, Range, Range], radius: float) -> Array:
    """Return vertices [V 3] of a box whose edges along `axis` are rounded."""
    low, high = limits[axis]
    one, other = (limit for index, limit in enumerate(limits) if index != axis)
    return rounded(axis, ((low, one, other), (high, one, other)), radius)


def _rounded_rectangle(limits: Array, radius: float) -> Array:
    """Return points [12 2] around a rectangle with limits [2 2]: low and high of each axis."""
    low, high = limits[:, 0] + radius, limits[:, 1] - radius
    corners = np.array([[high[0], high[1]], [low[0], high[1]], [low[0], low[1]], [high[0], low[1]]])
    angles = np.arange(4)[:, None] * pi / 2 + _ARC
    turned = np.stack([np.cos(angles), np.sin(angles)], axis=2)
    points: Array = (corners[:, None] + radius * turned).reshape(-1, 2)
    return points
