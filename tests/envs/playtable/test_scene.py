"""PlayTable's scenes: where things are, how they rest and move, what the cameras see."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from telic.envs.playtable import layout as table
from telic.envs.playtable import panda
from telic.envs.playtable.layout import SCENES
from telic.envs.playtable.starts import apart
from telic.envs.playtable.world import World
from telic.envs.rendering import load_mujoco
from telic.spec import Array

_CLEAR = 6  # a seed under which all blocks lie on the shelf, out of the arm's way

HOLD = np.array([0, 0, 0, 0, 0, 0, 1.0])
# CALVIN's, scene: button x, switch x, drawer x, slide handle x at 0
FIXTURES = {
    "A": (-0.28, 0.30, 0.10, 0.04),
    "B": (0.28, -0.32, 0.18, 0.228),
    "C": (-0.12, -0.32, 0.10, 0.20),
    "D": (-0.12, 0.30, 0.18, 0.04),
}


def scene_obs(scene: str, **values: float) -> Array:
    """Return a scene vector with the blocks on the desk, apart, and joints as given."""
    vector = np.zeros(24)
    for name, value in values.items():
        vector[["slide", "drawer", "button", "switch", "lightbulb", "led"].index(name)] = value
    low, high = SCENES[scene].table_x
    for index, x in enumerate(np.linspace(low, high, 3)):
        vector[6 + 6 * index : 12 + 6 * index] = [x, -0.05, 0.46, 0, 0, np.pi / 2]
    return vector


def extent(world: World, body: str, geoms: slice = slice(None)) -> tuple[Array, Array]:
    """Return the corners of the box around a body's geoms but for meshes, world frame."""
    model, data = world._model, world._data
    first, count = model.body(body).geomadr[0], model.body(body).geomnum[0]
    corners = []
    mesh = load_mujoco().mjtGeom.mjGEOM_MESH  # only seen, over the boxes
    plain = [geom for geom in range(first, first + count) if model.geom_type[geom] != mesh]
    for geom in plain[geoms]:
        middle, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
        signs = np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)
        corners.append(
            data.geom_xpos[geom] + (middle + signs * half) @ data.geom_xmat[geom].reshape(3, 3).T
        )
    points = np.concatenate(corners)
    return points.min(0), points.max(0)


@pytest.mark.parametrize("scene", SCENES)
def test_parts_are_where_calvin_has_them(scene: str) -> None:
    button, switch, drawer, slide = FIXTURES[scene]
    world = World(scene)
    world.reset(scene_obs=scene_obs(scene))
    low, high = extent(world, "drawer", slice(5, 6))
    np.testing.assert_allclose(low, [drawer - 0.12, -0.26, 0.34], atol=1e-6)
    np.testing.assert_allclose(high, [drawer + 0.12, -0.24, 0.38], atol=1e-6)
    low, high = extent(world, "button")
    np.testing.assert_allclose(low, [button - 0.032, -0.152, 0.46], atol=1e-6)
    np.testing.assert_allclose(high, [button + 0.032, -0.088, 0.484], atol=1e-6)
    low, high = extent(world, "switch")
    np.testing.assert_allclose([low[0], high[0]], [switch - 0.06, switch + 0.06], atol=1e-6)
    low, high = extent(world, "slide", slice(1, 4))
    np.testing.assert_allclose([low[0], high[0]], [slide - 0.02, slide + 0.02], atol=1e-6)
    moved = scene_obs(scene, slide=0.2, drawer=0.15, button=0.02, switch=0.088)
    world.reset(scene_obs=moved)
    assert extent(world, "slide", slice(1, 4))[0][0] == pytest.approx(slide - 0.02 - 0.2)
    assert extent(world, "drawer", slice(5, 6))[0][1] == pytest.approx(-0.26 - 0.15)
    assert extent(world, "button")[1][2] == pytest.approx(0.464)


def test_the_door_of_d_fills_the_box_that_calvins_fills() -> None:
    world = World("D")
    world.reset(scene_obs=scene_obs("D"))
    low, high = extent(world, "slide")
    np.testing.assert_allclose(low, [-0.10, -0.03, 0.43], atol=0.0101)
    np.testing.assert_allclose(high, [0.18, 0.136, 0.65], atol=0.0101)


@pytest.mark.parametrize("scene", SCENES)
def test_blocks_rest_on_desk_shelf_and_drawer_and_parts_stay(scene: str) -> None:
    plan = SCENES[scene]
    vector = scene_obs(scene, slide=0.1, drawer=0.2, switch=0.05)
    vector[6:9] = [np.mean(plan.table_x), -0.08, 0.46]
    vector[12:15] = [plan.drawer_x, -0.26, 0.37]
    vector[18:21] = [np.mean(plan.left_x), 0.09, 0.461]
    world = World(scene)
    world.reset(scene_obs=vector)
    for _ in range(60):
        world.step(HOLD)
    now = world.scene_obs()
    np.testing.assert_allclose(now[[8, 14, 20]], [0.46, 0.3623, 0.461], atol=3e-4)
    np.testing.assert_allclose(now[:4], vector[:4], atol=5e-4)
    touches = [world.facts().blocks[colour].touches for colour in plan.order]
    assert touches == [{"base"}, {"drawer"}, {"plank"}]
    for _ in range(240):
        world.step(HOLD)
    np.testing.assert_allclose(world.scene_obs(), now, atol=5e-4)


def test_parts_move_from_four_newtons_on_and_the_button_springs_back() -> None:
    world = World("D")
    weight = 0.239 * 9.8 * np.sqrt(0.75)  # of the switch, down its slope
    for name, up in (("slide", 0.0), ("drawer", 0.0), ("switch", weight)):
        for newtons, moves in ((3.6 + up, False), (4.5 + up, True)):
            world.reset(scene_obs=scene_obs("D"))
            world._data.qfrc_applied[world._model.joint(name).dofadr[0]] = newtons
            for _ in range(30):
                world.step(HOLD)
            joint = world.facts().joints[name]
            assert joint > 0.01 if moves else abs(joint) < 1e-3, (name, newtons, joint)
    world.reset(scene_obs=scene_obs("D", button=0.02))
    for _ in range(15):
        world.step(HOLD)
    assert abs(world.facts().joints["button"]) < 1e-3


def test_a_touch_reaches_one_millimetre() -> None:
    for gap, seen in ((0.0006, True), (0.0016, False)):
        vector = scene_obs("D")
        vector[6:12] = [0.2, -0.1, 0.46 + gap, 0, 0, 0]
        world = World("D")
        world.reset(scene_obs=vector)
        assert bool(world.facts().blocks["red"].touches) is seen


def test_lights_follow_switch_and_button() -> None:
    world = World("D")
    world.reset(scene_obs=scene_obs("D", switch=0.05))
    world.step(HOLD)
    assert world.facts().lightbulb and not world.facts().led
    address = world._model.joint("button").dofadr[0]
    for expected in (True, False):  # each press toggles, however long it lasts
        world._data.qfrc_applied[address] = 6.0
        for _ in range(10):
            world.step(HOLD)
        assert world.facts().led is expected
        world._data.qfrc_applied[address] = 0.0
        for _ in range(10):
            world.step(HOLD)
        assert world.facts().led is expected
    np.testing.assert_array_equal(world.scene_obs()[4:6], [1, 0])


@pytest.mark.parametrize("scene", SCENES)
def test_a_reset_draws_blocks_as_calvin_does(scene: str) -> None:
    plan = SCENES[scene]
    world = World(scene)
    seen = set()
    for seed in range(40):
        world.reset(seed=seed)
        poses = list(world.scene_obs()[6:].reshape(3, 6))
        assert apart(poses, [plan.length(colour) for colour in plan.order])
        for pose in poses:
            on_desk = pose[1] < 0
            ranges = [plan.table_x] if on_desk else [plan.left_x, plan.right_x]
            inside = [low <= pose[0] <= high for low, high in ranges]
            assert any(inside)
            seen.add((on_desk, inside[0]))
    assert len(seen) == 3, "desk, left and right half of the shelf"


# pictures -------------------------------------------------------------------------------------


def seen_from_static(points: Array, size: int) -> Array:
    """Return (row, column) [n 2] of world points by the pinhole equations alone."""
    eye, aim = np.array(table.STATIC_EYE), np.array(table.STATIC_LOOK_AT)
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross(forward, table.STATIC_UP)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    focal = size / 2 / np.tan(np.deg2rad(table.CAMERAS["static"].fovy) / 2)
    rays = points - eye
    ahead = rays @ forward
    pixels = [size / 2 + focal * (rays @ axis) / ahead for axis in (down, right)]
    return np.stack(pixels, axis=1)


def middle_of(mask: Array) -> Array:
    return np.argwhere(mask).mean(axis=0) + 0.5


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("scene", SCENES)
def test_the_static_camera_sees_blocks_where_they_are(scene: str) -> None:
    world = World(scene)
    world.reset(scene_obs=scene_obs(scene))
    world._data.qpos[world._arm[0]] = 2.5  # out of the way
    world._mujoco.mj_forward(world._model, world._data)
    picture = world.picture("static", (400, 400)).astype(int)
    poses = dict(zip(SCENES[scene].order, world.scene_obs()[6:].reshape(3, 6), strict=True))
    for colour, channels in (("red", (1, 0, 0)), ("blue", (0, 0, 1)), ("pink", (1, 0, 1))):
        strong = np.array(channels, bool)
        mask = (picture[..., strong] > 90).all(2) & (picture[..., ~strong] < 40).all(2)
        expected = seen_from_static(poses[colour][None, :3], 400)[0]
        assert np.linalg.norm(middle_of(mask) - expected) < 4, colour


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("scene", SCENES)
def test_the_static_camera_sees_what_calvins_sees(scene: str, shared: Path) -> None:
    sheet = imageio.imread(shared / "data" / "calvin_scenes_ABCD_static.png")[..., :3].astype(int)
    row, column = divmod("ABCD".index(scene), 2)
    real = sheet[600 * row : 600 * row + 600, 600 * column : 600 * column + 600][1::3, 1::3]
    world = World(scene)
    world.reset(seed=_CLEAR)
    ours = world.picture("static", (200, 200)).astype(int)
    lower = np.arange(200)[:, None] > 120
    beside_the_base = np.arange(200)[None] > 60
    for picture_of, within in (
        (lambda p: p.max(2) < 25, 1.5),  # the button, behind the gripper in C and D
        (lambda p: (p.max(2) < 90) & (np.ptp(p, 2) < 12) & lower & beside_the_base, 2.5),  # drawer
    ):
        distance = np.linalg.norm(middle_of(picture_of(real)) - middle_of(picture_of(ours)))
        assert distance < within, "pixels of 200"
    wood = [picture[20:40, 60:75].reshape(-1, 3).mean(0) for picture in (real, ours)]
    assert np.abs(wood[0] - wood[1]).max() < 60


def test_the_gripper_camera_is_where_calvins_is() -> None:
    world = World("D")
    world.reset(seed=_CLEAR)
    view = world._data.camera("gripper")
    axes = view.xmat.reshape(3, 3)
    np.testing.assert_allclose(view.xpos, [0.0114, -0.3346, 0.7081], atol=1e-4)
    np.testing.assert_allclose(-axes[:, 2], [0.070, 0.291, -0.954], atol=1e-3)
    np.testing.assert_allclose(axes[:, 1], [0.055, 0.954, 0.295], atol=1e-3)


@pytest.mark.usefixtures("pictures")
def test_lamps_change_colour_and_only_they() -> None:
    world = World("D")
    world.reset(scene_obs=scene_obs("D"))
    off = world.picture("static", (200, 200)).astype(int)
    world.reset(scene_obs=scene_obs("D", lightbulb=1, led=1))
    on = world.picture("static", (200, 200)).astype(int)
    changed = np.abs(on - off).max(2) > 30
    red, green, blue = np.moveaxis(on, 2, 0)
    yellow, lime = (red > 80) & (blue < 40), (green > 80) & (red < 40) & (blue < 40)
    assert 40 < changed.sum() < 900
    assert (yellow & changed).sum() > 30 and (lime & changed).sum() > 30
    assert (yellow | lime)[changed].mean() > 0.95


@pytest.mark.usefixtures("pictures")
def test_depth_is_the_distance_along_the_axis() -> None:
    world = World("D")
    world.reset(scene_obs=scene_obs("D"))
    depth = world.depth("static", (100, 100))
    corner = np.array([[0.40, -0.175, table.SURFACE_Z]])  # of the desk, with nothing before it
    row, column = np.floor(seen_from_static(corner, 100)[0]).astype(int)
    eye, aim = np.array(table.STATIC_EYE), np.array(table.STATIC_LOOK_AT)
    axis = (aim - eye) / np.linalg.norm(aim - eye)
    assert depth[row, column] == pytest.approx(float((corner[0] - eye) @ axis), abs=0.02)
    assert depth.shape == (100, 100) and depth.dtype == np.float32


def test_refusals_are_one_line() -> None:
    world = World("D")
    robot = world_robot()

    def reset(**given: Any) -> Callable[[], None]:
        return lambda: world.reset(**given)

    for call, message in (
        (lambda: World("E"), "PlayTable has no scene 'E'; it has A, B, C, D"),
        (reset(scene="d"), "no scene 'd'; it has A, B, C, D; did you mean D"),
        (reset(scene_obs=np.zeros(23)), r"scene_obs: shape is \(23,\), expected \(24,\)"),
        (reset(robot_obs=np.zeros(14)), r"robot_obs: shape is \(14,\), expected \(15,\)"),
        (reset(scene_obs=scene_obs("D", drawer=0.3)), "drawer is 0.3, expected 0 to 0.22"),
        (reset(robot_obs=robot + 4 * np.eye(15)[8]), "joint 2 of the arm is 5.04"),
        (reset(robot_obs=robot + np.eye(15)[6]), "gripper_width is 1.08"),
        (reset(robot_obs=robot * np.nan), "robot_obs: tcp_x is not finite"),
        (lambda: world.picture("statics", (8, 8)), "no camera 'statics'.*did you mean static"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def world_robot() -> Array:
    """Return the neutral robot vector."""
    return np.array([0.026, -0.231, 0.571, 3.09, -0.03, 1.5, 0.08, *panda.NEUTRAL, 1.0])
