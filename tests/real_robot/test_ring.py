"""The ring against an in-memory model, and against a reader and a writer in two real processes."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telic.real_robot.channel import Channel, ChannelClosedError
from telic.real_robot.ring import SharedRing
from telic.spec import Array, ArraySpec
from telic.tests.real_robot.writing import WIDE, filled, keep_writing


def assert_whole(record: dict[str, Array], number: int) -> None:
    for name, value in filled(number).items():
        assert (record[name] == value).all(), f"record {number} is torn in {name}"


@given(capacity=st.integers(1, 5), writes=st.integers(0, 12))
@settings(deadline=None)
def test_the_ring_is_the_last_records_that_were_written(capacity: int, writes: int) -> None:
    ring = SharedRing.create(WIDE, capacity)
    reader = SharedRing(os.dup(ring.descriptor))
    for number in range(writes):
        assert ring.write(filled(number)) == number
    for number in range(-1, writes + 2):
        record = reader.read(number)
        assert (record is not None) == (max(0, writes - capacity) <= number < writes)
        if record is not None:
            assert_whole(record, number)
    newest = reader.newest()
    assert (newest is None) == (writes == 0)
    assert newest is None or newest[0] == writes - 1
    assert reader.fields == WIDE and reader.written == writes
    ring.close()
    reader.close()


def test_a_copy_does_not_change_when_the_slot_does() -> None:
    ring = SharedRing.create(WIDE, 1)
    ring.write(filled(0))
    record = ring.read(0)
    ring.write(filled(1))
    assert record is not None
    assert_whole(record, 0)
    assert ring.read(0) is None


def test_some_fields_can_be_read_alone() -> None:
    ring = SharedRing.create(WIDE, 2)
    ring.write(filled(3))
    assert ring.read(0, ["stamp"]) == {"stamp": 3}


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("state", np.zeros(6, np.float32), r"'state': got float32\[6\], expected float32\[7\]"),
        ("state", np.zeros(7), r"'state': got float64\[7\], expected float32\[7\]"),
        ("stamp", np.zeros(1, np.int64), r"'stamp': got int64\[1\], expected int64\[\]"),
    ],
)
def test_a_record_of_another_shape_is_refused_and_leaves_the_ring_as_it_was(
    name: str, value: Array, complaint: str
) -> None:
    ring = SharedRing.create(WIDE, 2)
    ring.write(filled(0))
    with pytest.raises(ValueError, match=complaint):
        ring.write(filled(1) | {name: value})
    assert ring.written == 1
    ring.write(filled(1))
    newest = ring.newest()
    assert newest is not None
    assert_whole(newest[1], 1)


def test_free_sizes_and_empty_rings_are_refused() -> None:
    with pytest.raises(ValueError, match="no size is free"):
        SharedRing.create({"image": ArraySpec(shape=(None, 4, 3), dtype="uint8")}, 4)
    with pytest.raises(ValueError, match="0 records"):
        SharedRing.create(WIDE, 0)


def test_a_record_half_written_is_not_there() -> None:
    ring = SharedRing.create(WIDE, 2)
    ring.write(filled(0))
    ring._sequence[1] = 2 * 1 + 1  # where a writer that was killed leaves the slot of record 1
    assert ring.read(1) is None
    newest = ring.newest()
    assert newest is not None and newest[0] == 0
    assert ring.write(filled(1)) == 1  # the next writer takes the slot again
    assert ring.read(1) is not None


@contextmanager
def writer_process(ring: SharedRing) -> Iterator[multiprocessing.process.BaseProcess]:
    ours, theirs = Channel.pair()
    process = multiprocessing.get_context("spawn").Process(target=keep_writing, args=(theirs,))
    process.start()
    ours.send({}, (ring.descriptor,))
    give_up = time.monotonic() + 20
    first = ring.written
    while ring.written == first and time.monotonic() < give_up:
        time.sleep(0.001)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def test_no_torn_read_gets_through_and_a_killed_writer_leaves_the_ring_readable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = SharedRing.create(WIDE, 2)  # small, so that readers are overtaken all the time
    with writer_process(ring) as process:
        whole = overtaken = 0
        give_up = time.monotonic() + 30
        while (whole < 1000 or not overtaken) and time.monotonic() < give_up:
            number = ring.written - 1
            record = ring.read(number)
            if record is None:
                overtaken += 1
            else:
                assert_whole(record, number)
                whole += 1
        found = ring.newest()
        assert found is not None
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert whole >= 1000
    assert overtaken > 0, "the writer never overtook the reader: the test shows nothing"
    found = ring.newest()
    assert found is not None
    assert_whole(found[1], found[0])
    with writer_process(ring):  # another writer goes on where the killed one stopped
        assert ring.written > found[0] + 1


def test_a_channel_carries_messages_and_says_when_the_other_end_is_gone() -> None:
    ours, theirs = Channel.pair()
    ours.send({"text": "x" * 100_000})
    ours.send({"second": 2})
    assert theirs.receive(1.0) == ({"text": "x" * 100_000}, [])
    assert theirs.receive(1.0) == ({"second": 2}, [])
    with pytest.raises(TimeoutError):
        theirs.receive(0.01)
    ours.close()
    with pytest.raises(ChannelClosedError):
        theirs.receive(1.0)
    with pytest.raises(ChannelClosedError):
        theirs.send({})


def test_rings_have_no_name_that_could_be_left_behind() -> None:
    ring = SharedRing.create(WIDE, 4)
    assert os.fstat(ring.descriptor).st_nlink == 0
    ring.close()
