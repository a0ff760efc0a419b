"""Every registered task keeps the TaskEnv contract; registering a task is what gets it tested."""

import itertools
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from telic.envs import registry
from telic.envs.task import TaskEnv
from telic.spec import Array

ALL = registry.task_ids()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Constant"),  # Meta-World's experts overshoot and say so
    pytest.mark.filterwarnings("ignore:.*Box observation space"),  # object poses are unbounded
]


@pytest.fixture(scope="module")
def env(request: pytest.FixtureRequest) -> Iterator[TaskEnv]:
    """Return an environment of the task in the test's parameters, shared by that task's tests."""
    env = registry.make(request.param)
    yield env
    env.close()


every_task = pytest.mark.parametrize("env", ALL, indirect=True)


def trajectory(env: TaskEnv, seed: int, steps: int = 6) -> Array:
    """Return states, rewards and successes under random actions drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=seed)
    rows = [np.append(obs["state"], [0, 0])]
    for _ in range(steps):
        obs, reward, terminated, _, info = env.step(env.interface.action.sample(rng))
        assert not terminated
        assert isinstance(info["success"], bool)
        env.interface.state.validate(obs["state"], env.task_id)
        rows.append(np.append(obs["state"], [reward, info["success"]]))
    return np.stack(rows)


def disturb(env: TaskEnv, seed: int, steps: int = 30) -> None:
    """Let the expert move things about, so that the next episode starts from a used simulator."""
    obs, _ = env.reset(seed=seed)
    expert = env.expert()
    for _ in range(steps):
        action = expert.act(obs)
        env.interface.action.validate(action, env.task_id)
        obs, *_ = env.step(action)


@every_task
def test_a_seed_gives_the_same_episode_to_the_last_bit(env: TaskEnv) -> None:
    first = trajectory(env, seed=7)
    disturb(env, seed=8)
    assert np.array_equal(trajectory(env, seed=7), first), "after another episode"
    fresh = registry.make(env.task_id)
    assert np.array_equal(trajectory(fresh, seed=7), first), "in a new environment"
    assert not np.array_equal(trajectory(fresh, seed=9, steps=1), first[:2]), "seeds must differ"
    fresh.close()


@pytest.mark.parametrize("env", registry.tags()["mt50"], indirect=True)
def test_the_goal_is_visible_after_reset_and_after_a_step(env: TaskEnv) -> None:
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        target = env._base._target_pos  # type: ignore[attr-defined]
        np.testing.assert_allclose(obs["state"][36:39], target, atol=1e-6)
        obs, *_ = env.step(np.zeros(4, np.float32))
        np.testing.assert_allclose(obs["state"][36:39], target, atol=1e-6)


@every_task
def test_gymnasium_accepts_it(env: TaskEnv) -> None:
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("task", registry.tags()["mt50"])
def test_gymnasium_knows_it_by_name(task: str) -> None:
    spec = gymnasium.spec(f"telic/MetaWorld-{task.split('/')[1]}")
    assert spec.kwargs == {"name": task.split("/")[1]}


def test_an_episode_is_cut_at_max_steps_and_stepping_on_is_harmless() -> None:
    env = gymnasium.make("telic/MetaWorld-reach-v3", max_steps=3)
    env.reset(seed=0)
    cut = [env.step(np.zeros(4, np.float32))[3] for _ in range(5)]
    assert cut == [False, False, True, True, True]
    env.unwrapped._base.curr_path_length = 600  # type: ignore[attr-defined]  # its own limit: 500
    env.step(np.zeros(4, np.float32))


def test_suites_and_groups_have_their_sizes() -> None:
    sizes = {tag: len(ids) for tag, ids in registry.tags().items()}
    assert sizes == {
        "mt1": 1, "mt10": 10, "mt50": 50, "easy": 28, "medium": 11, "hard": 6, "very_hard": 5,
        "arm7": 4, "detour": 1, "playtable": 34,
    }  # fmt: skip
    names = {task.split("/")[1] for task in registry.tags()["mt50"]}
    import metaworld

    assert names == set(metaworld.ALL_V3_ENVIRONMENTS)


def test_every_task_has_four_phrasings_of_its_own() -> None:
    owner: dict[str, str] = {}
    for task in ALL:
        sentences = registry.entry(task).instructions
        assert len(set(sentences)) == len(sentences) >= 4, task
        for sentence in sentences:
            assert sentence == sentence.strip().lower(), sentence
            if task == "playtable/play":
                continue  # says what the tasks say that it is made of
            assert owner.setdefault(sentence, task) == task, f"{sentence!r} is of two tasks"


ANTONYMS = [
    ("drawer-open", "drawer-close"),
    ("door-open", "door-close"),
    ("door-lock", "door-unlock"),
    ("window-open", "window-close"),
    ("faucet-open", "faucet-close"),
    ("coffee-push", "coffee-pull"),
    ("stick-push", "stick-pull"),
    ("handle-press", "handle-pull"),
    ("handle-press-side", "handle-pull-side"),
    ("assembly", "disassemble"),
    ("plate-slide", "plate-slide-back"),
    ("plate-slide-side", "plate-slide-back-side"),
    ("push", "push-back"),
]


@pytest.mark.parametrize(("one", "other"), ANTONYMS)
def test_opposite_tasks_differ_in_more_than_one_small_word(one: str, other: str) -> None:
    small = {"the", "a", "it", "is", "to", "of", "its", "by", "so", "that", "until", "and", "in"}
    phrases = [registry.entry(f"{name}-v3").instructions for name in (one, other)]
    for left, right in itertools.product(*phrases):
        content = [set(sentence.replace(",", "").split()) - small for sentence in (left, right)]
        assert content[0] - content[1], (left, right)
        assert content[1] - content[0], (left, right)


def test_names_expand_once_and_in_order() -> None:
    ids = registry.expand(["push-v3", "mt10", "metaworld/reach-v3", "hard"])
    assert ids[0] == "metaworld/push-v3"
    assert len(ids) == len(set(ids)) == 10 + 4  # two of the six hard tasks are in mt10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pick-plce-v3", r"unknown task or tag 'pick-plce-v3'; did you mean pick-place-v3"),
        ("mt11", r"unknown task or tag 'mt11'; did you mean mt"),
        ("no.such.module:toy/task", r"no module 'no' to import"),
    ],
)
def test_an_unknown_name_offers_the_near_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        registry.expand([name])
    assert "\n" not in str(caught.value)


def test_hiding_the_objects_leaves_the_robot() -> None:
    full, robot = registry.make("reach-v3"), registry.make("reach-v3", state="robot")
    seen, felt = full.reset(seed=1)[0]["state"], robot.reset(seed=1)[0]["state"]
    assert felt.shape == (4,)
    assert np.array_equal(felt, seen[:4])
    a, b = full.expert().act({"state": seen}), robot.expert().act({"state": felt})
    assert np.array_equal(a, b), "the expert works whatever the state shows"
