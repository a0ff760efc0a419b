"""PlayTable's parts move as CALVIN's do: figures of calvin_env 797142c on PyBullet 3.2.7."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from telic.envs.playtable.bars import straight
from telic.envs.playtable.layout import SLOPE_FOOT, SWITCH_YZ
from telic.envs.playtable.world import World


def test_the_switch_has_weight(fidelity: ModuleType) -> None:
    assert fidelity.break_away(1) == pytest.approx(6.3, abs=0.15)
    assert fidelity.break_away(-1) == pytest.approx(2.2, abs=0.15)


def test_drawer_and_door_are_as_easy_as_calvins(fidelity: ModuleType) -> None:
    assert fidelity.top_speed("drawer") == pytest.approx(0.43, abs=0.02)
    assert fidelity.top_speed("slide") == pytest.approx(0.80, abs=0.02)
    assert fidelity.coast("drawer") == pytest.approx(46, abs=1.0)
    assert fidelity.coast("slide") == pytest.approx(17, abs=1.0)


def test_the_button_resists_as_calvins(fidelity: ModuleType) -> None:
    assert fidelity.press() == pytest.approx(2.8, abs=0.1)


@pytest.mark.parametrize(
    ("place", "height"), [("desk", 0.46), ("shelf", 0.461), ("drawer", 0.3623)]
)
def test_blocks_rest_as_high_as_in_calvin(fidelity: ModuleType, place: str, height: float) -> None:
    assert fidelity.rest_height(place) == pytest.approx(height, abs=3e-4)


def test_a_touch_reaches_as_far_as_in_calvin(fidelity: ModuleType) -> None:
    assert fidelity.touch_range() == pytest.approx(0.7, abs=0.11)


def test_parts_of_recorded_episodes(fidelity: ModuleType, shared: Path) -> None:
    path = shared / "data" / "calvin_traces.npz"
    if not path.is_file():
        pytest.skip("CALVIN's traces are absent")
    world = World("D")
    found = [fidelity.replay(world, *arrays) for arrays in fidelity.episodes(path).values()]
    assert len(found) == 102
    for part in ("slide", "drawer", "button"):
        apart = np.concatenate([series[f"{part} (mm)"] for series in found])
        assert np.percentile(apart, 99) <= 3.0, part
    for what, percent, most in (
        ("tcp (mm)", 50, 0.5),
        ("tcp (mm)", 95, 2.0),
        ("tcp (mm)", 99, 16.0),
        ("switch (mm)", 95, 0.5),
        ("switch (mm)", 99, 3.0),
        ("gripper width (mm)", 95, 2.5),
        ("gripper width (mm)", 99, 10.5),  # fingers that open beside pushed blocks
    ):
        apart = np.concatenate([series[what] for series in found])
        assert np.percentile(apart, percent) <= most, what


def test_free_motion_is_calvins(fidelity: ModuleType, shared: Path) -> None:
    """The tool's pose of robot_obs, a physics step late as CALVIN's, before anything is touched."""
    path = shared / "data" / "calvin_traces.npz"
    if not path.is_file():
        pytest.skip("CALVIN's traces are absent")
    world, apart = World("D"), []
    for actions, robot, scene in list(fidelity.episodes(path).values())[::3]:
        found = fidelity.replay(world, actions[:15], robot[:16], scene[:16])
        apart.append(found["tcp (mm)"])
    assert np.percentile(np.concatenate(apart), 50) <= 0.5
    assert np.percentile(np.concatenate(apart), 95) <= 1.5


def test_edges_of_handles_are_round() -> None:
    limits = ((-0.06, 0.06), (-0.01, 0.02), (0.04, 0.06))
    points = straight(0, limits, 0.006)
    for axis, (low, high) in enumerate(limits):
        assert points[:, axis].min() == pytest.approx(low)
        assert points[:, axis].max() == pytest.approx(high)
    corner = np.array([0.02, 0.06])
    assert np.linalg.norm(points[:, 1:] - corner, axis=1).min() == pytest.approx(
        0.006 * (np.sqrt(2) - 1), abs=1e-9
    )


def test_the_switch_is_where_calvins_urdf_has_it() -> None:
    """Its frame at 0.8 times (0.07616, 0.61861), 8 mm behind the slope: its base is in a slot."""
    np.testing.assert_allclose(SWITCH_YZ, [0.8 * 0.07616, 0.8 * 0.61861], atol=1e-4)
    on_slope = SLOPE_FOOT[0] + (SWITCH_YZ[1] - SLOPE_FOOT[1]) / np.sqrt(3)
    assert (SWITCH_YZ[0] - on_slope) * np.sqrt(0.75) == pytest.approx(0.008, abs=5e-4)
