"""What PlayTable's cameras see beside CALVIN's pictures, and that nothing of it changes physics."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from telic.envs.playtable import scene as scenes
from telic.envs.playtable.appearance import LIGHTS, set_light
from telic.envs.playtable.layout import SCENES
from telic.envs.playtable.robot_visuals import HIDDEN_GROUP, VISUAL_GROUP
from telic.envs.playtable.shadows import SHADE, TOWARDS_LIGHT
from telic.envs.playtable.textures import wood
from telic.envs.playtable.world import World
from telic.spec import Array

REPOSITORY = Path(__file__).resolve().parents[3]
NEUTRAL_BLOCKS = np.array([0.05, 3, 0.46, 0, 0, 0, 0.2, 3, 0.46, 0, 0, 0, 0.35, 3, 0.46, 0, 0, 0])
EMPTY_TABLE = np.r_[np.zeros(6), NEUTRAL_BLOCKS]  # its blocks lie behind it


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark that compares pictures."""
    path = REPOSITORY / "benchmarks/playtable_pictures.py"
    spec = importlib.util.spec_from_file_location("playtable_pictures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("pictures")
def test_pictures_are_near_calvins(shared: Path, script: ModuleType) -> None:
    found = script.pairs(shared / "data", "tiny")
    assert [pair[:2] for pair in found] == [
        *((scene, "static") for scene in SCENES),
        ("D", "gripper"),
    ]
    for scene, camera, calvin, own in found:
        apart, brighter = script.differences(calvin, own)
        assert apart <= 12, (scene, camera)
        assert abs(brighter) <= 3, (scene, camera)
    assert script.side_by_side(found).shape == (4 * 400 + 5 * 84, 840, 3)


@pytest.mark.usefixtures("pictures")
def test_blocks_are_where_calvins_pictures_show_them(shared: Path, script: ModuleType) -> None:
    for _, _, calvin, own in script.pairs(shared / "data", "tiny"):
        for strong in ((True, False, False), (False, False, True), (True, False, True)):
            masks = [
                (p[..., strong] > 70).all(2) & (p[..., np.invert(strong)] < 30).all(2)
                for p in (calvin, own)
            ]
            if masks[0].sum() > 60:
                shared_pixels = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
                assert shared_pixels > 0.75


def model_without_looks(scene: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "dress", lambda *_: None)
        patch.setattr(scenes, "add_robot_visuals", lambda *_: None)
        return scenes.build.__wrapped__(scene)


@pytest.mark.parametrize("scene", SCENES)
def test_what_is_seen_neither_touches_nor_weighs(
    scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bare = scenes.build(scene), model_without_looks(scene, monkeypatch)
    seen = model.geom_group == VISUAL_GROUP
    assert seen.sum() > 20
    assert not model.geom_contype[seen].any() and not model.geom_conaffinity[seen].any()
    np.testing.assert_array_equal(model.body_mass, bare.body_mass)
    np.testing.assert_array_equal(model.body_inertia, bare.body_inertia)
    np.testing.assert_array_equal(model.body_ipos, bare.body_ipos)
    touching = (model.geom_contype | model.geom_conaffinity) > 0
    bare_touching = (bare.geom_contype | bare.geom_conaffinity) > 0
    for field in ("geom_size", "geom_pos", "geom_quat", "geom_friction", "geom_bodyid"):
        np.testing.assert_array_equal(
            getattr(model, field)[touching], getattr(bare, field)[bare_touching]
        )


def test_an_episode_is_the_same_to_the_last_bit_without_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = model_without_looks("D", monkeypatch)
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 7))
    states = []
    for build in (scenes.build, lambda _: bare):
        monkeypatch.setattr("telic.envs.playtable.world.build", build)
        monkeypatch.setattr("telic.envs.playtable.world.set_light", lambda *_: None)
        world = World("D")
        world.reset(seed=3)
        for action in actions:
            world.step(action)
        states.append(np.r_[world.robot_obs(), world.scene_obs()])
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize("name", ["link3", "hand", "finger_left"])
def test_the_arm_shows_its_meshes_alone(name: str) -> None:
    model = scenes.build("D")
    body = model.body(name)
    groups = model.geom_group[body.geomadr[0] : body.geomadr[0] + body.geomnum[0]]
    assert set(groups) == {VISUAL_GROUP, HIDDEN_GROUP}


def test_wood_is_the_same_each_time_and_has_its_mean() -> None:
    mean = (0.6, 0.45, 0.3)
    grain = wood(mean, 0.12, 1)
    np.testing.assert_array_equal(grain, wood(mean, 0.12, 1))
    assert grain.shape == (256, 256, 3) and grain.dtype == np.uint8
    np.testing.assert_allclose(grain.mean((0, 1)) / 255, mean, rtol=0.02)
    grey = grain.mean(2)
    assert grey.std() / grey.mean() == pytest.approx(0.12, abs=0.015)
    along, across = (
        np.corrcoef(grey.ravel(), np.roll(grey, 4, axis=axis).ravel())[0, 1] for axis in (1, 0)
    )
    assert along > 0.8 > 0.6 > across, "the fibre runs along the rows"
    seam = np.abs(np.diff(grey[:, [255, 0]])).mean()
    assert seam < 1.5 * np.abs(np.diff(grey, axis=1)).mean(), "no seam where it repeats"


def picture(renderer: str, camera: str = "static", **joints: float) -> Array:
    world = World("D", renderer=renderer)
    world.reset(scene_obs=EMPTY_TABLE)
    for joint, angle in joints.items():
        world._data.joint(joint).qpos = angle
    world._mujoco.mj_forward(world._model, world._data)
    size = (200, 200) if camera == "static" else (84, 84)
    found = world.picture(camera, size).astype(int)
    world.close()
    return found


@pytest.mark.usefixtures("pictures")
def test_level_ground_is_as_bright_as_in_calvins_renderers() -> None:
    for renderer, light, dark in (("tiny", 238, 207), ("opengl", 254, 221)):
        values, counts = np.unique(picture(renderer)[150:], return_counts=True)
        common = values[np.argsort(-counts)[:4]]
        for level in (light, dark):
            assert np.abs(common - level).min() <= 2, (renderer, common)


@pytest.mark.usefixtures("pictures")
def test_checks_of_the_floor_end_within_two_pixels() -> None:
    row = picture("tiny", "gripper")[60, 20:70, 0]
    assert row[0] <= 208 and row[-1] >= 236
    assert ((row > 210) & (row < 235)).sum() <= 2


@pytest.mark.usefixtures("pictures")
def test_the_hand_darkens_the_desk_below_it_where_calvins_light_casts_shadows() -> None:
    for renderer, share in (("opengl", 1 - SHADE), ("tiny", 1.0)):
        with_hand, without = (picture(renderer, arm_1=q) for q in (-1.1, 1.5))
        both = with_hand[109:117, 63:70].sum() / without[109:117, 63:70].sum()
        assert both == pytest.approx(share, abs=0.06), renderer


def test_light_is_named_or_refused_in_one_line() -> None:
    assert np.linalg.norm(TOWARDS_LIGHT) == pytest.approx(1, abs=2e-3)
    assert set(LIGHTS) == {"opengl", "tiny"}
    with pytest.raises(ValueError, match="no renderer 'tinny'; it has opengl, tiny; did you mean"):
        set_light(scenes.build("D"), "tinny")
    with pytest.raises(ValueError, match="no renderer 'egl'"):
        World("D", renderer="egl")
