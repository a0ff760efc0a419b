"""The motors' laws: how strong, how fast, and which of the solver's rows are theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telic.envs.playtable.control import STEP_M
from telic.envs.playtable.layout import BLOCK_WIDTH
from telic.envs.playtable.motors import PHYSICS_HZ, Motors, friction_rows
from telic.envs.playtable.panda import NEUTRAL, add_arm
from telic.envs.playtable.starts import calvin_scene_obs
from telic.envs.playtable.world import World
from telic.envs.rendering import load_mujoco

mujoco = load_mujoco()
_OPEN = np.array([0, 0, 0, 0, 0, 0, 1.0])
_SEED = 6  # all blocks on the shelf


def _world() -> World:
    world = World("D")
    world.reset(seed=_SEED)
    return world


def _forces(world: World) -> Any:
    """Return N m of the arm's seven motors and N of the gear [8], of one more physics step."""
    world._motors.advance(world._data, 1)
    return world._data.efc_force[world._motors._rows]


@pytest.mark.parametrize(("newtons", "holds"), [(45.0, True), (55.0, False)])
def test_the_fingers_gear_gives_way_at_50_n(newtons: float, holds: bool) -> None:
    world = _world()
    world._data.qpos[world._fingers] = 0.02
    dofs = [world._model.joint(name).dofadr[0] for name in ("finger_left", "finger_right")]
    world._data.qfrc_applied[dofs] = newtons, -newtons
    world.step(_OPEN)
    force, (left, right) = abs(_forces(world)[7]), world._data.qpos[world._fingers]
    if holds:
        assert force == pytest.approx(newtons, abs=1.0) and abs(left - right) < 5e-4
    else:
        assert force == pytest.approx(50.0, abs=0.01) and abs(left - right) > 0.01


def test_the_gear_takes_0_02_of_the_fingers_difference_in_a_240th_of_a_second() -> None:
    world = _world()
    world._data.qpos[world._fingers] = 0.024, 0.016
    world.step(_OPEN)
    left, right = world._data.qpos[world._fingers]
    steps = PHYSICS_HZ // 30
    assert left - right == pytest.approx(0.008 * (1 - 2 * 0.02) ** steps, rel=0.01)


@pytest.mark.parametrize(("torque", "holds"), [(190.0, True), (210.0, False)])
def test_an_arms_motor_gives_way_at_200_nm(torque: float, holds: bool) -> None:
    """The first joint's: its axis is upright, so that it bears no weight."""
    world = _world()
    start = world._data.qpos[world._arm[0]]
    world._data.qfrc_applied[world._model.joint("arm_1").dofadr[0]] = torque
    for _ in range(5):
        world.step(_OPEN)
    turned = abs(world._data.qpos[world._arm[0]] - start)
    if holds:
        assert -_forces(world)[0] == pytest.approx(torque, abs=1.0) and turned < 1e-3
    else:
        assert -_forces(world)[0] == pytest.approx(200.0, abs=0.01) and turned > 0.02


def test_joints_turn_by_a_tenth_in_a_240th_of_a_second_and_at_most_2_rad_s() -> None:
    world = _world()
    data, motors = world._data, world._motors
    for way in (0.01, 0.05, 0.5):
        world.reset(seed=_SEED)
        start = data.qpos[world._arm].copy()
        signs = -np.sign(start)  # away from the ends
        motors.angles = start + signs * way
        motors.advance(data, 1)
        expected = min(2.0, way * (1 - 0.9**2) * PHYSICS_HZ)
        np.testing.assert_allclose(data.qvel[motors._turns], signs * expected, atol=0.01 * expected)


def test_the_hand_rubs_a_quarter_on_what_it_touches() -> None:
    """A block that slides along the hand: its friction's part of what presses."""
    world = _world()
    model, data = world._model, world._data
    hand, block = data.body("hand"), world._blocks["red"]
    side = hand.xmat.reshape(3, 3)
    data.qpos[block : block + 3] = hand.xpos + side @ [0.03 + BLOCK_WIDTH / 2, 0, 0.02]
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, hand.xmat)
    data.qpos[block + 3 : block + 7] = quat
    data.xfrc_applied[model.body("block_red").id, :3] = side @ [-30.0, 0, 0]
    found = []
    for _ in range(8):
        world._motors.advance(data, 1)
        rubbing, pressing, force = 0.0, 0.0, np.empty(6)
        for index, contact in enumerate(data.contact):
            names = {model.body(int(model.geom_bodyid[geom])).name for geom in contact.geom}
            if names == {"hand", "block_red"}:
                mujoco.mj_contactForce(model, data, index, force)
                pressing, rubbing = pressing + force[0], rubbing + np.hypot(*force[1:3])
        if pressing > 1.0:
            found.append(rubbing / pressing)
    assert len(found) >= 4
    assert max(found) == pytest.approx(0.25, abs=1e-3)


def _arm_with(*, before: bool, after: bool, equality: bool = False) -> Any:
    """Return a model of the arm among other joints with dry friction, or with an equality."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.gravity = [0, 0, 0]
    if before:
        _rubbing(spec, "before")
    add_arm(spec, mujoco, {})
    if after:
        _rubbing(spec, "after")
    if equality:
        spec.add_equality(
            type=mujoco.mjtEq.mjEQ_JOINT, name1="finger_left", name2="finger_right",
            objtype=mujoco.mjtObj.mjOBJ_JOINT,
        )  # fmt: skip
    return spec.compile()


def _rubbing(spec: Any, name: str) -> None:
    body = spec.worldbody.add_body(name=name, pos=[3, 3, 3])
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, frictionloss=4.0)
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0], contype=0, conaffinity=0)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_the_motors_find_their_rows_among_other_dry_friction(before: bool, after: bool) -> None:
    model = _arm_with(before=before, after=after)
    motors, data = Motors(model, mujoco), mujoco.MjData(model)
    dofs = [int(model.joint(f"arm_{index}").dofadr[0]) for index in range(1, 8)]
    places = [int(model.joint(f"arm_{index}").qposadr[0]) for index in range(1, 8)]
    assert friction_rows(model, mujoco, dofs, "gear") == [
        *range(before, before + 7),
        before + 7 + after,
    ]
    data.qpos[places] = NEUTRAL
    motors.angles = NEUTRAL - 0.05 * np.sign(NEUTRAL)
    for _ in range(120):
        motors.advance(data, 1)
    np.testing.assert_allclose(data.qpos[places], motors.angles, atol=1e-4)
    for name in ["before"] * before + ["after"] * after:
        assert abs(data.joint(name).qpos[0]) < 1e-6


def test_models_whose_rows_would_shift_or_are_absent_are_refused() -> None:
    model = _arm_with(before=False, after=False, equality=True)
    with pytest.raises(ValueError, match="1 equality constraints, expected none"):
        Motors(model, mujoco)
    model = _arm_with(before=False, after=False)
    model.dof_frictionloss[model.joint("arm_3").dofadr[0]] = 0.0
    with pytest.raises(ValueError, match="joint 'arm_3' has no dry friction"):
        Motors(model, mujoco)


def test_where_the_solver_begins_shows_in_no_trajectory() -> None:
    """The hand goes down to a block, against the door, and closes: to 1e-8 it shows by 0.05 mm."""
    found = []
    for guess in (0.0, 50.0):
        world = World("D")
        world.reset(scene_obs=calvin_scene_obs(world.layout, np.random.default_rng(3)))
        goal = world.scene_obs()[6:9] + [0, 0, 0.02]
        for step in range(40):
            world._data.qacc_warmstart[:] = guess
            way = np.clip((goal - world.tcp()[:3]) / STEP_M, -1, 1)
            world.step(np.array([*way, 0, 0, 0, 1.0 if step < 25 else -1.0]))
        assert world.facts().robot_touches == {"slide"}
        found.append(np.append(world.robot_obs(), world.scene_obs()))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-9)
