"""A reader's death comes up where a batch is asked for, never in the middle of a step."""

import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from telic.training.readers import ReaderDied, read


def _killed(loader_pid: int) -> None:
    os.kill(loader_pid, signal.SIGKILL)
    time.sleep(0.3)  # SIGCHLD is handled here, between two batches


def _child() -> int:
    return int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1])


def test_a_death_between_two_batches_is_told_at_the_next() -> None:
    batches = read(DataLoader(list(range(1000)), batch_size=2, num_workers=1))  # type: ignore[arg-type]
    assert next(batches).tolist() == [0, 1]
    _killed(_child())
    with pytest.raises(ReaderDied, match=r"worker \(pid.* is killed by signal: Killed"):
        next(batches)
    assert next(batches, None) is None


def test_batches_without_readers_come_as_from_the_loader() -> None:
    loader = DataLoader(list(range(7)), batch_size=3)  # type: ignore[arg-type]
    assert [b.tolist() for b in read(loader)] == [b.tolist() for b in loader]


def test_an_error_of_the_data_is_not_taken_for_a_death() -> None:
    class Broken:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            raise RuntimeError("row 0 is broken")

    with pytest.raises(RuntimeError, match="row 0 is broken") as error:
        next(read(DataLoader(Broken(), num_workers=1)))  # type: ignore[arg-type]
    assert type(error.value) is RuntimeError
