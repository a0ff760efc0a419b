"""The unified space: its published layout, round trips of any robot, statistics, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telic.datasets.store import EpisodeStore
from telic.datasets.unified import robots_of, unified_stats
from telic.datasets.windows import WindowConfig, Windows
from telic.embodiment import (
    ALIASES,
    RESERVED,
    SCENE,
    SLOTS,
    Embodiment,
    SlotMap,
    Space,
    unified_interface,
)
from telic.envs.task import StateChoice
from telic.envs.tasks import arm7, metaworld
from telic.spec import ArraySpec, Interface

# first slot and length of each published range, by the name that it begins with
PUBLISHED = {
    "arm_joint_0_pos": (0, 10),
    "gripper_open": (10, 5),
    "arm_joint_0_vel": (15, 10),
    "gripper_open_vel": (25, 5),
    "eef_pos_x": (30, 3),
    "eef_angle_0": (33, 6),
    "eef_vel_x": (39, 3),
    "eef_angular_vel_roll": (42, 3),
}


def test_layout_is_the_published_one() -> None:
    assert sorted(slot.index for slot in SLOTS.values()) == list(range(128))
    for name, (first, _) in PUBLISHED.items():
        assert SLOTS[f"right_{name}"].index == first
        assert SLOTS[f"left_{name}"].index == first + 50
    taken = {first + i for first, size in PUBLISHED.values() for i in range(size)}
    taken |= {slot + 50 for slot in taken} | {100, 101, 102}
    assert taken == {slot.index for name, slot in SLOTS.items() if name not in dict(SCENE)}
    assert set(RESERVED) == set(range(128)) - taken
    assert [SLOTS[f"right_arm_joint_{i}_vel"].index for i in range(10)] == list(range(15, 25))
    assert SLOTS["base_angular_vel"].index == 102 and SLOTS["base_angular_vel"].unit == "rad/s"


def test_aliases_lead_to_slots() -> None:
    assert all(target in SLOTS for target, _ in ALIASES.values())
    assert not set(ALIASES) & set(SLOTS)
    assert ALIASES["gripper_open"] == ("right_gripper_open", 1.0)
    # the published example: the raw order of a pair of arms is left, then right
    names = [f"left_arm_joint_{i}_pos" for i in range(6)] + ["left_gripper_open"]
    names += [f"right_arm_joint_{i}_pos" for i in range(6)] + ["right_gripper_open"]
    raw = SlotMap.of(ArraySpec(shape=(14,), names=tuple(names)), "x")
    assert raw.slots.tolist() == [*range(50, 56), 60, *range(6), 10]


def test_metaworld_lies_where_it_is_said_to() -> None:
    action = SlotMap.of(metaworld.ACTION_SPEC, "action")
    assert action.slots.tolist() == [39, 40, 41, 25]
    slots = action.into(np.array([1.0, -1.0, 0.5, 1.0], np.float32))
    np.testing.assert_allclose(slots[[39, 40, 41, 25]], [0.8, -0.8, 0.4, -1.0])  # m/s; +1 closes
    assert np.count_nonzero(slots) == 4
    state = SlotMap.of(metaworld.STATE_SPECS[StateChoice.full], "state")
    assert state.slots[:4].tolist() == [30, 31, 32, 10]
    assert state.slots[4:11].tolist() == list(range(103, 110))


NAMES = st.lists(
    st.sampled_from(sorted([*SLOTS, *ALIASES])),
    min_size=1,
    max_size=40,
    unique_by=lambda name: ALIASES.get(name, (name, 1.0))[0],
)


@given(names=NAMES, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_any_named_array_comes_back(names: list[str], seed: int) -> None:
    map_ = SlotMap.of(ArraySpec(shape=(len(names),), names=tuple(names)), "x")
    values = np.random.default_rng(seed).standard_normal((3, 2, len(names)), np.float32)
    slots = map_.into(values)
    assert slots.shape == (3, 2, 128) and slots.dtype == np.float32
    assert not slots[..., ~map_.mask].any()
    assert map_.mask.sum() == len(names)
    np.testing.assert_allclose(map_.back(slots), values, rtol=1e-6)
    np.testing.assert_allclose(map_.into(map_.back(slots)), slots, rtol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        metaworld.ACTION_SPEC,
        *metaworld.STATE_SPECS.values(),
        arm7.INTERFACE.state,
        arm7.INTERFACE.action,
    ],
)
def test_our_robots_map(spec: ArraySpec) -> None:
    values = spec.sample(np.random.default_rng(0))
    map_ = SlotMap.of(spec, "x")
    np.testing.assert_allclose(map_.back(map_.into(values)), values, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "here has no names, by which the unified space maps; give its ArraySpec names"),
        (("eef_pos_x", "eef_pos_w"), "here: entry 'eef_pos_w' has no slot in the unified space; "),
        (("eef_pos_x", "eef_pos_w"), "did you mean .*eef_pos"),
        (("qqq", "a"), "entry 'qqq' has no slot in the unified space; embodiment.py lists"),
        (
            ("hand_x", "eef_pos_x"),
            r"here: entries 'hand_x' and 'eef_pos_x' both mean slot 30 \(right_eef_pos_x\)",
        ),
    ],
)
def test_what_does_not_map_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        SlotMap.of(ArraySpec(shape=(2,), names=names), "here")
    assert "\n" not in str(raised.value)


def make_store(
    path: Path, state: ArraySpec, action: ArraySpec, rate_hz: float, robot: str, lengths: list[int]
) -> EpisodeStore:
    """Return a store of random episodes, the states of which lie in [0, 1] and the actions in
    their bounds."""
    rng = np.random.default_rng(len(robot))
    fields = {"state": state, "action": action}
    store = EpisodeStore.create(path, fields, rate_hz=rate_hz, robot=robot)
    for length in lengths:
        data = {
            "state": rng.uniform(size=(length, *state.shape)).astype(np.float32),
            "action": np.stack([action.sample(rng) for _ in range(length)]),
        }
        store.append(data)
    return store


@pytest.fixture
def stores(tmp_path: Path) -> list[EpisodeStore]:
    """Return stores of two robots that share the place of the hand."""
    hand = metaworld.STATE_SPECS[StateChoice.robot]
    return [
        make_store(tmp_path / "a.zarr", hand, metaworld.ACTION_SPEC, 80.0, "Sawyer", [7, 9]),
        make_store(
            tmp_path / "b.zarr", arm7.INTERFACE.state, arm7.INTERFACE.action, 20.0, "arm7", [5]
        ),
    ]


def test_statistics_are_those_of_all_steps(stores: list[EpisodeStore]) -> None:
    got = unified_stats(stores)
    for name in ("state", "action"):
        rows = [SlotMap.of(s.fields[name], "x").into(s.read(name, 0, s.num_steps)) for s in stores]
        masks = [SlotMap.of(s.fields[name], "x").mask for s in stores]
        for slot in range(128):
            seen = [part[:, slot] for part, mask in zip(rows, masks, strict=True) if mask[slot]]
            want = np.concatenate(seen) if seen else np.zeros(1)
            assert got[name].mean[slot] == pytest.approx(want.mean(), abs=1e-6)
            assert got[name].std[slot] == pytest.approx(want.std(), abs=1e-5)
            assert got[name].minimum[slot] == pytest.approx(want.min(), abs=1e-6)
            assert got[name].maximum[slot] == pytest.approx(want.max(), abs=1e-6)
            assert got[name].minimum[slot] <= got[name].q01[slot] <= got[name].q99[slot]


def test_windows_of_two_robots(stores: list[EpisodeStore]) -> None:
    config = WindowConfig(obs_horizon=2, action_horizon=3, space=Space.unified)
    config.goal.text = type(config.goal.text).optional
    windows = Windows(stores, config)
    batch = windows.batch(np.arange(len(windows)))
    assert batch["state"].shape == (21, 2, 128) and batch["action"].shape == (21, 3, 128)
    for number, store in enumerate(stores):
        robot = Embodiment.of(store.interface, "x")
        rows = batch["store"] == number
        assert (batch["rate_hz"][rows] == store.rate_hz).all()
        assert (batch["state_slots"][rows] == robot.state.mask).all()
        assert (batch["action_slots"][rows] == robot.action.mask).all()
        state = robot.state.back(batch["state"][rows])[:, -1]
        np.testing.assert_allclose(state, store.read("state", 0, store.num_steps), rtol=1e-6)
    with pytest.raises(ValueError, match="expected"):
        Windows(stores, WindowConfig(goal=config.goal))
    config.cameras = ["front"]
    with pytest.raises(ValueError, match="no camera 'front' that all stores have alike, only none"):
        Windows(stores, config)


def test_robots_are_told_apart(stores: list[EpisodeStore], tmp_path: Path) -> None:
    assert list(robots_of(stores)) == ["Sawyer", "arm7"]
    assert robots_of([stores[0], stores[0]]) == {"Sawyer": stores[0].interface}
    other = make_store(
        tmp_path / "c.zarr", arm7.INTERFACE.state, metaworld.ACTION_SPEC, 80.0, "Sawyer", [3]
    )
    with pytest.raises(ValueError, match=r"c.zarr: the state of robot 'Sawyer' has 17 entries, in"):
        robots_of([stores[0], other])
    hand = metaworld.STATE_SPECS[StateChoice.robot]
    slow = make_store(tmp_path / "d.zarr", hand, metaworld.ACTION_SPEC, 40.0, "Sawyer", [3])
    with pytest.raises(ValueError, match="runs at 40 Hz, in another store at 80 Hz"):
        robots_of([stores[0], slow])
    nameless = make_store(tmp_path / "e.zarr", hand, metaworld.ACTION_SPEC, 80.0, "", [3])
    assert list(robots_of([nameless])) == ["e"]


def test_cameras_are_those_that_all_have() -> None:
    small, large = (ArraySpec(shape=(n, n, 3), dtype="uint8") for n in (8, 16))
    state, action = arm7.INTERFACE.state, arm7.INTERFACE.action

    def robot(**images: ArraySpec) -> Interface:
        return Interface(state=state, action=action, rate_hz=20.0, images=images)

    merged = unified_interface(
        {"a": robot(front=small, top=small, wrist=small), "b": robot(wrist=small, top=large)}
    )
    assert merged.images == {"wrist": small}
    assert merged.state.shape == merged.action.shape == (128,)
