"""Windows stay in their episode, and every draw is a function of (seed, epoch, index)."""

import copy
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from telic.datasets.goals import Hindsight, TextGoal, WindowGoalConfig, steps_ahead
from telic.datasets.layout import row_shape
from telic.datasets.prefetch import read_ahead
from telic.datasets.sampler import BatchSampler
from telic.datasets.store import EpisodeStore, Segment
from telic.datasets.windows import WindowConfig, Windows, split_episodes
from telic.spec import ArraySpec

MakeStore = Callable[..., EpisodeStore]
ANY_STEP = WindowGoalConfig(text=TextGoal.optional)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    obs_horizon=st.integers(1, 4),
    action_horizon=st.integers(1, 9),
    hindsight=st.sampled_from([Hindsight.uniform, Hindsight.geometric]),
    min_ahead=st.integers(0, 6),
    more=st.none() | st.integers(0, 8),
    memory_mb=st.sampled_from([0, 64]),
)
def test_a_window_never_leaves_its_episode(
    make_store: MakeStore,
    lengths: list[int],
    obs_horizon: int,
    action_horizon: int,
    hindsight: Hindsight,
    min_ahead: int,
    more: int | None,
    memory_mb: int,
) -> None:
    with make_store(lengths) as store:
        goal = WindowGoalConfig(
            text=TextGoal.none,
            hindsight=hindsight,
            min_ahead=min_ahead,
            max_ahead=None if more is None else min_ahead + more,
        )
        config = WindowConfig(
            obs_horizon=obs_horizon,
            action_horizon=action_horizon,
            goal=goal,
            memory_mb=memory_mb,
        )
        windows = Windows(store, config)
        assert len(windows) == sum(lengths)
        batch = windows.batch(np.arange(2 * len(windows)))
        for b, (number, step) in enumerate(zip(batch["episode"], batch["step"], strict=True)):
            episode = store.episode(int(number)).data
            last = len(episode["state"]) - 1
            seen = [max(step - back, 0) for back in reversed(range(obs_horizon))]
            done = [min(step + ahead, last) for ahead in range(action_horizon)]
            np.testing.assert_array_equal(batch["state"][b], episode["state"][seen])
            np.testing.assert_array_equal(batch["image/front"][b], episode["image/front"][seen])
            np.testing.assert_array_equal(batch["action"][b], episode["action"][done])
            assert batch["action_mask"][b].tolist() == [
                step + i <= last for i in range(action_horizon)
            ]
            ahead = batch["goal_ahead"][b]
            assert min(min_ahead, last - step) <= ahead <= last - step
            assert more is None or ahead <= min_ahead + more
            np.testing.assert_array_equal(batch["goal_state"][b], episode["state"][step + ahead])
            image = episode["image/front"][step + ahead]
            np.testing.assert_array_equal(batch["goal_image/front"][b], image)


def test_the_instruction_is_of_a_segment_that_covers_the_step(make_store: MakeStore) -> None:
    store = make_store(
        [10, 6],
        [
            [
                Segment(start=0, end=4, instruction="open"),
                Segment(start=2, end=7, instruction="close"),
            ],
            [Segment(start=3, end=6, instruction="push")],
        ],
    )
    windows = Windows(store, WindowConfig(action_horizon=2))
    where = [(0, step) for step in range(7)] + [(1, step) for step in range(3, 6)]
    epochs = [windows.batch(np.arange(10) + 10 * epoch) for epoch in range(30)]
    texts = [{batch["text"][i] for batch in epochs} for i in range(10)]
    assert list(zip(epochs[0]["episode"], epochs[0]["step"], strict=True)) == where
    assert texts[:2] == [{"open"}] * 2 and texts[2:4] == [{"open", "close"}] * 2
    assert texts[4:7] == [{"close"}] * 3 and texts[7:] == [{"push"}] * 3
    every = Windows(store, WindowConfig(goal=ANY_STEP))
    assert len(every) == 16
    assert every.batch(np.arange(7, 14))["text"] == ["", "", "", "", "", "", "push"]
    assert len(Windows(store, WindowConfig(), episodes=[1])) == 3
    bare = make_store([4], name="bare.zarr")
    with pytest.raises(ValueError, match="no labelled step: label them or set"):
        Windows(bare, WindowConfig())


def test_actions_of_a_sentence_end_with_its_segment(make_store: MakeStore) -> None:
    """As in MDT's and CALVIN's labelled windows; without a sentence they go on."""
    segments = [
        Segment(start=2, end=5, instruction="open"),
        Segment(start=5, end=8, instruction="close"),
    ]
    store = make_store([10, 3], [segments, []])
    actions = store.read("action", 0, 10)
    windows = Windows(store, WindowConfig(action_horizon=4, goal=ANY_STEP))
    batch = windows.batch(np.arange(13))
    stops = [10, 10, 5, 5, 5, 8, 8, 8, 10, 10]
    for step, stop in enumerate(stops):
        done = [min(step + ahead, stop - 1) for ahead in range(4)]
        np.testing.assert_array_equal(batch["action"][step], actions[done])
        assert batch["action_mask"][step].tolist() == [step + i < stop for i in range(4)]
    silent = WindowGoalConfig(text=TextGoal.none, hindsight=Hindsight.uniform)
    unsaid = Windows(store, WindowConfig(action_horizon=4, goal=silent)).batch(np.arange(13))
    assert unsaid["action_mask"].sum(1).tolist() == [4] * 7 + [3, 2, 1] + [3, 2, 1]


def test_of_two_segments_the_drawn_one_ends_the_actions(make_store: MakeStore) -> None:
    segments = [
        Segment(start=0, end=3, instruction="open"),
        Segment(start=0, end=6, instruction="open and close"),
    ]
    windows = Windows(make_store([8], [segments]), WindowConfig(action_horizon=8))
    batch = windows.batch(np.arange(0, 600, 6))  # step 0 of 100 epochs
    stops = {"open": 3, "open and close": 6}
    assert set(batch["text"]) == set(stops)
    assert batch["action_mask"].sum(1).tolist() == [stops[text] for text in batch["text"]]


def test_a_draw_depends_on_seed_epoch_and_index_alone(make_store: MakeStore) -> None:
    goal = WindowGoalConfig(text=TextGoal.none, hindsight=Hindsight.uniform)
    store = make_store([300])
    windows = Windows(store, WindowConfig(goal=goal), seed=3)
    whole = windows.batch(np.arange(600))["goal_ahead"]
    alone = [windows[i]["goal_ahead"] for i in (5, 305, 599)]
    assert alone == whole[[5, 305, 599]].tolist()
    other_process = copy.deepcopy(windows)
    np.testing.assert_array_equal(other_process.batch(np.arange(600))["goal_ahead"], whole)
    assert (whole[:300] != whole[300:]).mean() > 0.9  # epochs differ
    other_seed = Windows(store, WindowConfig(goal=goal), seed=4)
    assert (other_seed.batch(np.arange(600))["goal_ahead"] != whole).mean() > 0.9


def test_hindsight_follows_its_law() -> None:
    draw = (np.arange(200_000) + 0.5) / 200_000
    remaining = np.full(len(draw), 500)
    mdt = WindowGoalConfig(hindsight=Hindsight.geometric, min_ahead=31, max_ahead=60, p=0.1)
    counts = np.bincount(steps_ahead(mdt, remaining, draw), minlength=61)[31:]
    law = 0.1 * 0.9 ** np.arange(30)
    np.testing.assert_allclose(counts / len(draw), law / law.sum(), atol=1e-4)
    uniform = WindowGoalConfig(hindsight=Hindsight.uniform, min_ahead=5, max_ahead=9)
    counts = np.bincount(steps_ahead(uniform, remaining, draw))
    np.testing.assert_allclose(counts[5:] / len(draw), 0.2, atol=1e-4)


def test_stores_are_joined_in_order(make_store: MakeStore) -> None:
    stores = [make_store([5, 3], name="a.zarr"), make_store([4], name="b.zarr")]
    windows = Windows(stores, WindowConfig(goal=ANY_STEP))
    order = np.random.default_rng(0).permutation(len(windows))
    batch = windows.batch(order)
    for b, index in enumerate(order):
        where = (index >= 8, int(index >= 5 and index < 8), index % 8 % 5)
        assert (batch["store"][b], batch["episode"][b], batch["step"][b]) == where
        episode = stores[int(where[0])].episode(where[1])
        np.testing.assert_array_equal(batch["state"][b, 0], episode["state"][where[2]])
    held_out = Windows(stores, WindowConfig(goal=ANY_STEP), episodes=[[1], None])
    assert len(held_out) == 7


def test_future_frames_end_with_their_episode(make_store: MakeStore) -> None:
    store = make_store([5, 2])
    batch = Windows(store, WindowConfig(goal=ANY_STEP, future_steps=3)).batch(np.arange(7))
    pictures = [store.episode(number).data["image/front"] for number in (0, 1)]
    expected = [pictures[0][[3, 4, 4, 4, 4]], pictures[1][[1, 1]]]
    np.testing.assert_array_equal(batch["future_image/front"], np.concatenate(expected))
    assert "future_image/front" not in Windows(store, WindowConfig(goal=ANY_STEP)).batch(
        np.arange(2)
    )


def test_a_share_of_the_episodes_keeps_its_sentences(make_store: MakeStore) -> None:
    """Which ones is a function of seed and episode; more of them keep what fewer kept."""
    speech = [[Segment(start=0, end=2, instruction=f"task {i}")] for i in range(400)]
    store = make_store([2] * 400, speech)
    hindsight = WindowGoalConfig(text=TextGoal.optional, hindsight=Hindsight.uniform)

    def spoken(fraction: float, seed: int = 3, episodes: Any = None) -> set[int]:
        config = WindowConfig(goal=hindsight, language_fraction=fraction)
        windows = Windows(store, config, episodes, seed=seed)
        batch = windows.batch(np.arange(2 * len(windows)))  # two epochs
        pairs = list(zip(batch["episode"].tolist(), batch["text"], strict=True))
        told = {number for number, text in pairs if text}
        assert all(text in ("", f"task {number}") for number, text in pairs)
        assert all(text for number, text in pairs if number in told)  # whole episodes
        assert len(windows) == 2 * (400 if episodes is None else len(episodes))
        return told

    quarter, half = spoken(0.25), spoken(0.5)
    assert len(quarter) == pytest.approx(100, abs=25) and len(half) == pytest.approx(200, abs=30)
    assert quarter < half < spoken(1.0) and not spoken(0.0)
    assert spoken(0.25) == quarter != spoken(0.25, seed=4)
    assert spoken(0.25, episodes=np.arange(0, 400, 2)) == {e for e in quarter if e % 2 == 0}
    partly = Windows(store, WindowConfig(goal=hindsight, language_fraction=0.25), seed=3)
    batch = partly.batch(np.arange(len(partly)))
    carries = np.array([bool(text) for text in batch["text"]])
    np.testing.assert_array_equal(partly.labelled(), np.flatnonzero(carries))
    required = Windows(store, WindowConfig(language_fraction=0.25), seed=3)
    batch = required.batch(np.arange(len(required)))
    assert set(batch["episode"].tolist()) == quarter and all(batch["text"])


def test_videos_have_no_actions(make_store: MakeStore) -> None:
    stores = [make_store([5], name="a.zarr"), make_store([4], name="video.zarr")]
    windows = Windows(stores, WindowConfig(goal=ANY_STEP, future_steps=1), video_only=[1])
    batch = windows.batch(np.arange(9))
    assert batch["action_mask"][:5].any(1).all() and not batch["action_mask"][5:].any()
    assert np.abs(batch["action"][:5]).min() > 0 and not batch["action"][5:].any()
    pictures = stores[1].episode(0).data["image/front"]
    np.testing.assert_array_equal(batch["image/front"][5:, 0], pictures)
    np.testing.assert_array_equal(batch["future_image/front"][5:], pictures[[1, 2, 3, 3]])
    with pytest.raises(ValueError, match="at least one episode store with actions"):
        Windows(stores, WindowConfig(goal=ANY_STEP), video_only=[0, 1])
    labelled = make_store([5], [[Segment(start=0, end=5, instruction="go")]], name="told.zarr")
    with pytest.raises(ValueError, match=r"video.zarr: video only, but none of its steps is a"):
        Windows([labelled, stores[1]], WindowConfig(), video_only=[1])


def test_videos_may_lack_actions_altogether(make_store: MakeStore, tmp_path: Path) -> None:
    acting = make_store([5], name="a.zarr")
    fields = {name: spec for name, spec in acting.fields.items() if name != "action"}
    video = EpisodeStore.create(tmp_path / "video.zarr", fields, rate_hz=20)
    episode = acting.episode(0).data
    video.append({name: episode[name] for name in fields})
    windows = Windows([acting, video], WindowConfig(goal=ANY_STEP), video_only=[1])
    batch = windows.batch(np.arange(10))
    np.testing.assert_array_equal(batch["state"][:5], batch["state"][5:])
    assert batch["action"].shape == (10, 8, 2) and not batch["action"][5:].any()
    with pytest.raises(ValueError, match="action"):
        Windows([acting, video], WindowConfig(goal=ANY_STEP))


def test_bad_choices_are_one_line(make_store: MakeStore) -> None:
    store = make_store([5])
    with pytest.raises(ValueError, match="no camera 'frnt', only front; did you mean front"):
        Windows(store, WindowConfig(goal=ANY_STEP, cameras=["frnt"]))
    with pytest.raises(ValueError, match="episodes up to 1 chosen, it has 1"):
        Windows(store, WindowConfig(goal=ANY_STEP), episodes=[1])
    with pytest.raises(ValueError, match=r"no window to learn from \(empty\)"):
        Windows(make_store([], name="empty.zarr"), WindowConfig())
    for fraction in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"language_fraction=.* must lie in \[0, 1\]"):
            WindowConfig(language_fraction=fraction)
    with pytest.raises(ValueError, match=r"language_fraction=0.5 leaves windows without a goal"):
        WindowConfig(goal=ANY_STEP, language_fraction=0.5)
    told = make_store([3], [[Segment(start=0, end=3, instruction="go")]], name="told.zarr")
    with pytest.raises(ValueError, match=r"no labelled step: .*raise language_fraction=0.0"):
        Windows(told, WindowConfig(language_fraction=0.0))
    with pytest.raises(ValueError, match=r"goal.max_ahead=2 must be >= goal.min_ahead=5"):
        WindowGoalConfig(min_ahead=5, max_ahead=2)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_loader_workers_read_what_this_process_reads(
    make_store: MakeStore, start_method: str
) -> None:
    store = make_store([30, 20], [[Segment(start=0, end=n, instruction="go")] for n in (30, 20)])
    windows = Windows(store, WindowConfig(obs_horizon=2))
    sampler = BatchSampler(len(windows), 16, seed=1)
    loader: DataLoader[Any] = DataLoader(
        cast(Any, windows),
        batch_size=None,
        sampler=sampler,
        num_workers=2,
        multiprocessing_context=start_method,
    )
    for position, batch in zip(range(6), loader, strict=False):
        expected = windows.batch(BatchSampler(len(windows), 16, seed=1).at(position))
        assert batch["text"] == expected["text"]
        for name in ("state", "action", "image/front", "action_mask"):
            np.testing.assert_array_equal(batch[name].numpy(), expected[name])


def test_held_out_episodes_are_apart(make_store: MakeStore) -> None:
    store = make_store([2] * 10)
    train, held_out = split_episodes(store, 0.25, seed=0)
    assert sorted([*train, *held_out]) == list(range(10)) and len(held_out) == 2
    again = split_episodes(store, 0.25, seed=0)
    np.testing.assert_array_equal(again[1], held_out)
    assert len(split_episodes(store, 0.0, seed=0)[1]) == 0


def test_batches_read_ahead_come_in_order(make_store: MakeStore) -> None:
    windows = Windows(make_store([30, 20]), WindowConfig(goal=ANY_STEP))
    sampler = BatchSampler(len(windows), 16, seed=1, position=2)
    source = read_ahead(windows, sampler, depth=4, threads=2)
    for position in range(2, 9):
        expected = windows.batch(BatchSampler(len(windows), 16, seed=1).at(position))
        np.testing.assert_array_equal(next(source)["state"], expected["state"])
        assert sampler.position == position + 1
    source.close()


def test_a_damaged_file_is_told_where_its_batch_would_come(make_store: MakeStore) -> None:
    store = make_store([30])
    (store.path / "data/image/front/c.0.0.0.0").unlink()
    windows = Windows(store, WindowConfig(goal=ANY_STEP))
    with pytest.raises(ValueError, match=r"front/c\.0\.0\.0\.0 is missing"):
        next(read_ahead(windows, BatchSampler(len(windows), 4, seed=0)))


def test_memory_stays_flat_on_a_store_that_does_not_fit(tmp_path: Path) -> None:
    fields = {
        "state": ArraySpec(shape=(5_000,)),
        "action": ArraySpec(shape=(2,)),
        "image/front": ArraySpec(shape=(64, 64, 3), dtype="uint8"),
    }
    store = EpisodeStore.create(tmp_path / "s.zarr", fields, rate_hz=10)
    for _ in range(10):  # 32 MB
        store.append({name: np.zeros((100, *row_shape(s)), s.dtype) for name, s in fields.items()})
    windows = Windows(store, WindowConfig(goal=ANY_STEP, memory_mb=1))
    tracemalloc.start()
    for indices, _ in zip(BatchSampler(len(windows), 8, seed=0), range(250), strict=False):
        windows.batch(indices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


def test_the_benchmark_runs(repository: Path) -> None:
    script = repository / "benchmarks/windows.py"
    settings = ["--steps", "200", "--batch", "8", "--seconds", "0.05", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, script, *settings], capture_output=True, text=True, check=True
    )
    assert "2 worker processes" in done.stdout and "a thread ahead" in done.stdout
