"""What `train-policy` begins from: a new policy, or another's weights, and its anchors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from telic.datasets.store import EpisodeStore
from telic.datasets.unified import robots_of, unified_stats
from telic.datasets.windows import Windows
from telic.embodiment import Space, unified_interface
from telic.policy.finetune import StartingPoint
from telic.policy.objectives.anchors import AnchorSet, build_anchors
from telic.policy.policy import Policy
from telic.training.anchors import chunk_batches, describe
from telic.training.config import TrainConfig
from telic.training.data import prime_embeddings


def new_policy(config: TrainConfig, windows: Windows, resuming: bool) -> tuple[Policy, list[str]]:
    """Return the policy before its first step, and lines that say what it begins from.

    Where `resuming`, all that a checkpoint holds is left to it. ValueError on bad input.
    """
    stores = windows.stores
    given = _given_anchors(config)
    start = None if config.init_from is None else StartingPoint(config.init_from)
    policy = _policy(config, stores[: len(config.data.stores)], start)
    said = [] if start is None else start.load_into(policy)
    prime_embeddings(policy, stores)
    if resuming or (given is None and start is not None and start.config.anchors.on):
        return policy, said
    anchors = _use_anchors(policy, given, windows, config.seed)
    if anchors is not None and policy.truncated is not None:
        said.append(f"{describe(anchors)}; sigma_trunc {policy.truncated.sigma_trunc:.4g}")
    return policy, said


def _policy(
    config: TrainConfig, stores: Sequence[EpisodeStore], start: StartingPoint | None
) -> Policy:
    """Return the untrained policy: for the stores' one robot, or in the unified space for all."""
    own = config.policy.space is Space.own
    robots = {} if own else robots_of(stores)
    interface = stores[0].interface if own else unified_interface(robots)
    stats = stores[0].stats if own else unified_stats(stores)
    if start is not None:
        stats = start.stats(config.policy, interface, stats)
    return Policy(config.policy, interface, stats, robots)


def _given_anchors(config: TrainConfig) -> AnchorSet | None:
    """Return the anchors of the file that the policy names, if it does, and set their number."""
    wanted = config.policy.anchors
    if wanted.file is None:
        return None
    given = AnchorSet.load(Path(wanted.file))
    if wanted.count > len(given.chunks):
        raise ValueError(
            f"policy.anchors.count={wanted.count} asks for more anchors than {wanted.file} has "
            f"({len(given.chunks)}); leave count out, or build more"
        )
    wanted.count = wanted.count or len(given.chunks)
    return given


def _use_anchors(
    policy: Policy, given: AnchorSet | None, windows: Windows, seed: int
) -> AnchorSet | None:
    """Give the policy its anchors, clustered now unless there are some; return them."""
    truncated = policy.truncated
    if truncated is None:
        return None
    anchors = given or build_anchors(
        chunk_batches(windows, seed),
        len(truncated.chunks),
        policy.action_normalizer,
        truncated.columns.numpy(),
        seed,
    )
    try:
        policy.use_anchors(anchors)
    except ValueError as error:
        if given is None:
            raise
        file = policy.config.anchors.file
        raise ValueError(f"policy.anchors.file={file}: {error}") from error
    return anchors
