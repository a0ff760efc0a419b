"""The linter of conventions: right data pass, each published mistake is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from telic.datasets.conventions import suspicions
from telic.datasets.store import EpisodeStore
from telic.datasets.validation import Warned, validate
from telic.spec import Array, ArraySpec

EPISODES, STEPS = 6, 60
STATE = ArraySpec(
    shape=(8,), names=("x", "y", "z", "qx", "qy", "qz", "qw", "gripper_width"), unit="m"
)
ACTION = ArraySpec(shape=(4,), names=("x", "y", "z", "gripper"), gripper="positive_opens")


def path_of(seed: int) -> dict[str, Array]:
    """Return a smooth motion whose state follows the action after two steps."""
    rng = np.random.default_rng(seed)
    time = np.arange(STEPS + 2)
    places = np.stack([np.sin(time / rng.uniform(5, 9) + rng.uniform(0, 6)) for _ in range(3)], 1)
    opens = np.sign(np.sin(time / 7 + seed))
    angle = 0.3 * np.sin(time / 11) + 0.5
    turn = np.stack([np.sin(angle / 2), 0 * angle, 0 * angle, np.cos(angle / 2)], 1)
    width = np.concatenate([[0.0], np.cumsum(opens)[:-1] * 0.01])
    state = np.concatenate([places, turn, width[:, None]], 1)[:STEPS]
    action = np.concatenate([places, opens[:, None]], 1)
    ramp = np.linspace(20, 200, 24)[:, None, None] * np.array([1.0, 0.6, 0.3])
    pictures = np.broadcast_to(ramp, (24, 16, 3)) + np.arange(STEPS)[:, None, None, None] / 2
    pictures = pictures + np.linspace(0, 30, 16)[:, None]
    return {
        "state": state.astype(np.float32),
        "action": np.concatenate([action[2:], action[:0]])[:STEPS].astype(np.float32),
        "image/front": pictures.astype(np.uint8),
    }


Change = Callable[[int, dict[str, Array]], None]
Make = Callable[..., list[str]]


@pytest.fixture
def said_of(tmp_path: Path) -> Make:
    """Return a function (change of each episode, specs) -> what is suspected."""

    def make(change: Change = lambda i, e: None, **specs: ArraySpec) -> list[str]:
        state = specs.get("state", dataclasses.replace(STATE, rotation="quaternion_xyzw"))
        fields = {
            "state": state,
            "action": specs.get("action", ACTION),
            "image/front": ArraySpec(shape=(24, 16, 3), dtype="uint8"),
        }
        with EpisodeStore.create(tmp_path / "a.zarr", fields, 10, overwrite=True) as store:
            for index in range(EPISODES):
                episode = path_of(index)
                change(index, episode)
                store.append(episode)
        return list(suspicions(EpisodeStore.open(tmp_path / "a.zarr")))

    return make


def test_right_data_pass(said_of: Make, tmp_path: Path) -> None:
    assert said_of() == []
    found = [str(f) for f in validate(tmp_path / "a.zarr") if isinstance(f, Warned)]
    assert len(found) == 1 and "no segment has a sentence" in found[0]


def test_random_numbers_raise_no_suspicion(said_of: Make) -> None:
    def noise(index: int, episode: dict[str, Array]) -> None:
        rng = np.random.default_rng(index)
        episode["state"] = rng.normal(size=(STEPS, 8))
        episode["action"] = rng.normal(size=(STEPS, 4))
        episode["image/front"] = rng.integers(0, 256, (STEPS, 24, 16, 3)).astype(np.uint8)

    assert said_of(noise, state=STATE) == []


def test_the_layout_of_rotations(said_of: Make) -> None:
    (said,) = said_of(state=STATE)
    assert "state entries 3 to 6 look like a unit quaternion; state rotation=" in said
    (said,) = said_of(state=dataclasses.replace(STATE, rotation="euler_xyz_fixed"))
    assert "the rotation is stated euler_xyz_fixed" in said
    (said,) = said_of(state=dataclasses.replace(STATE, rotation="quaternion_wxyz"))
    assert "named in the order xyzw, the rotation is stated quaternion_wxyz" in said

    def scale(index: int, episode: dict[str, Array]) -> None:
        episode["state"][:, 3:7] *= 3

    (said,) = said_of(scale)
    assert "is stated quaternion_xyzw, but no four entries are of length 1" in said

    def switch(index: int, episode: dict[str, Array]) -> None:
        episode["state"][30:, 3:7] *= -1

    (said,) = said_of(switch)
    assert f"changes its sign {EPISODES} times" in said


def test_a_rotation_6d_is_known(said_of: Make) -> None:
    names = ("a", "b", "c", "d", "e", "f", "x", "gripper_width")

    def turn(index: int, episode: dict[str, Array]) -> None:
        angle = np.linspace(0.1, 1, STEPS)
        zero = 0 * angle
        columns = [np.cos(angle), np.sin(angle), zero, -np.sin(angle), np.cos(angle), zero]
        episode["state"] = np.stack([*columns, zero, episode["state"][:, 7]], 1)

    spec = ArraySpec(shape=(8,), names=names)
    (said,) = said_of(turn, state=spec)
    assert "state entries 0 to 5 look like a rotation_6d; state it" in said
    assert said_of(turn, state=dataclasses.replace(spec, rotation="rotation_6d")) == []


def test_angles_in_degrees_and_whole_turns(said_of: Make) -> None:
    names = ("x", "y", "z", "roll", "pitch", "yaw", "w", "gripper_width")
    spec = ArraySpec(shape=(8,), names=names, unit="m; rad")

    def degrees(index: int, episode: dict[str, Array]) -> None:
        episode["state"][:, 3:7] = 0
        episode["state"][:, 5] = np.linspace(-90, 90, STEPS)

    (said,) = said_of(degrees, state=spec)
    assert "state entry yaw reaches 90, stated in rad; is it in degrees?" in said

    def wraps(index: int, episode: dict[str, Array]) -> None:
        episode["state"][:, 3:7] = 0
        turning = np.linspace(2.5, 4.5, STEPS)
        episode["state"][:, 5] = np.where(turning > np.pi, turning - 2 * np.pi, turning)

    (said,) = said_of(wraps, state=spec)
    assert f"state jumps by a whole turn from one step to the next: yaw {EPISODES} times" in said


def test_the_sign_of_the_gripper(said_of: Make) -> None:
    (said,) = said_of(action=dataclasses.replace(ACTION, gripper="positive_closes"))
    assert "stated positive_closes, but gripper_width grows after larger commands" in said
    (said,) = said_of(action=dataclasses.replace(ACTION, gripper=""))
    assert "a gripper whose sign is not stated" in said


def test_states_that_are_shifted(said_of: Make) -> None:
    def late(index: int, episode: dict[str, Array]) -> None:
        episode["action"] = np.concatenate([episode["action"][:1]] * 5 + [episode["action"][:-5]])

    said = said_of(late)
    assert any("the state is 3 steps ahead of the action" in line for line in said)

    def copied(index: int, episode: dict[str, Array]) -> None:
        episode["action"] = episode["state"].copy()

    spec = dataclasses.replace(STATE, gripper="positive_opens", rotation="quaternion_xyzw")
    said = said_of(copied, action=spec)
    assert "action is the state of the same step, so a policy learns to stand still" in said


def test_pictures_that_look_wrong(said_of: Make) -> None:
    def one(turn: Callable[[Array], Array]) -> Change:
        def change(index: int, episode: dict[str, Array]) -> None:
            if index == 3:
                episode["image/front"] = turn(episode["image/front"])

        return change

    (said,) = said_of(one(lambda frames: frames[:, ::-1]))
    assert "image/front of episode 3 looks upside down" in said

    def still(index: int, episode: dict[str, Array]) -> None:
        episode["image/front"] = np.repeat(episode["image/front"][::6], 6, 0)

    (said,) = said_of(still)
    assert "frames are like the one before" in said

    def blue(index: int, episode: dict[str, Array]) -> None:
        episode["image/front"] = episode["image/front"][..., ::-1]

    (said,) = said_of(blue)
    assert "far more blue" in said and "--colours bgr" in said
