"""PlayTable's parts move as CALVIN's do: figures of calvin_env 797142c on PyBullet 3.2.7."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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
    apart = np.concatenate([series["tcp (mm)"] for series in found])
    assert np.percentile(apart, 95) <= 10.0
