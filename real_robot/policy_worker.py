"""The process that thinks: newest observations in, a chunk out, over and over."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from telic.real_robot.channel import Channel
from telic.real_robot.child import reporting
from telic.real_robot.clock import NS
from telic.real_robot.ring import SharedRing
from telic.real_robot.wires import Wires
from telic.spec import ActionChunk, ActRequest, Array, ChunkPolicy, Goal, Interface, Observation

_POLL_S = 0.0005
_RECENT = 20  # chunks over which the delay is judged
_WARM_UPS = 3


@dataclass(kw_only=True, slots=True)
class WorkerConfig:
    """How the policy is asked."""

    # steps after which a new chunk is asked for; 1: as soon as the policy is free. It is asked for
    # earlier where the steps would run out before the next chunk is there.
    execute_horizon: int = 1
    seed: int = 0  # of the policy's noise

    def __post_init__(self) -> None:
        if self.execute_horizon < 1:
            raise ValueError(f"execute_horizon={self.execute_horizon} must be at least 1")


def open_checkpoint(
    path: str, device: str = "auto", sampling: str | None = None, threads: int = 1
) -> ChunkPolicy:
    """Return the policy in checkpoint directory `path`, with the named sampling if one is given.

    ValueError for a bad checkpoint, device or sampling, or a policy that does not sample.
    """
    import torch  # here, so that no other process of a run loads it

    from telic.policy.checkpoint import load_policy
    from telic.policy.policy import Policy
    from telic.policy.sampling import preset

    torch.set_num_threads(threads)
    chosen = None if sampling is None else preset(sampling)
    policy = load_policy(path, device)
    if chosen is not None:
        if not isinstance(policy, Policy):
            raise ValueError(f"sampling={sampling}: the policy in {path} does not denoise")
        policy.sampling = chosen
    return policy


def worker_main(
    channel: Channel, open_policy: Callable[[], ChunkPolicy], config: WorkerConfig
) -> None:
    """Be the policy worker of the daemon at the other end of `channel`."""
    daemon_pid = os.getppid()
    with reporting(channel, starting=True):
        policy = open_policy()
        if config.execute_horizon > policy.action_horizon:
            raise ValueError(
                f"execute_horizon={config.execute_horizon} must be at most the "
                f"{policy.action_horizon} actions that the policy predicts"
            )
        channel.send(
            {
                "interface": policy.interface.to_json(),
                "obs_horizon": policy.obs_horizon,
                "action_horizon": policy.action_horizon,
            }
        )
        message, descriptors = channel.receive()
        goal = Goal(text=message["goal"])
        wires = Wires.attach(descriptors)
        latency_ns = warm_up(policy, goal)
        check_pace(policy, latency_ns)
        channel.send({"ready": latency_ns / 1e6})
    with reporting(channel, starting=False):
        answer(policy, goal, wires, config, lambda: os.getppid() != daemon_pid)


def answer(
    policy: ChunkPolicy,
    goal: Goal,
    wires: Wires,
    config: WorkerConfig,
    is_orphan: Callable[[], bool] = lambda: False,
) -> None:
    """Write chunk after chunk, each from the newest observations, until ordered to stop."""
    dt_ns = round(NS / policy.interface.rate_hz)
    delays_ns: deque[int] = deque(maxlen=_RECENT)
    due_ns, episode, episode_ns, seen = 0, -1, 0, 0
    while not wires.orders.written and not is_orphan():
        wires.beats.write({"t_ns": time.monotonic_ns()})
        written = wires.observations.written
        window = None
        if written > seen:
            seen = written
            window = observation_window(wires.observations, policy.obs_horizon, dt_ns)
        if window is None or (window.observation.t_obs_ns < due_ns and window.episode == episode):
            time.sleep(_POLL_S)
            continue
        observation = window.observation
        if window.episode != episode:
            episode, episode_ns = window.episode, observation.t_obs_ns
        request = ActRequest(
            observation=observation,
            goal=goal,
            episode=episode,
            seed=config.seed + episode,
            step=round((observation.t_obs_ns - episode_ns) / dt_ns),
        )
        started_ns = time.monotonic_ns()
        chunk = policy.act_batch([request])[0]
        finished_ns = time.monotonic_ns()
        delays_ns.append(finished_ns - observation.t_obs_ns)
        wires.chunks.write(_record(chunk, episode, started_ns, finished_ns))
        due_ns = observation.t_obs_ns + steps_to_next_request_ns(
            policy.action_horizon, config.execute_horizon, dt_ns, max(delays_ns)
        )


def steps_to_next_request_ns(
    action_horizon: int, execute_horizon: int, dt_ns: int, delay_ns: int
) -> int:
    """Return how much newer than the last one the observation for the next chunk must be.

    `execute_horizon` steps, or fewer where the last chunk would run out while the next one is
    computed; a quarter less, so that an observation may come a little early.
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
    wanted = [t_obs_ns - k * dt_ns for k in range(1, obs_horizon)]
    best, best_ns = number, t_obs_ns
    for want_ns in wanted:
        while best_ns > want_ns:
            before = ring.read(best - 1, ("t_obs_ns", "episode"))
            if before is None or before["episode"] != episode:
                break
            if abs(int(before["t_obs_ns"]) - want_ns) > abs(best_ns - want_ns):
                break
            best, best_ns = best - 1, int(before["t_obs_ns"])
        chosen = ring.read(best)
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


def warm_up(policy: ChunkPolicy, goal: Goal) -> int:
    """Have the policy act on made-up observations; return the fastest time in nanoseconds.

    The first call loads, compiles and allocates, which must not happen under control.
    """
    rng = np.random.default_rng(0)
    fastest_ns = 2**62
    for _ in range(_WARM_UPS):
        state = np.stack([_sample(policy.interface, rng) for _ in range(policy.obs_horizon)])
        images = {
            camera: np.stack([spec.sample(rng) for _ in range(policy.obs_horizon)])
            for camera, spec in policy.interface.images.items()
        }
        began_ns = time.monotonic_ns()
        request = ActRequest(observation=Observation(state=state, images=images), goal=goal)
        policy.act_batch([request])
        fastest_ns = min(fastest_ns, time.monotonic_ns() - began_ns)
    return fastest_ns


def check_pace(policy: ChunkPolicy, latency_ns: int) -> None:
    """Raise ValueError if the policy is so slow that every step of a chunk comes too late."""
    lasts_ns = (policy.action_horizon - 1) * NS / policy.interface.rate_hz
    if latency_ns >= lasts_ns:
        raise ValueError(
            f"a chunk takes {latency_ns / 1e6:.0f} ms, but its {policy.action_horizon} actions at "
            f"{policy.interface.rate_hz:g} Hz are over after {lasts_ns / 1e6:.0f} ms: every one "
            "would come too late; use fewer denoising steps, a faster device or a longer chunk"
        )


def _sample(interface: Interface, rng: np.random.Generator) -> Array:
    return replace(interface.state, minimum=None, maximum=None).sample(rng)


def _record(
    chunk: ActionChunk, episode: int, started_ns: int, finished_ns: int
) -> dict[str, Array | int]:
    return {
        "actions": chunk.actions,
        "t_obs_ns": chunk.t_obs_ns,
        "dt_ns": chunk.dt_ns,
        "episode": episode,
        "started_ns": started_ns,
        "finished_ns": finished_ns,
    }
