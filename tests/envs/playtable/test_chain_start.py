"""The vectors that a chain begins with."""

import json
from pathlib import Path

import numpy as np
import pytest

from telic.envs.playtable.chain_start import SCENE_STARTS, fnv1_32, start_obs, state_seed
from telic.envs.playtable.protocol import initial_states
from telic.envs.playtable.rules import State

# where scenes put their blocks at random: x on the table, at slider_left, at slider_right
RANGES = {
    "A": ((-0.20, 0.35), (-0.32, -0.16), (-0.05, 0.13)),
    "B": ((-0.35, 0.15), (-0.12, 0.06), (0.15, 0.33)),
    "C": ((0.0, 0.35), (-0.12, 0.06), (0.15, 0.30)),
    "D": ((0.0, 0.35), (-0.32, -0.16), (-0.05, 0.13)),
}


def test_states_begin_as_in_calvin(shared: Path) -> None:
    theirs = json.loads((shared / "data/calvin_initial_states_192.json").read_text())
    assert [state._asdict() for state in initial_states()] == [
        entry["initial_state"] for entry in theirs["states"]
    ]
    for state, entry in zip(initial_states(), theirs["states"], strict=True):
        assert state_seed(state) == entry["hash"]
        robot_obs, scene_obs = start_obs(state)
        assert robot_obs.tolist() == theirs["robot_obs"]
        np.testing.assert_allclose(scene_obs, entry["scene_obs"], rtol=0, atol=5.1e-10)  # 9 digits


def test_hash_and_vectors_of_one_state() -> None:
    assert fnv1_32("test".encode("utf-16-le")) == 3910690890
    state = State(0, 1, "left", "open", "table", "slider_left", "table")
    assert state_seed(State(0, 0, "right", "closed", "table", "table", "slider_right")) == 432992106
    robot_obs, scene_obs = start_obs(state)
    assert (robot_obs.shape, scene_obs.shape) == ((15,), (24,))
    assert scene_obs[:6].tolist() == [0.28, 0.22, 0.0, 0.088, 1.0, 0.0]
    red, blue, pink = scene_obs[6:].reshape(3, 6)
    assert sorted([red[0], pink[0]]) == [0.05000009, 0.229995412]
    assert blue[:3].tolist() == [-0.240851662, 0.092404469, 0.460990009]
    assert len({red[5], blue[5], pink[5]}) == 3


def test_global_random_state_plays_no_part() -> None:
    state = initial_states()[5]
    np.random.seed(1)  # noqa: NPY002  # what another library might do
    first = start_obs(state)[1]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(start_obs(state)[1], first)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("scene", SCENE_STARTS)
def test_blocks_lie_where_the_scene_has_room(scene: str) -> None:
    table, left, right = RANGES[scene]
    places = {"table": table, "slider_left": left, "slider_right": right}
    for state in initial_states():
        _, scene_obs = start_obs(state, scene)
        order = SCENE_STARTS[scene].blocks
        poses = dict(zip(order, scene_obs[6:].reshape(3, 6), strict=True))
        for block, pose in poses.items():
            low, high = places[getattr(state, block)]
            assert low <= pose[0] <= high
            assert 3 * np.pi / 8 <= pose[5] <= 5 * np.pi / 8
        for a in poses.values():
            for b in poses.values():
                assert a is b or np.linalg.norm(a[:2] - b[:2]) > 0.15  # no two touch


def test_bad_starts_are_one_line() -> None:
    state = initial_states()[0]
    with pytest.raises(ValueError, match="scene=E is not one of PlayTable's: A, B, C, D"):
        start_obs(state, "E")
    for blocks in (
        {"red_block": "drawer"},
        {"pink_block": "table"},
        {"red_block": "slider_right"},
    ):
        with pytest.raises(ValueError, match="expected one or two on the table"):
            start_obs(state._replace(**blocks))
