"""The robots that published checkpoints were trained on: their states, actions, cameras, rates."""

from __future__ import annotations

from telic.spec import ArraySpec, Interface


def calvin() -> Interface:
    """Return CALVIN's: relative motions of the hand; cameras over the table and on the hand."""
    axes = ("x", "y", "z")
    return Interface(
        state=ArraySpec(
            shape=(15,),
            rotation="euler_xyz_fixed",
            gripper="positive_opens",
            frame="world",
            note="robot_obs",
        ),
        action=ArraySpec(
            shape=(7,),
            minimum=(-1.0,) * 7,
            maximum=(1.0,) * 7,
            names=(*(f"d{a}" for a in axes), *(f"d_angle_{a}" for a in axes), "gripper"),
            unit="0.02 m; 0.05 rad; gripper 1",
            rotation="euler_xyz_fixed",
            gripper="positive_opens",
            frame="world",
            note="rel_actions",
        ),
        rate_hz=30.0,
        images={
            "rgb_static": ArraySpec(shape=(200, 200, 3), dtype="uint8"),
            "rgb_gripper": ArraySpec(shape=(84, 84, 3), dtype="uint8"),
        },
    )
