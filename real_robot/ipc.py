"""The rings that join the processes of a run: who writes what for whom.

observations    control -> policy worker     every new reading that is sound
chunks          policy worker -> control     every chunk
stop_requests   daemon -> both               stop, or a fault, and why
status          control -> daemon, worker    the phase, why, and how late chunks come, every tick
heartbeat       policy worker -> daemon      that it is alive
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

from telic.real_robot.ring import SharedRing
from telic.spec import Array, ArraySpec, Interface

TEXT_BYTES = 256
_COUNT = ArraySpec(shape=(), dtype="int64")
_TEXT = ArraySpec(shape=(TEXT_BYTES,), dtype="uint8")


class StopKind(IntEnum):
    """What the daemon requests of the others."""

    STOP = 0  # somebody wants the run to end
    FAULT = 1  # something is broken


@dataclass(frozen=True, kw_only=True, slots=True)
class Ipc:
    """The rings of one run, in one process."""

    observations: SharedRing  # state, image/<camera>, t_obs_ns, episode
    chunks: SharedRing  # actions, t_obs_ns, dt_ns, episode, started_ns, finished_ns
    stop_requests: SharedRing  # kind, text
    # t_ns, phase, changes (of phase), text; delay: steps that chunks lately came too late for, -1
    # before it is known; rest_ns: when the robot came to rest, if it is; of the chunk under way,
    # chunk_t_obs_ns and by how much it is due later, chunk_shift_ns
    status: SharedRing
    heartbeat: SharedRing  # t_ns

    @classmethod
    def create(cls, robot: Interface, action_horizon: int, num_observations: int) -> Ipc:
        """Return new rings for a robot, chunks of `action_horizon` steps, and so many readings."""
        images = {f"image/{camera}": spec for camera, spec in robot.images.items()}
        actions = ArraySpec(shape=(action_horizon, *robot.action.shape))
        times = ("t_obs_ns", "dt_ns", "episode", "started_ns", "finished_ns")
        return cls(
            observations=SharedRing.create(
                {
                    "state": ArraySpec(shape=robot.state.shape),
                    "t_obs_ns": _COUNT,
                    "episode": _COUNT,
                    **images,
                },
                num_observations,
            ),
            chunks=SharedRing.create({"actions": actions, **dict.fromkeys(times, _COUNT)}, 16),
            stop_requests=SharedRing.create({"kind": _COUNT, "text": _TEXT}, 4),
            status=SharedRing.create(
                {
                    "t_ns": _COUNT,
                    "phase": _COUNT,
                    "changes": _COUNT,
                    "delay": _COUNT,
                    "rest_ns": _COUNT,
                    "chunk_t_obs_ns": _COUNT,
                    "chunk_shift_ns": _COUNT,
                    "text": _TEXT,
                },
                16,
            ),
            heartbeat=SharedRing.create({"t_ns": _COUNT}, 4),
        )

    @classmethod
    def attach(cls, descriptors: Sequence[int]) -> Ipc:
        """Return the rings whose `descriptors` another process sent."""
        names = [entry.name for entry in fields(cls)]
        return cls(**{n: SharedRing(d) for n, d in zip(names, descriptors, strict=True)})

    def descriptors(self) -> tuple[int, ...]:
        """Return the file descriptors from which `attach` makes these rings."""
        return tuple(getattr(self, entry.name).descriptor for entry in fields(self))

    def close(self) -> None:
        """Give this process's hold on all rings back."""
        for entry in fields(self):
            getattr(self, entry.name).close()


def encode_text(text: str) -> Array:
    """Return `text` as u8 [TEXT_BYTES], cut off where it is longer."""
    data = text.encode(errors="replace")[:TEXT_BYTES]
    return np.frombuffer(data.ljust(TEXT_BYTES, b"\0"), np.uint8)


def decode_text(data: Array) -> str:
    """Return the text that `encode_text` made."""
    return data.tobytes().rstrip(b"\0").decode(errors="replace")
