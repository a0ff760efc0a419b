"""collect-demos: the same store whatever the workers do, and whenever it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from telic.collect import CollectConfig, EpisodeSentences, run
from telic.configs.launch import compose
from telic.datasets.store import EpisodeStore
from telic.envs import registry
from telic.envs.rollout.collection_log import CRASHED, FAILED, KEPT
from telic.envs.rollout.demos import expert_results
from telic.envs.rollout.rollout import EpisodeJob, RolloutConfig
from telic.envs.task import StateChoice

pytestmark = pytest.mark.filterwarnings("ignore:Constant")


def content(path: Path) -> dict[str, object]:
    """Return all that a store and the log beside it hold, comparable."""
    store = EpisodeStore.open(path)
    fields = {name: store.read(name, 0, store.num_steps).tobytes() for name in store.fields}
    log = path.with_name(f"{path.name}.collect.jsonl").read_text()
    return {"ends": store.episode_ends.tolist(), "said": store.segments, "log": log, **fields}


def test_two_tasks_end_to_end(tmp_path: Path, pictures: None) -> None:
    out = tmp_path / "demos.zarr"
    config = CollectConfig(
        tasks=["handle-press-v3", "reach-v3"],
        out=str(out),
        episodes_per_task=1,
        cameras=["corner4"],
        image_size=[24, 32],
        state=StateChoice.robot,
        steps_after_success=3,
        num_workers=2,
    )
    attempts = run(config)
    store = EpisodeStore.open(out)
    assert [attempt.outcome for attempt in attempts] == [KEPT, KEPT]
    labels = [store.segments_of(episode) for episode in range(2)]
    assert [{segment.task for segment in own} for own in labels] == [
        {"metaworld/handle-press-v3"},
        {"metaworld/reach-v3"},
    ]
    assert store.num_episodes == 2
    assert store.interface.state.names[-1] == "gripper_opening"
    assert store.rate_hz == 80
    for episode, attempt in zip(store, attempts, strict=True):
        assert len(episode) == attempt.steps <= 200
        assert np.diff(episode["timestamp_ns"]).tolist() == [12_500_000] * (len(episode) - 1)
        assert np.abs(episode["action"]).max() <= 1
        env = registry.make(attempt.task, state="robot", cameras=["corner4"], image_size=(24, 32))
        obs, _ = env.reset(seed=attempt.seed)
        successes = 0
        for step in range(len(episode)):  # replaying the actions repeats the episode
            assert np.array_equal(obs["state"], episode["state"][step])
            assert np.array_equal(obs["image/corner4"], episode["image/corner4"][step])
            obs, _, _, _, info = env.step(episode["action"][step])
            successes += info["success"]
        assert successes >= 1
        env.close()
    for segment in store.segments:
        assert segment.instruction in registry.entry(segment.task).instructions


TOYS = ["toy_tasks:toy/sum", "toy_tasks:toy/other"]  # the expert gives up on seed 7


@pytest.fixture
def whole(tmp_path: Path, toy: str) -> dict[str, object]:
    """Return the content of an undisturbed collection, made in-process."""
    out = tmp_path / "whole.zarr"
    run(CollectConfig(tasks=TOYS, out=str(out), episodes_per_task=7, num_workers=0))
    return content(out)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing_but_the_time(
    tmp_path: Path, whole: dict[str, object], num_workers: int
) -> None:
    out = tmp_path / "demos.zarr"
    run(CollectConfig(tasks=TOYS, out=str(out), episodes_per_task=7, num_workers=num_workers))
    assert content(out) == whole
    outcomes = [json.loads(line)["outcome"] for line in str(whole["log"]).splitlines()[1:]]
    assert outcomes.count(KEPT) == 14
    assert outcomes.count(FAILED) == 2
    assert outcomes[-2:] == [KEPT, KEPT], "what lacks is made up for at the end"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_collection_goes_on_where_it_stopped(
    tmp_path: Path, whole: dict[str, object], stop: signal.Signals
) -> None:
    out = tmp_path / "demos.zarr"
    arguments = [f"tasks=[{','.join(TOYS)}]", f"out={out}", "episodes_per_task=7", "num_workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "telic.collect", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TOY_SLEEP_S": "0.01"},
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out.with_name("demos.zarr.collect.jsonl")
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(stop)
    _, said = process.communicate(timeout=20)
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "episodes are kept; resume=true goes on from there" in said
        assert "Traceback" not in said
    assert 0 < EpisodeStore.open(out).num_episodes < 14
    config = CollectConfig(
        tasks=TOYS, out=str(out), episodes_per_task=7, num_workers=1, resume=True
    )
    for _ in range(2):  # the second time there is nothing left to do
        run(config)
        assert content(out) == whole


def test_failures_and_crashes_are_counted(
    tmp_path: Path, toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demos.zarr"
    kept = run(CollectConfig(tasks=[toy], out=str(out), episodes_per_task=4, seed=5, num_workers=1))
    assert [a.outcome for a in kept] == [KEPT, KEPT, FAILED, KEPT, KEPT]  # seed 7 gives up
    assert "1 │       0" in capsys.readouterr().out
    config = CollectConfig(
        tasks=[toy], out=str(out), episodes_per_task=4, seed=908, max_attempts=4, num_workers=1
    )
    config.overwrite = True
    with pytest.raises(ValueError, match="0 of 4; it crashed with ZeroDivisionError"):
        run(config)
    log = out.with_name("demos.zarr.collect.jsonl").read_text().splitlines()[1:]
    reasons = [json.loads(line)["reason"] for line in log]
    assert reasons[2:] == ["worker process died of SIGKILL"] * 2
    assert [json.loads(line)["outcome"] for line in log] == [CRASHED] * 4
    config.seed, config.max_attempts = 966, 5  # 966 to 969 senses nan
    with pytest.raises(ValueError, match="1 of 4; it crashed with step 3: the observation's state"):
        run(config)
    assert EpisodeStore.open(out).num_episodes == 1


def test_too_few_successes_are_said_after_the_rest_is_written(tmp_path: Path, toy: str) -> None:
    out = tmp_path / "demos.zarr"
    config = CollectConfig(
        tasks=[toy], out=str(out), episodes_per_task=3, seed=897, max_attempts=5, num_workers=0
    )
    reason = r"too few .* 5 attempts a task: .*toy/sum has 3 of 4.*ZeroDivisionError: the toy broke"
    config.episodes_per_task = 4
    with pytest.raises(ValueError, match=reason):
        run(config)
    assert EpisodeStore.open(out).num_episodes == 3


def test_episodes_are_labelled_with_one_phrasing_or_all(tmp_path: Path, toy: str) -> None:
    said, per_episode = {}, {}
    for phrasings in EpisodeSentences:
        config = CollectConfig(
            tasks=[toy],
            out=str(tmp_path / phrasings.value),
            episodes_per_task=40,
            phrasings=phrasings,
            seed=20,
            num_workers=0,
        )
        run(config)
        store = EpisodeStore.open(config.out)
        said[phrasings] = {segment.instruction for segment in store.segments}
        per_episode[phrasings] = {len(store.segments_of(e)) for e in range(store.num_episodes)}
    assert said[EpisodeSentences.canonical] == {"add up"}
    assert said[EpisodeSentences.one] == said[EpisodeSentences.all] == {"add up", "b", "c", "d"}
    assert per_episode[EpisodeSentences.canonical] == per_episode[EpisodeSentences.one] == {1}
    assert per_episode[EpisodeSentences.all] == {4}


def test_what_is_there_is_not_lost(tmp_path: Path, toy: str) -> None:
    out = tmp_path / "demos.zarr"
    config = CollectConfig(tasks=[toy], out=str(out), episodes_per_task=1, num_workers=0)
    run(config)
    with pytest.raises(ValueError, match=r"is already there; resume=true .* overwrite=true"):
        run(config)
    config.resume, config.seed = True, 2
    with pytest.raises(ValueError, match=r"was begun with seed=1, now seed=2"):
        run(config)
    out.with_name("demos.zarr.collect.jsonl").unlink()
    with pytest.raises(ValueError, match=r"is missing, so the store .* cannot be continued"):
        run(config)
    config.resume, config.overwrite = False, True
    assert [attempt.seed for attempt in run(config)] == [2]


def test_a_store_of_another_robot_is_not_gone_on_with(tmp_path: Path, toy: str) -> None:
    out = tmp_path / "demos.zarr"
    config = CollectConfig(
        tasks=[toy], out=str(out), episodes_per_task=2, max_attempts=2, seed=899, num_workers=0
    )
    with pytest.raises(ValueError, match="has 1 of 2"):
        run(config)
    log = out.with_name("demos.zarr.collect.jsonl")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))  # 900 is still to do
    attributes = json.loads((out / "zarr.json").read_text())
    attributes["attributes"]["fields"]["action"]["maximum"] = [57.3]
    del attributes["attributes"]["digest"]  # edited on purpose
    (out / "zarr.json").write_text(json.dumps(attributes))
    config.resume = True
    with pytest.raises(ValueError, match=r"entry 0 with maximum 1, expected 57.3 by store .*demos"):
        run(config)
    assert EpisodeStore.open(out).num_episodes == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["episodes_per_task=0"], "episodes_per_task=0 must be at least 1"),
        (["image_size=[96]"], r"image_size=\[96\] must be \[height, width\]"),
        (["max_attempts=3"], "max_attempts=3 must be >= episodes_per_task=25"),
        (["env=playtable", "tasks=[mt10]"], r"contradict each other; .* tasks=\[playtable/"),
    ],
)
def test_a_config_that_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(CollectConfig, "collect", overrides)


def test_a_scene_that_is_not_there_leaves_no_store(tmp_path: Path) -> None:
    out = tmp_path / "demos.zarr"
    config = CollectConfig(env="playtable", scenes=["D", "F"], out=str(out), num_workers=0)
    with pytest.raises(ValueError, match="PlayTable has no scene 'F'; it has A, B, C, D"):
        run(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["metaworld_mt10", "metaworld_mt50", "metaworld_mt10_image"])
def test_the_recipes_compose(recipe: str) -> None:
    config = compose(CollectConfig, "collect", [f"experiment={recipe}"])
    assert len(config.plan()["tasks"]) in (10, 50)


def test_experts_are_the_ceiling() -> None:
    jobs = [EpisodeJob(task="reach-v3", seed=seed) for seed in range(3)]
    results = list(expert_results(jobs, RolloutConfig(num_workers=0, max_steps=200)))
    assert [result.seed for result in results] == [0, 1, 2]
    for result in results:
        assert result.success
        assert result.steps == result.first_success_step
