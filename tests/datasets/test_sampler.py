"""Orders are functions of (seed, epoch): resumable anywhere, the same over any number of ranks."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telic.datasets.sampler import BatchSampler


@given(
    num_windows=st.integers(1, 60),
    batch_size=st.integers(1, 16),
    position=st.integers(0, 30),
    seed=st.integers(0, 5),
)
def test_it_resumes_at_any_batch(
    num_windows: int, batch_size: int, position: int, seed: int
) -> None:
    through = list(islice(BatchSampler(num_windows, batch_size, seed), position + 3))
    resumed = BatchSampler(num_windows, batch_size, seed, position=position)
    for expected, got in zip(through[position:], resumed, strict=False):
        np.testing.assert_array_equal(got, expected)


@given(
    num_windows=st.integers(1, 60),
    per_rank=st.integers(1, 8),
    world_size=st.integers(1, 4),
)
def test_ranks_share_one_global_batch(num_windows: int, per_rank: int, world_size: int) -> None:
    whole = BatchSampler(num_windows, per_rank * world_size, seed=2)
    ranks = [BatchSampler(num_windows, per_rank, 2, rank, world_size) for rank in range(world_size)]
    for batch, *parts in islice(zip(whole, *ranks, strict=True), 6):
        np.testing.assert_array_equal(np.concatenate(parts), batch)


@given(num_windows=st.integers(1, 50), batch_size=st.integers(1, 20))
def test_every_window_comes_once_an_epoch(num_windows: int, batch_size: int) -> None:
    batches = islice(BatchSampler(num_windows, batch_size, seed=0), 3 * num_windows)
    stream = np.concatenate(list(batches))[: 3 * num_windows]
    for epoch, seen in enumerate(stream.reshape(3, num_windows)):
        np.testing.assert_array_equal(np.sort(seen), np.arange(num_windows) + epoch * num_windows)


@given(
    num_windows=st.integers(1, 60),
    per_rank=st.integers(1, 8),
    world_size=st.integers(1, 3),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    position=st.integers(0, 20),
    data=st.data(),
)
def test_favoured_windows_have_their_share(
    num_windows: int,
    per_rank: int,
    world_size: int,
    share: float,
    position: int,
    data: st.DataObject,
) -> None:
    favoured = np.flatnonzero(
        data.draw(st.lists(st.booleans(), min_size=num_windows, max_size=num_windows).filter(any))
    )
    few = {"favoured": favoured, "share": share}
    size = per_rank * world_size
    whole = BatchSampler(num_windows, size, 2, **few)
    ranks = [
        BatchSampler(num_windows, per_rank, 2, r, world_size, **few) for r in range(world_size)
    ]
    batches = [whole.at(p) for p in range(position + 1)]
    parts = [rank.at(position) for rank in ranks]
    np.testing.assert_array_equal(np.concatenate(parts), batches[-1])
    stream = np.concatenate(batches)
    drawn_apart = int(len(stream) * share)
    rows = np.arange(1, len(stream) + 1)
    apart = np.diff(np.floor(rows * share), prepend=0) > 0
    assert apart.sum() == drawn_apart
    assert np.isin(stream[apart] % num_windows, favoured).all()
    for windows, rows_of in ((favoured, apart), (np.arange(num_windows), ~apart)):
        seen = stream[rows_of] % num_windows
        whole_epochs = len(seen) // len(windows) * len(windows)
        for epoch in seen[:whole_epochs].reshape(-1, len(windows)):
            np.testing.assert_array_equal(np.sort(epoch), windows)


def test_epochs_and_seeds_differ() -> None:
    orders = [BatchSampler(1000, 1000, seed).at(e) % 1000 for seed in (0, 1) for e in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one != other).mean() > 0.99


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match="rank=2"):
        BatchSampler(10, 2, 0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size=0"):
        BatchSampler(10, 0, 0)
    with pytest.raises(ValueError, match=r"share=0.5 of favoured windows"):
        BatchSampler(10, 2, 0, favoured=np.empty(0, int), share=0.5)
