"""A store against an in-memory model, through kills at any point of a write.

Python reports every open, rename, truncation and removal of a file to audit hooks, which is where
the disk changes. Three ways to be killed there: a copy of the folder taken at each such point of
one operation (exactly what a killed writer would have left), a child process that really gets
SIGKILL at a random one, and a disk that refuses.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telic.datasets.store import EpisodeStore, Segment
from telic.spec import Array, ArraySpec

FIELDS = {
    "state": ArraySpec(shape=(600,)),  # 109 steps a file: episodes cross files
    "action": ArraySpec(shape=(2,)),
    "image/front": ArraySpec(shape=(3, 3, 3), dtype="uint8"),
}
SENTENCES = ["open", "close", "push the red block", "stack"]
EVENTS = {"open", "os.rename", "os.truncate", "os.remove", "os.mkdir", "os.rmdir"}
watchers: list[Callable[[], None]] = []


def _watch(event: str, told: tuple[Any, ...]) -> None:
    if not watchers or event not in EVENTS:
        return
    if event == "open" and told[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) == 0:
        return  # to read
    watchers[0]()


sys.addaudithook(_watch)


@contextmanager
def watching(watcher: Callable[[], None]) -> Iterator[None]:
    """Call `watcher` before each change of the disk."""
    watchers.append(watcher)
    try:
        yield
    finally:
        watchers.clear()


@dataclass(frozen=True, eq=False)
class Entry:
    """One episode of the model; no other is the same."""

    data: dict[str, Array]
    segments: tuple[Segment, ...]


def draw_entry(steps: int, seed: int) -> Entry:
    rng = np.random.default_rng(seed)
    data: dict[str, Array] = {
        "state": rng.normal(size=(steps, 600)).astype(np.float32),
        "action": rng.normal(size=(steps, 2)).astype(np.float32),
        "image/front": rng.integers(0, 256, (steps, 3, 3, 3)).astype(np.uint8),
    }
    segments = []
    for _ in range(int(rng.integers(0, 4))):
        start = int(rng.integers(0, steps))
        stop = int(rng.integers(start, steps)) + 1
        sentence = str(rng.choice(SENTENCES))
        segments.append(Segment(start=start, end=stop, instruction=sentence, task=sentence[:4]))
    return Entry(data, tuple(segments))


@lru_cache(maxsize=16)
def moments(model: tuple[Entry, ...]) -> tuple[Array, Array]:
    """Return the mean and the 1 % quantile of all states, each [600]."""
    joined = np.concatenate([entry.data["state"] for entry in model]).astype(float)
    return joined.mean(0), np.quantile(joined, 0.01, 0)


def check(path: Path, mode: Any, model: list[Entry]) -> None:
    """Assert that the store at `path` holds the model, in all it tells."""
    with EpisodeStore.open(path, mode) as store:
        assert store.num_episodes == len(model)
        for episode, entry in zip(store, model, strict=True):
            for name in FIELDS:
                np.testing.assert_array_equal(episode[name], entry.data[name])
            assert [
                Segment(start=s.start, end=s.end, instruction=s.instruction, task=s.task)
                for s in episode.segments
            ] == list(entry.segments)
        used = dict.fromkeys(s.instruction for entry in model for s in entry.segments)
        assert store.instructions == list(used)
        if model:
            mean, q01 = moments(tuple(model))
            steps, stats = sum(len(entry.data["state"]) for entry in model), store.stats
            np.testing.assert_allclose(stats["state"].mean, mean, atol=1e-12)
            np.testing.assert_allclose(stats["state"].q01, q01)
            assert stats["image/front"].count == steps * 9 or steps > 32
        if mode == "a":  # nothing is left beyond the last end
            for name, rows in (
                ("data/state", store.num_steps),
                ("meta/stats/action", len(model)),
                ("meta/instructions", len(used)),
            ):
                assert zarr.open_array(path, path=name, mode="r").shape[0] == rows
            assert not list(path.rglob("*.partial"))


def _copy_if_there(source: str, target: str) -> None:
    """Copy a file, unless one of zarr's threads renames it meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def snapshots(
    path: Path, into: Path, operation: Callable[[], object], every: int = 1
) -> Iterator[Path]:
    """Run `operation` and yield copies of `path` as each kill point would have left it."""
    count = 0

    def take() -> None:
        nonlocal count
        watchers.clear()  # copying is not a kill point
        if path.exists() and count % every == 0:
            shutil.copytree(path, into / str(count), copy_function=_copy_if_there)
        count += 1
        watchers.append(take)

    with watching(take):
        operation()
    assert count >= 5
    for i in range(0, count, every):
        if (into / str(i)).exists():
            yield into / str(i)
            shutil.rmtree(into / str(i))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore.create(tmp_path / "s.zarr", FIELDS, rate_hz=10) as made:
        yield made


@pytest.mark.parametrize("steps", [7, 230])
def test_killed_anywhere_in_an_append(store: EpisodeStore, tmp_path: Path, steps: int) -> None:
    model = [draw_entry(90, 1), draw_entry(5, 3)]
    for entry in model:
        store.append(entry.data, entry.segments)
    segments = [
        Segment(start=0, end=1, instruction="never said before", task="new"),
        Segment(start=1, end=steps, instruction="open"),
    ]
    new = Entry(draw_entry(steps, 2).data, tuple(segments))
    outcomes = set()
    for path in snapshots(store.path, tmp_path, lambda: store.append(new.data, new.segments)):
        after = [*model, new][: EpisodeStore.open(path).num_episodes]
        outcomes.add(len(after))
        check(path, "r", after)
        check(path, "a", after)
        with EpisodeStore.open(path, "a") as again:
            again.append(model[0].data, model[0].segments)
        check(path, "r", [*after, model[0]])
    assert outcomes == {2}  # the commit is the last thing an append does to the disk
    check(store.path, "r", [*model, new])


def test_killed_anywhere_in_a_truncation(store: EpisodeStore, tmp_path: Path) -> None:
    model = [draw_entry(n, n) for n in (90, 150, 40, 110)]
    for entry in model:
        store.append(entry.data, entry.segments)
    outcomes = set()
    for path in snapshots(store.path, tmp_path, lambda: store.truncate(1)):
        after = model[: EpisodeStore.open(path).num_episodes]
        outcomes.add(len(after))
        check(path, "r", after)
        with EpisodeStore.open(path, "a") as again:
            again.append(model[2].data, model[2].segments)
        check(path, "r", [*after, model[2]])
    assert outcomes == {1, 4}


def test_killed_anywhere_in_writing_embeddings(store: EpisodeStore, tmp_path: Path) -> None:
    segments = [Segment(start=0, end=2, instruction=s) for s in SENTENCES]
    store.append(draw_entry(3, 0).data, segments)
    old, new = np.eye(4, 8), np.ones((4, 8))
    before = dict(zip(SENTENCES, old.tolist(), strict=True))
    after = dict(zip(SENTENCES, new.tolist(), strict=True))
    store.write_embeddings("encoder", old)
    for path in snapshots(store.path, tmp_path, lambda: store.write_embeddings("encoder", new)):
        vectors = EpisodeStore.open(path).read_embeddings("encoder")
        assert {s: v.tolist() for s, v in vectors.items()} in (before, after)


def test_killed_anywhere_in_a_creation(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (tmp_path / "copies").mkdir()

    def create() -> None:
        EpisodeStore.create(folder / "s.zarr", FIELDS, rate_hz=10).close()

    for path in snapshots(folder, tmp_path / "copies", create, every=4):
        if (path / "s.zarr").exists():
            check(path / "s.zarr", "a", [])
        EpisodeStore.create(path / "s.zarr", FIELDS, rate_hz=10, overwrite=True).close()
        assert [p.name for p in path.iterdir()] == ["s.zarr"]


def test_bytes_beyond_the_end_do_not_matter(make_old_store: Callable[..., Path]) -> None:
    """What a kill within a write left in the stores that were written in place."""
    entry = draw_entry(90, 1)
    path = make_old_store(FIELDS)
    with EpisodeStore.open(path, "a") as store:
        store.append(entry.data, entry.segments)
    for name, row in (("state", 2400), ("action", 8), ("image/front", 27)):
        for file in (path / "data" / name).glob("c.*"):
            with file.open("r+b") as f:
                f.seek(90 * row)
                f.write(b"\xff" * 19 * row)
    check(path, "r", [entry])
    with EpisodeStore.open(path, "a") as store:
        store.append(entry.data, entry.segments)
    check(path, "r", [entry, entry])


def test_a_disk_that_refuses_ends_in_one_line(store: EpisodeStore) -> None:
    entry, large = draw_entry(100, 1), draw_entry(400, 2)
    store.append(entry.data, entry.segments)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a file holds 261 600 bytes
    try:
        with pytest.raises(ValueError) as caught:
            store.append(large.data, large.segments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "File too large while writing episode 1; 1 episodes (100 steps) are kept; make room" in (
        str(caught.value)
    )
    assert store.segments == store.segments_of(0)
    check(store.path, "r", [entry])
    store.append(large.data, large.segments)
    check(store.path, "r", [entry, large])


class StoreMachine(RuleBasedStateMachine):
    """Random appends, truncations, kills and re-opens against a list of entries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = EpisodeStore.create(self.folder / "s.zarr", FIELDS, rate_hz=10)
        self.model: list[Entry] = []

    @rule(steps=st.integers(1, 260), seed=st.integers(0, 2**31))
    def append(self, steps: int, seed: int) -> None:
        entry = draw_entry(steps, seed)
        assert self.store.append(entry.data, entry.segments) == len(self.model)
        self.model.append(entry)

    @rule(seed=st.integers(0, 2**31), step=st.integers(0, 9))
    def append_nan(self, seed: int, step: int) -> None:
        entry = draw_entry(10, seed)
        entry.data["state"][step, 5] = np.nan
        with pytest.raises(ValueError, match=f"state step {step} entry 5 is nan"):
            self.store.append(entry.data, entry.segments)

    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        keep = round(share * len(self.model))
        self.store.truncate(keep)
        del self.model[keep:]

    @rule(mode=st.sampled_from(["r", "a"]))
    def reopen(self, mode: Any) -> None:
        self.store.close()
        check(self.store.path, mode, self.model)
        self.store = EpisodeStore.open(self.store.path, "a")

    @rule(steps=st.integers(1, 260), seed=st.integers(0, 2**31), after=st.integers(0, 60))
    def killed_append(self, steps: int, seed: int, after: int) -> None:
        entry = draw_entry(steps, seed)
        if self._killed(lambda store: store.append(entry.data, entry.segments), after):
            self.model.append(entry)

    @rule(share=st.floats(0, 1), after=st.integers(0, 40))
    def killed_truncation(self, share: float, after: int) -> None:
        keep = round(share * len(self.model))
        self._killed(lambda store: store.truncate(keep), after)
        assert self.store.num_episodes in (keep, len(self.model))
        del self.model[self.store.num_episodes :]

    @invariant()
    def holds_the_model(self) -> None:
        assert self.store.num_episodes == len(self.model)
        assert self.store.num_steps == sum(len(e.data["state"]) for e in self.model)

    def teardown(self) -> None:
        self.store.close()
        check(self.store.path, "r", self.model)
        check(self.store.path, "a", self.model)
        shutil.rmtree(self.folder)

    def _killed(self, operation: Callable[[EpisodeStore], object], after: int) -> bool:
        """Run `operation` in a child that is killed at its `after`-th change of the disk, open
        the store again and return whether the child came through."""
        self.store.close()
        child = os.fork()
        if not child:
            left = after

            def count_down() -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                with EpisodeStore.open(self.store.path, "a") as store, watching(count_down):
                    operation(store)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.store = EpisodeStore.open(self.store.path, "a")
        return os.WIFEXITED(status)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
