"""PlayTable as environments: states to begin from, experts that solve them, pictures, refusals."""

import gymnasium
import numpy as np
import pytest

from telic.envs import registry
from telic.envs.playtable.environment import STATE_SPECS, PlayTableTask, begin
from telic.envs.playtable.facts import DRAWER, PLANK
from telic.envs.playtable.layout import COLOURS, SCENES
from telic.envs.playtable.plans import expert
from telic.envs.playtable.tasks import TASKS, held_block, success
from telic.envs.playtable.world import World
from telic.envs.task import StateChoice


@pytest.mark.parametrize("task", TASKS)
def test_experts_solve_it_in_another_scene_each_time(task: str) -> None:
    first = list(TASKS).index(task)
    solved = 0
    for number in range(3):
        env = registry.make(f"playtable/{task}", scene="ABCD"[(first + number) % 4])
        env.draw_images = False
        for seed in range(2):
            obs, _ = env.reset(seed=seed)
            solver = env.expert()
            for _ in range(240):
                action = solver.act(obs)
                env.interface.action.validate(action, task)
                obs, reward, _, _, info = env.step(action)
                assert reward == info["success"]
                if info["success"]:
                    solved += 1
                    break
    assert solved >= 5, "of 6; docs/results/playtable.md has the rates of many starts"


@pytest.mark.parametrize("place", ["table", "slider", "drawer"])
def test_an_expert_that_is_done_keeps_what_it_lifted(place: str) -> None:
    world, rng = World("D"), np.random.default_rng(3)
    task = f"lift_red_block_{place}"
    start = begin(world, task, rng)
    lifter, first = expert(task, world, rng), None
    for step in range(200):
        world.step(lifter.act({}))
        if first is None and success(task, start, world.facts()):
            first = step
        if first is not None and step > first + 40:
            break
    assert first is not None
    assert held_block(world.facts()) == "red" and success(task, start, world.facts())
    before = world.tcp()
    world.step(lifter.act({}))
    assert np.abs(world.tcp()[:3] - before[:3]).max() < 1e-3


@pytest.mark.parametrize("task", TASKS)
def test_a_start_allows_the_task_and_has_not_done_it(task: str) -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        world = World(scene)
        facts = begin(world, task, rng)
        assert not success(task, facts, facts)
        holds = task.startswith("place") or task == "stack_block"
        assert (held_block(facts) is not None) == holds
        if task.startswith(("lift", "push_red", "push_blue", "push_pink")):
            colour = task.split("_")[1]
            place = {"slider": PLANK, "drawer": DRAWER}.get(task.rpartition("_")[2], "base")
            assert place in facts.blocks[colour].touches
        before = world.scene_obs()
        for _ in range(10):
            world.step(np.array([0, 0, 0, 0, 0, 0, world.gripper]))
        assert np.abs(world.scene_obs() - before)[[8, 14, 20]].max() < 0.01, "blocks stay"


def test_starts_differ_and_so_do_experts() -> None:
    env = registry.make("playtable/lift_red_block_table")
    states, paths = [], []
    for seed in range(12):
        obs, _ = env.reset(seed=seed)
        states.append(obs["state"])
    spread = np.std(states, axis=0)
    assert (spread[[0, 1, 2, 7, 8]] > 0.01).all() and (spread[15 + 6 : 15 + 8] > 0.02).all()
    for _ in range(2):  # the same state, another expert
        env.reset(seed=1)
        mover = env.expert() if not paths else (env.expert(), env.expert())[1]
        paths.append(np.stack([env.step(mover.act({}))[0]["state"][:3] for _ in range(15)]))
    assert np.abs(paths[0] - paths[1]).max() > 0.005


@pytest.mark.usefixtures("pictures")
def test_both_cameras_are_in_the_observation() -> None:
    env = gymnasium.make(
        "telic/PlayTable-open_drawer-v0", scene="B", cameras=["static", "gripper"],
        image_size=(64, 48), render_mode="rgb_array",
    )  # fmt: skip
    obs, info = env.reset(seed=0)
    assert set(obs) == {"state", "image/static", "image/gripper"}
    for camera in ("static", "gripper"):
        picture = obs[f"image/{camera}"]
        assert picture.shape == (64, 48, 3) and picture.std() > 10
    assert env.render().shape == (400, 400, 3)
    assert info["instruction"] == registry.entry("playtable/open_drawer").instructions[0]


def test_the_robot_alone_feels_itself_alone() -> None:
    full = registry.make("playtable/open_drawer")
    robot = registry.make("playtable/open_drawer", state="robot")
    seen, felt = (env.reset(seed=3)[0]["state"] for env in (full, robot))
    assert np.array_equal(seen[:15], felt) and seen.shape == (39,)
    assert STATE_SPECS[StateChoice.full].names[15:19] == ("slide", "drawer", "button", "switch")


@pytest.mark.usefixtures("own_tasks")
def test_every_task_is_registered_here_and_with_gymnasium() -> None:
    assert registry.tags()["playtable"] == [f"playtable/{task}" for task in TASKS]
    assert len(TASKS) == 34
    for task in TASKS:
        assert gymnasium.spec(f"telic/PlayTable-{task}-v0").kwargs == {"name": task}
    for colour in COLOURS:
        assert registry.entry(f"lift_{colour}_block_slider").tags == {"playtable"}


@pytest.mark.usefixtures("own_tasks")
def test_refusals_are_one_line() -> None:
    for call, message in (
        (lambda: registry.make("playtable/open_drawr"), "unknown task .*did you mean playtable/"),
        (lambda: PlayTableTask("opendrawer"), "no task 'opendrawer'; did you mean open_drawer"),
        (lambda: registry.make("open_drawer", scene="E"), "no scene 'E'; it has A, B, C, D"),
        (lambda: registry.make("open_drawer", cameras=["wrist"]), "no camera 'wrist'; it has"),
        (lambda: registry.make("open_drawer", max_steps=0), "max_steps=0"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
