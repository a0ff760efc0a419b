"""The scene beside the robot: what else a simulator knows, as a field of its own.

Policies that see pictures read the robot's own state; the scene is what they may learn to tell from
the pictures in training (`policy.scene`), and never an input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from telic.spec import Array, ArraySpec

SCENE = "scene"  # the field


def scene_spec(full: ArraySpec, robot: ArraySpec) -> ArraySpec:
    """The entries of the full state behind the robot's own."""
    own, whole = int(robot.shape[0] or 0), int(full.shape[0] or 0)
    assert full.names[:own] == robot.names, "the robot's own entries come first"
    if whole == own:
        raise ValueError("scene=true: the simulator knows nothing besides the robot's own state")
    return replace(full, shape=(whole - own,), names=full.names[own:], minimum=None, maximum=None)


def split_scene(data: Mapping[str, Array], scene: ArraySpec) -> dict[str, Array]:
    """An episode whose `state` is the full one, as the robot's own `state` and the `scene`."""
    entries = int(scene.shape[0] or 0)
    state = np.asarray(data["state"])
    return {**data, "state": state[:, :-entries], SCENE: state[:, -entries:]}
