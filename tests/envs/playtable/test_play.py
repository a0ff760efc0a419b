"""Play: tasks that can be done, one after the other, recorded with what was done when."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from telic.collect import CollectConfig, EpisodeKind, run
from telic.datasets.store import EpisodeStore
from telic.envs.playtable.chain_start import start_obs
from telic.envs.playtable.instructions import instructions
from telic.envs.playtable.play import LIMIT, PlayTask, symbols
from telic.envs.playtable.protocol import initial_states
from telic.envs.playtable.rules import applicable
from telic.envs.playtable.world import World

SEED = 2


def test_the_table_is_read_as_the_chains_write_it() -> None:
    world = World("D")
    for state in initial_states()[::24]:
        world.reset(*start_obs(state, "D"), scene="D")
        assert symbols(world.facts(), world.layout) == state


@pytest.fixture(scope="module")
def played() -> tuple[list[tuple[str, int, int]], PlayTask]:
    """Return the tasks that the experts did in one short episode, and the environment after it."""
    env = PlayTask(num_tasks=4)
    obs, info = env.reset(seed=SEED)
    expert, done = env.expert(), []
    for step in range(1, 4 * LIMIT):
        before = info
        obs, reward, _, truncated, info = env.step(expert.act(obs))
        if reward:
            done.append((before["task"], before["task_began"], step))
        assert info["goals_reached"] == len(done)
        if info["task_began"] != before["task_began"]:  # what is on the table allows the next one
            state = symbols(env.world.facts(), env.world.layout)
            assert state is not None and applicable(info["task"], state)
        if info["success"] or truncated:
            break
    return done, env


def test_tasks_follow_one_another_on_the_same_table(
    played: tuple[list[tuple[str, int, int]], PlayTask],
) -> None:
    done, _ = played
    assert len(done) == 4
    for (_, _, end), (_, began, _) in pairwise(done):
        assert began >= end


def test_the_same_seed_plays_the_same() -> None:
    first, second = PlayTask(), PlayTask()
    for env in (first, second):
        env.reset(seed=7)
    assert first.current_task == second.current_task
    np.testing.assert_array_equal(first.world.scene_obs(), second.world.scene_obs())
    first.reset(seed=8)
    assert not np.array_equal(first.world.scene_obs(), second.world.scene_obs())


def test_what_is_drawn_can_be_done_by_the_rules() -> None:
    env = PlayTask()
    for seed in range(20):
        env.reset(seed=seed)
        state = symbols(env.world.facts(), env.world.layout)
        assert state is not None and applicable(env.current_task, state)


def test_a_task_not_done_in_time_is_given_up() -> None:
    env = PlayTask()
    env.reset(seed=1)
    still = np.zeros(7, np.float32)
    for _ in range(LIMIT):
        _, _, _, _, info = env.step(still)
    assert info["task_began"] == LIMIT and info["goals_reached"] == 0
    assert env.stage == 2


def config(out: Path, **changes: object) -> CollectConfig:
    """Return a config of one short episode of play."""
    settings = {
        "env": "playtable",
        "mode": EpisodeKind.play,
        "episodes_per_task": 1,
        "num_workers": 0,
    }
    return CollectConfig(out=str(out), seed=SEED, **(settings | changes))  # type: ignore[arg-type]


def test_play_is_labelled_by_what_was_done(tmp_path: Path) -> None:
    run(config(tmp_path / "play.zarr"))
    store = EpisodeStore.open(tmp_path / "play.zarr")
    segments = store.segments
    spans = sorted({(s.start, s.end, s.task) for s in segments})
    assert len(spans) == 8 and store.num_episodes == 1
    for start, end, task in spans:
        texts = {s.instruction for s in segments if (s.start, s.end) == (start, end)}
        assert texts == set(instructions(task.split("/")[1]))
        assert 0 <= start < end <= store.num_steps
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    run(config(tmp_path / "few.zarr", annotated=0.4))
    few = EpisodeStore.open(tmp_path / "few.zarr")
    kept = {(s.start, s.end, s.task) for s in few.segments}
    assert kept < set(spans) and few.num_steps == store.num_steps


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": None}, "mode=play needs a family that plays; give env=playtable"),
        ({"annotated": 1.5}, "annotated=1.5 must be at least 0 and at most 1"),
        ({"env": "playtabel"}, "playtabel"),
        ({"env": "metaworld"}, "metaworld/play"),
        ({"scenes": ["E"]}, "no scene 'E'; it has A, B, C, D"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        run(config(tmp_path / "x.zarr", **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_done_with_blocks_comes_first_more_often() -> None:
    env, drawn = PlayTask(), []
    for seed in range(40):
        env.reset(seed=seed)
        drawn.append(env.current_task)
    about_blocks = sum("block" in task for task in drawn)
    assert 20 < about_blocks < 40  # parts and lights, 8 of the 34, are always possible: not never
