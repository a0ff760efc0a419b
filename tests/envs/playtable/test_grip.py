"""PlayTable's fingers hold a block as CALVIN's do (calvin_env 797142c on PyBullet 3.2.7)."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from telic.envs.playtable.facts import ROBOT, block
from telic.envs.playtable.layout import COLOURS
from telic.envs.playtable.motors import CLOSING_HZ, PHYSICS_HZ
from telic.envs.playtable.world import World


def test_closing_fingers_are_as_wide_as_calvins_from_the_second_step_on(
    fidelity: ModuleType,
) -> None:
    widths = fidelity.closing_widths(steps=15)
    np.testing.assert_allclose(widths[1:5], [39.4, 39.8, 40.0, 40.1], atol=2.0)
    np.testing.assert_allclose(widths[5:], 40.2, atol=1.0)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_block_is_held_through_strokes_across_and_along(
    fidelity: ModuleType, colour: str
) -> None:
    for axis, speed, slip_mm in ((1, 1.0, 5.0), (1, 0.6, 2.0), (0, 1.0, 5.0)):
        held, slip = fidelity.strokes(colour, axis, speed)
        assert held and slip <= slip_mm, (axis, speed, slip)


def test_free_fingers_open_and_close_as_calvins(fidelity: ModuleType) -> None:
    assert fidelity.opening_steps() == 4
    world = World("D")
    world.reset(fidelity.robot_at(fidelity.ABOVE, 0.08, 1.0), seed=6)
    widths = []
    for _ in range(6):
        world.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
        widths.append(1000 * world.robot_obs()[6])
    np.testing.assert_allclose(widths, [34.4, 14.8, 6.4, 2.7, 1.2, 0.5], atol=0.3)


def test_time_is_cut_finer_while_the_fingers_close_and_only_then(fidelity: ModuleType) -> None:
    world = World("D")
    world.reset(fidelity.robot_at(fidelity.ABOVE, 0.08, 1.0), seed=6)
    rates = []
    for gripper in (1.0, -1.0, -1.0, *[-1.0] * 10, 1.0):
        world.step(np.array([0, 0, 0, 0, 0, 0, gripper]))
        rates.append(round(1 / world._model.opt.timestep))
    assert rates[:3] == [PHYSICS_HZ, CLOSING_HZ, CLOSING_HZ]
    assert rates[-2:] == [PHYSICS_HZ, PHYSICS_HZ]
    times = world._data.time
    assert times == pytest.approx(len(rates) / 30, abs=1e-9)


def test_a_reset_forgets_the_gripper_of_before(fidelity: ModuleType) -> None:
    fresh, used = World("D"), World("D")
    robot = fidelity.robot_at(fidelity.ABOVE, 0.08, 1.0)
    used.reset(robot, seed=6)
    for _ in range(2):
        used.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    after = []
    for world in (fresh, used):
        world.reset(robot, seed=6)
        for gripper in (1.0, -1.0, -1.0, 1.0):
            world.step(np.array([0.3, 0, 0, 0, 0, 0, gripper]))
        after.append(np.concatenate([world.robot_obs(), world.scene_obs()]))
    np.testing.assert_array_equal(*after)


def test_lifted_blocks_stay_as_wide_as_they_are(fidelity: ModuleType) -> None:
    found = fidelity.lifts("D", each=1)
    assert len(found) == 9
    assert np.median(found, axis=0) == pytest.approx([39.9, 40.5], abs=1.0)
    assert min(width for width, _ in found) > 37.5


def test_opening_fingers_push_no_block_away(fidelity: ModuleType) -> None:
    """CALVIN's open with 2 N, which is less than a block's friction on the desk."""
    world = fidelity.holding("blue")
    for _ in range(40):
        world.step(np.array([0, 0, -0.25, 0, 0, 0, -1.0]))
    place = world.scene_obs()[12:15].copy()
    assert {ROBOT} <= world.facts().blocks["blue"].touches and block("blue")
    for _ in range(6):
        world.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    assert np.abs(world.scene_obs()[12:14] - place[:2]).max() < 5e-3


def test_gripper_widths_of_recorded_episodes(fidelity: ModuleType, shared: Path) -> None:
    """Lifts and turns, whose fingers close on blocks and open in the air; pushes are elsewhere."""
    path = shared / "data" / "calvin_traces.npz"
    if not path.is_file():
        pytest.skip("CALVIN's traces are absent")
    world, apart = World("D"), []
    for name, arrays in fidelity.episodes(path).items():
        if name.startswith(("lift_", "rotate_")) and name.endswith("/0"):
            apart.append(fidelity.replay(world, *arrays)["gripper width (mm)"])
    assert len(apart) == 15
    assert np.percentile(np.concatenate(apart), 99) <= 3.0


def test_fingers_rub_more_on_blocks_than_on_the_table() -> None:
    """PyBullet multiplies: 1.0 by a block's 0.7, by a fixture's 0.5."""
    model = World("D")._model
    assert model.npair == 18  # three parts of two fingers, three blocks
    np.testing.assert_allclose(model.pair_friction[:, :2], 0.7)
    np.testing.assert_allclose(model.geom_friction[model.geom("finger_left_pad").id, 0], 0.5)
