"""Records for tests of the ring, and a process that writes them as fast as it can."""

import numpy as np

from telic.real_robot.channel import Channel
from telic.real_robot.ring import SharedRing
from telic.spec import Array, ArraySpec

WIDE = {
    "stamp": ArraySpec(shape=(), dtype="int64"),
    "state": ArraySpec(shape=(7,)),
    "image/front": ArraySpec(shape=(48, 64, 3), dtype="uint8"),
    "check": ArraySpec(shape=(2,), dtype="float64"),
}


def filled(number: int) -> dict[str, Array | int]:
    """Return a record whose every entry tells its number."""
    return {
        "stamp": number,
        "state": np.full(7, number % 1024, np.float32),
        "image/front": np.full((48, 64, 3), number % 256, np.uint8),
        "check": np.full(2, number, np.float64),
    }


def keep_writing(channel: Channel) -> None:
    """Write records as fast as possible until killed."""
    _, (descriptor,) = channel.receive()
    ring = SharedRing(descriptor)
    number = ring.written
    while True:
        ring.write(filled(number))
        number += 1
