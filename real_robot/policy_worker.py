"""The process that thinks: newest observations in, a chunk out, over and over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from telic.policy.exported.manifest import is_exported
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.inference_config import InferenceConfig
from telic.real_robot.channel import Channel
from telic.real_robot.child import reporting
from telic.real_robot.clock import NS
from telic.real_robot.inference_scheduler import Requests, WorkerConfig
from telic.real_robot.ipc import Ipc
from telic.spec import (
    ActionChunk,
    ActRequest,
    Array,
    ChunkPolicy,
    Goal,
    GoalKinds,
    Interface,
    ManyRobots,
    Observation,
)

_POLL_S = 0.0005
_WARM_UPS = 3


def open_checkpoint(
    path: str,
    device: str = "auto",
    inference: InferenceConfig | None = None,
    threads: int = 1,
    embodiment: str | None = None,
) -> ChunkPolicy:
    """Return the policy in checkpoint directory or exported folder `path`, acting as `inference`
    says.

    embodiment: for which of the robots that it was trained for. An exported folder needs no torch.
    ValueError for a bad checkpoint, device or robot, or a choice that the policy does not allow.
    """
    if is_exported(Path(path)):
        from telic.policy.exported.opened import open_exported

        return open_exported(path, inference, threads, embodiment)
    import torch  # here, so that no other process of a run loads it

    from telic.policy.checkpoint import load_policy

    torch.set_num_threads(threads)
    inference = inference or InferenceConfig()
    inference.require_known()
    policy = load_policy(path, device)
    inference.apply(policy, f"the policy in {path}")
    if embodiment is not None:
        if not isinstance(policy, ManyRobots):
            raise ValueError(
                f"embodiment={embodiment}: the policy in {path} has one robot of its own"
            )
        policy.use_embodiment(embodiment)
    return policy


def worker_main(
    channel: Channel,
    open_policy: Callable[[], ChunkPolicy],
    config: WorkerConfig,
    goal_images: Mapping[str, Array],
) -> None:
    """Be the policy worker of the daemon at the other end of `channel`.

    The daemon says the sentence of the goal, if there is one; goal_images: its pictures.
    """
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
                "goals": asdict(GoalKinds.of(policy)),
            }
        )
        message, descriptors = channel.receive()
        text = message["goal"]
        goal = Goal(text=text, images=dict(goal_images))
        ipc = Ipc.attach(descriptors)
        # before it is known from acting on it
        unlike = None if text is None else unlike_trained(policy, text)
        latency_ns = warm_up(policy, goal)
        warnings = [text for text in (unlike, check_pace(policy, latency_ns)) if text is not None]
        note = policy.opened.note if isinstance(policy, ExportedPolicy) else None
        channel.send({"ready": latency_ns / 1e6, "warnings": warnings, "note": note})
    with reporting(channel, starting=False):
        requests = Requests(policy, goal, ipc.observations, ipc.status, config, latency_ns)
        serve(policy, requests, ipc, lambda: os.getppid() != daemon_pid)


def serve(
    policy: ChunkPolicy,
    requests: Requests,
    ipc: Ipc,
    is_orphan: Callable[[], bool] = lambda: False,
) -> None:
    """Write chunk after chunk, each from the newest observations, until ordered to stop."""
    while not ipc.stop_requests.written and not is_orphan():
        ipc.heartbeat.write({"t_ns": time.monotonic_ns()})
        request = requests.next()
        if request is None:
            time.sleep(_POLL_S)
            continue
        started_ns = time.monotonic_ns()
        chunk = policy.act_batch([request])[0]
        finished_ns = time.monotonic_ns()
        ipc.chunks.write(chunk_record(chunk, request.episode, started_ns, finished_ns))
        requests.answered(request, chunk, finished_ns)


def unlike_trained(policy: ChunkPolicy, sentence: str) -> str | None:
    """Return how far `sentence` is from those that the policy was trained on; None: it is one."""
    if not hasattr(policy, "known_embeddings"):
        return None
    from telic.policy.encoders.nearest_sentence import nearest_sentence

    nearest = nearest_sentence(policy, sentence)
    return None if nearest is None else str(nearest)


def warm_up(policy: ChunkPolicy, goal: Goal) -> int:
    """Have the policy act on made-up observations; return the fastest time in nanoseconds.

    The first call loads, compiles and allocates, which must not happen under control. The others go
    on from a chunk, as nearly all do there, and are timed.
    """
    rng = np.random.default_rng(0)
    fastest_ns = 2**62
    prefix: Array | None = None
    for _ in range(_WARM_UPS):
        state = np.stack([_sample(policy.interface, rng) for _ in range(policy.obs_horizon)])
        images = {
            camera: np.stack([spec.sample(rng) for _ in range(policy.obs_horizon)])
            for camera, spec in policy.interface.images.items()
        }
        began_ns = time.monotonic_ns()
        request = ActRequest(
            observation=Observation(state=state, images=images),
            goal=goal,
            prefix=prefix,
            inference_delay=0 if prefix is None else min(1, len(prefix)),
        )
        chunk = policy.act_batch([request])[0]
        if prefix is not None:
            fastest_ns = min(fastest_ns, time.monotonic_ns() - began_ns)
        prefix = chunk.actions[1:]
    return fastest_ns


def check_pace(policy: ChunkPolicy, latency_ns: int) -> str | None:
    """Return a warning if chunks will run out before the next one is there, or None.

    The next one is asked for when the last one has come, so a chunk must last for twice the
    latency. Raises ValueError where even the first chunk's every step comes too late.
    """
    lasts_ns = (policy.action_horizon - 1) * NS / policy.interface.rate_hz
    text = (
        f"a chunk takes {latency_ns / 1e6:.0f} ms, but its {policy.action_horizon} actions at "
        f"{policy.interface.rate_hz:g} Hz are over after {lasts_ns / 1e6:.0f} ms"
    )
    advice = "use fewer denoising steps, a faster device or a longer chunk"
    if latency_ns >= lasts_ns:
        raise ValueError(f"{text}: every one would come too late; {advice}")
    if 2 * latency_ns > lasts_ns:
        return f"{text}: the robot will hold between chunks; {advice}"
    return None


def _sample(interface: Interface, rng: np.random.Generator) -> Array:
    return replace(interface.state, minimum=None, maximum=None).sample(rng)


def chunk_record(
    chunk: ActionChunk, episode: int, started_ns: int, finished_ns: int
) -> dict[str, Array | int]:
    """Return what the ring `chunks` holds of a chunk."""
    return {
        "actions": chunk.actions,
        "t_obs_ns": chunk.t_obs_ns,
        "dt_ns": chunk.dt_ns,
        "episode": episode,
        "started_ns": started_ns,
        "finished_ns": finished_ns,
    }
