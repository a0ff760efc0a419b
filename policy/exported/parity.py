"""How far an exported graph is from the policy that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from telic.policy.exported.formats import GraphPrecision
from telic.policy.exported.manifest import Manifest
from telic.policy.exported.policy import ExportedPolicy
from telic.policy.exported.runtimes import RUNTIMES, open_graph
from telic.policy.policy import Policy
from telic.spec import ActionChunk, ActRequest, Array, FieldStats, Goal, Observation

# largest difference that is accepted, in half ranges of an action
TOLERANCE = {
    GraphPrecision.fp32: 1e-4,
    GraphPrecision.bf16: 0.25,
    GraphPrecision.int8: 0.25,
    GraphPrecision.w8a8: 0.25,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """Differences of actions, in half ranges of each (1 is from the middle to an end).

    largest: of one number of one action; mean: over all; entry: the name of the largest one's
    entry, or its index; observations: how many; of: where they are from.
    """

    largest: float
    mean: float
    entry: str
    observations: int
    of: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"largest difference {self.largest:.2g} ({self.entry}), mean {self.mean:.2g}, in half "
            f"ranges of the actions, over {self.observations} observations ({self.of})"
        )


def compare(
    policy: Policy, folder: Path, manifest: Manifest, requests: list[ActRequest], of: str
) -> dict[str, Parity]:
    """Return, by runtime, how far the graphs in `folder` are from the policy on `requests`."""
    wanted = policy.act_batch(requests)
    scale = half_ranges(policy)
    names = policy.interface.action.names
    found = {}
    for name, runtime in RUNTIMES.items():
        if runtime.file not in manifest.files or not runtime.installed or name == "tensorrt":
            continue
        exported = ExportedPolicy(folder, manifest, open_graph(folder, manifest, name, 1))
        found[name] = _parity(wanted, exported.act_batch(requests), scale, names, of)
    return found


def _parity(
    wanted: Sequence[ActionChunk],
    got: Sequence[ActionChunk],
    scale: Array,
    names: Sequence[str],
    of: str,
) -> Parity:
    pairs = zip(wanted, got, strict=True)
    error = np.stack([abs(one.actions - other.actions) / scale for one, other in pairs])
    worst = int(np.unravel_index(int(error.argmax()), error.shape)[-1])
    return Parity(
        largest=float(error.max()),
        mean=float(error.mean()),
        entry=names[worst] if names else f"entry {worst}",
        observations=len(wanted),
        of=of,
    )


def half_ranges(policy: Policy) -> Array:
    """Return half the range of each action of the policy's robot, f32 [A]: what 1 normalised is."""
    size = policy.interface.action.shape[0] or 0
    scale: Array = policy.action_normalizer.scale.cpu().numpy()
    return scale if len(scale) == size else np.ones(size, np.float32)


def random_requests(policy: Policy, goal: str, count: int, max_delay: int) -> list[ActRequest]:
    """Return seeded requests: states within the statistics, noise for pictures, known sentences.

    Every second one has a prefix, where prefixes are fixed.
    """
    rng = np.random.default_rng(0)
    sentences = sorted(policy.known_embeddings) or [""]
    stats = policy.stats.get("state")
    action = policy.interface.action

    def picture(camera: str) -> Array:
        return policy.interface.images[camera].sample(rng)

    def request(number: int) -> ActRequest:
        states = np.stack([_state(policy, stats, rng) for _ in range(policy.obs_horizon)])
        images = {
            camera: np.stack([spec.sample(rng) for _ in range(policy.obs_horizon)])
            for camera, spec in policy.interface.images.items()
        }
        prefix, delay = None, 0
        if max_delay and number % 2:
            shape = (policy.action_horizon - 1, action.shape[0] or 0)
            prefix = rng.uniform(-1, 1, shape).astype(np.float32) * half_ranges(policy)
            delay = 1 + number % max_delay
        return ActRequest(
            observation=Observation(state=states, images=images),
            goal=goal_of(policy, goal, sentences[number % len(sentences)], states, picture),
            seed=number,
            prefix=prefix,
            inference_delay=delay,
        )

    return [request(number) for number in range(count)]


def goal_of(
    policy: Policy, kind: str, sentence: str, states: Array, picture: Callable[[str], Array]
) -> Goal:
    """Return a goal of that kind: the sentence, the last state, or each goal camera's picture."""
    if kind == "text":
        return Goal(text=sentence)
    if kind == "state":
        return Goal(state=states[-1])
    cameras = policy.conditioner.request_spec.goal_cameras
    return Goal(images={camera: picture(camera) for camera in cameras})


def _state(policy: Policy, stats: FieldStats | None, rng: np.random.Generator) -> Array:
    size = policy.interface.state.shape[0] or 0
    low, high = -np.ones(size), np.ones(size)
    if stats is not None and len(stats.minimum) == size:
        low, high = stats.minimum, stats.maximum
    return rng.uniform(low, high).astype(np.float32)
