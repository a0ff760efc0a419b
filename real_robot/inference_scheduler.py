"""When the policy is asked for a chunk, and from which observations."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from telic.ranges import require_range
from telic.real_robot.clock import NS
from telic.real_robot.loop import Phase
from telic.real_robot.ring import SharedRing
from telic.spec import ActionChunk, ActRequest, Array, ChunkPolicy, Goal, Observation

_RECENT = 20  # chunks over which the delay is judged


@dataclass(kw_only=True, slots=True)
class WorkerConfig:
    """How the policy is asked."""

    # steps after which a new chunk is asked for; 1: as soon as the policy is free. It is asked for
    # earlier where the steps would run out before the next chunk is there.
    execute_horizon: int = 1
    seed: int = 0  # of the policy's noise

    def __post_init__(self) -> None:
        require_range(self, "execute_horizon", at_least=1)
        require_range(self, "seed", at_least=0, at_most=2**62)


class Requests:
    """The requests of one run: the next one, once the observations for it are there.

    `latency_ns` is how long a chunk takes as far as it is known before the run.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        goal: Goal,
        observations: SharedRing,
        status: SharedRing,
        config: WorkerConfig,
        latency_ns: int = 0,
    ) -> None:
        self._ring, self._goal, self._config = observations, goal, config
        self._status = status
        self._obs_horizon, self._action_horizon = policy.obs_horizon, policy.action_horizon
        self._dt_ns = round(NS / policy.interface.rate_hz)
        self._delays_ns: deque[int] = deque(maxlen=_RECENT)
        self._num_read = 0  # readings looked at
        self._episode, self._episode_ns = -1, 0
        self._latency_ns = latency_ns
        self._wait_ns = 0  # so much newer than the last chunk's beginning must an observation be
        self._last: ActionChunk | None = None  # of this episode
        self._last_ns = 0  # when it was there

    def next(self) -> ActRequest | None:
        """Return a request from the newest observations, or None while none new enough is there.

        A new episode is asked about at once.
        """
        written = self._ring.written
        if written == self._num_read:
            return None
        self._num_read = written
        window = observation_window(self._ring, self._obs_horizon, self._dt_ns)
        if window is None:
            return None
        t_obs_ns = window.observation.t_obs_ns
        if window.episode != self._episode:
            self._episode, self._episode_ns = window.episode, t_obs_ns
            self._last = None
        begin_ns = self._begin_ns()
        if begin_ns is not None and t_obs_ns < begin_ns + self._wait_ns:
            return None
        prefix = self._prefix(t_obs_ns, begin_ns)
        return ActRequest(
            observation=window.observation,
            goal=self._goal,
            episode=window.episode,
            seed=self._config.seed + window.episode,
            step=round((t_obs_ns - self._episode_ns) / self._dt_ns),
            prefix=prefix,
            inference_delay=0 if prefix is None else min(self._delay(), len(prefix)),
        )

    def _begin_ns(self) -> int | None:
        """Return when the first action of the last chunk is due, None where there is no such chunk.

        One that finds the robot at rest goes on, when it comes, from where the robot came to rest.
        """
        if self._last is None:
            return None
        newest, t_obs_ns = self._status.newest(), self._last.t_obs_ns
        if newest is None:
            return t_obs_ns
        status = newest[1]
        if status["chunk_t_obs_ns"] == t_obs_ns:
            return t_obs_ns + int(status["chunk_shift_ns"])
        is_on_its_way = status["t_ns"] <= self._last_ns
        if status["phase"] != Phase.ACTIVE and is_on_its_way:
            done = max(0, math.ceil((int(status["rest_ns"]) - t_obs_ns) / self._dt_ns))
            return self._last_ns - done * self._dt_ns
        return t_obs_ns

    def _prefix(self, t_obs_ns: int, begin_ns: int | None) -> Array | None:
        """Return what is left of the last chunk, None where the loop has had it and holds."""
        if self._last is None or begin_ns is None:
            return None
        newest = self._status.newest()
        if newest is not None:
            status = newest[1]
            if status["phase"] != Phase.ACTIVE and status["t_ns"] > self._last_ns:
                return None
        return remainder(self._last, t_obs_ns - begin_ns)

    def _delay(self) -> int:
        """Return how many steps of a chunk the loop has lately had to drop at most."""
        newest = self._status.newest()
        delay = -1 if newest is None else int(newest[1]["delay"])
        return math.ceil(self._latency_ns / self._dt_ns) if delay < 0 else delay

    def answered(self, request: ActRequest, chunk: ActionChunk, finished_ns: int) -> None:
        """Note the chunk for `request` and when it was there; both decide about the next one.

        How long it took counts where it went on from one before: a first call may load and compile.
        """
        self._last, self._last_ns = chunk, finished_ns
        if request.prefix is not None:
            self._delays_ns.append(finished_ns - request.observation.t_obs_ns)
        self._wait_ns = wait_for_observation_ns(
            self._action_horizon,
            self._config.execute_horizon,
            self._dt_ns,
            max(self._delays_ns, default=self._latency_ns),
        )


def remainder(chunk: ActionChunk, elapsed_ns: int) -> Array | None:
    """Return the actions of a chunk that are due `elapsed_ns` after its first one or later.

    None where none is left. Times are rounded to steps.
    """
    rest = chunk.actions[max(0, round(elapsed_ns / chunk.dt_ns)) :]
    return rest if len(rest) else None


def wait_for_observation_ns(
    action_horizon: int, execute_horizon: int, dt_ns: int, delay_ns: int
) -> int:
    """Return how much newer than the last one the observation for the next chunk must be.

    `execute_horizon` steps, or fewer where the last chunk would run out while the next one is
    computed; a quarter of a step less, so that an observation may come a little early.
    """
    spare_steps = action_horizon - 1 - math.ceil(delay_ns / dt_ns)
    return max(0, min(execute_horizon, spare_steps) * dt_ns - dt_ns // 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The last O observations of one episode."""

    observation: Observation
    episode: int


def observation_window(ring: SharedRing, obs_horizon: int, dt_ns: int) -> Window | None:
    """Return the newest O observations, `dt_ns` apart, or None if they were overwritten meanwhile.

    Each is the reading nearest to its time. Before the episode's first reading, that one repeats.
    """
    newest = ring.newest()
    if newest is None:
        return None
    number, record = newest
    t_obs_ns, episode = int(record["t_obs_ns"]), int(record["episode"])
    records = [record]
    nearest_ns = t_obs_ns
    for back in range(1, obs_horizon):
        wanted_ns = t_obs_ns - back * dt_ns
        number, nearest_ns = _nearest(ring, number, nearest_ns, wanted_ns, episode)
        chosen = ring.read(number)
        if chosen is None:
            return None
        records.append(chosen)
    records.reverse()
    return Window(
        observation=Observation(
            state=np.stack([r["state"] for r in records]),
            images={
                name.removeprefix("image/"): np.stack([r[name] for r in records])
                for name in record
                if name.startswith("image/")
            },
            t_obs_ns=t_obs_ns,
        ),
        episode=episode,
    )


def _nearest(
    ring: SharedRing, number: int, time_ns: int, wanted_ns: int, episode: int
) -> tuple[int, int]:
    """Return (number, time) of the record nearest to `wanted_ns`, going back from `number`."""
    while time_ns > wanted_ns:
        before: dict[str, Array] | None = ring.read(number - 1, ("t_obs_ns", "episode"))
        if before is None or before["episode"] != episode:
            break
        if abs(int(before["t_obs_ns"]) - wanted_ns) > abs(time_ns - wanted_ns):
            break
        number, time_ns = number - 1, int(before["t_obs_ns"])
    return number, time_ns
