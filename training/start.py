"""What `train-policy` begins from: a new policy, another's weights, or its own, and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from telic.datasets.store import EpisodeStore
from telic.datasets.unified import robots_of, shared_stats, unified_stats
from telic.datasets.windows import Windows
from telic.embodiment import Space, unified_interface
from telic.policy.checkpoint import LANGUAGE
from telic.policy.finetune import Finetune
from telic.policy.objectives.anchors import AnchorSet, build_anchors
from telic.policy.policy import Policy
from telic.spec import FieldStats
from telic.training.anchors import chunk_batches, describe
from telic.training.config import TrainConfig
from telic.training.data import prime_embeddings
from telic.training.resume import Resumed


def resumed_policy(config: TrainConfig, windows: Windows, resumed: Resumed) -> Policy:
    """Return the policy that a run goes on with, scaled as it was; its weights are still random."""
    stores, parts = windows.stores, resumed.parts
    policy = _build(config, stores[: len(config.data.stores)], parts.stats)
    if policy.config.space is Space.own:
        parts.interface.require(stores[0].interface, str(parts.folder), f"store {stores[0].path}")
    policy.set_embeddings(parts.embeddings)
    if (parts.folder / LANGUAGE).is_dir():
        policy.use_language_folder(parts.folder / LANGUAGE)
    prime_embeddings(policy, stores)
    return policy


def new_policy(config: TrainConfig, windows: Windows) -> tuple[Policy, list[str]]:
    """Return the policy before its first step, and lines that say what it begins from.

    ValueError on bad input.
    """
    stores = windows.stores
    given = _given_anchors(config)
    start = None if config.init_from is None else Finetune(config.init_from)
    count = len(config.data.stores)
    policy = _policy(config, stores[:count], stores[count:], start)
    messages = [] if start is None else start.load_into(policy)
    prime_embeddings(policy, stores)
    if given is None and start is not None and start.config.anchors.on:
        return policy, messages
    anchors = _use_anchors(policy, given, windows, config.seed)
    if anchors is not None and policy.truncated is not None:
        messages.append(f"{describe(anchors)}; sigma_trunc {policy.truncated.sigma_trunc:.4g}")
    return policy, messages


def _policy(
    config: TrainConfig,
    stores: Sequence[EpisodeStore],
    videos: Sequence[EpisodeStore],
    start: Finetune | None,
) -> Policy:
    """Return the untrained policy: for the stores' one robot, or in the unified space for all."""
    own = config.policy.space is Space.own
    stats = shared_stats(stores, videos) if own else unified_stats(stores, videos)
    for name, entry in stats.items():
        if not np.isfinite(entry.mean).all():
            raise ValueError(
                f"data.stores: {name} has numbers that are not finite; demo-store validate finds "
                "them"
            )
    if start is not None:
        interface = stores[0].interface if own else unified_interface(robots_of(stores))
        stats = start.stats(config.policy, interface, stats)
    return _build(config, stores, stats)


def _build(
    config: TrainConfig, stores: Sequence[EpisodeStore], stats: Mapping[str, FieldStats]
) -> Policy:
    own = config.policy.space is Space.own
    robots = {} if own else robots_of(stores)
    interface = stores[0].interface if own else unified_interface(robots)
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
