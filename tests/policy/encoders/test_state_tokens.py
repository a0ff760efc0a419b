"""A state as several tokens: which entries each reads, and that every kind takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.encoders.normalizer import NormalizerConfig, Scaling
from telic.policy.encoders.state import StateTokens
from telic.policy.encoders.state_features import StateFeatures, token_entries
from telic.policy.policy import Policy
from telic.spec import ArraySpec, FieldStats, Interface

NAMES = ("tcp_x", "tcp_yaw", "block1_x", "block1_yaw", "block2_x", "led")
TOKENS = [["tcp_*", "led"], ["tcp_*", "block1_*"], ["tcp_x", "block2_*"]]
TAKERS = [kind for kind in KINDS if not KINDS[kind].embeds_state]
ONES = np.ones(len(NAMES))
STATS = FieldStats(
    minimum=-ONES, maximum=ONES, mean=0 * ONES, std=ONES, q01=-ONES, q99=ONES, count=9
)


@pytest.fixture
def table() -> Interface:
    """Return a robot with a table: a state with names."""
    return Interface(
        state=ArraySpec(shape=(len(NAMES),), names=NAMES),
        action=ArraySpec(shape=(2,), minimum=(-1.0,), maximum=(1.0,)),
        rate_hz=30.0,
    )


def policy_for(table: Interface, kind: str, **more: Any) -> Policy:
    """Return an untrained policy whose state is three tokens."""
    config = PolicyConfig(
        denoiser=KINDS[kind].small(), angles=["*_yaw"], state_tokens=TOKENS, **more
    )
    policy = Policy(config, table, {"state": STATS}).eval()
    policy.set_embeddings({"go": np.ones(384, np.float32)})
    return policy


def test_entries_are_found_by_name_and_may_be_shared() -> None:
    assert token_entries(TOKENS, NAMES) == [[0, 1, 5], [0, 1, 2, 3], [0, 4]]
    assert token_entries([], NAMES) == []
    assert token_entries([["tcp_*", "led"], ["block*"]], NAMES, [1, 5]) == [[0], [2, 3, 4]]


def test_what_is_wrong_with_tokens_is_said() -> None:
    with pytest.raises(ValueError, match="state_tokens: led is in none of the 1 tokens"):
        token_entries([["tcp_*", "block*"]], NAMES)
    with pytest.raises(ValueError, match="state_tokens: no entry of the state is named 'block1_w'"):
        token_entries([["*"], ["block1_w"]], NAMES)
    with pytest.raises(ValueError, match=r"state_tokens: \['led'\] names only entries that policy"):
        token_entries([["*"], ["led"]], NAMES, [5])


def test_a_token_reads_its_own_entries_and_their_sines_alone(table: Interface) -> None:
    normalizer = NormalizerConfig(scaling=Scaling.identity).build("state", table.state, None)
    view = StateFeatures(normalizer, ONES, [1, 3])
    own = [view.columns(entries) for entries in token_entries(TOKENS, NAMES)]
    assert own == [[0, 1, 5, 6], [0, 1, 2, 3, 6, 7], [0, 4]]
    encoder = StateTokens(own, 16)
    state = torch.randn(2, 3, len(NAMES))
    before = encoder(view(state)).unflatten(1, (3, 3))  # observations, tokens
    state[:, 1, NAMES.index("block1_yaw")] += 0.5
    moved = (encoder(view(state)).unflatten(1, (3, 3)) != before).any(-1).any(0)
    assert moved.nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("kind", TAKERS)
def test_every_kind_with_tokens_learns_from_each_and_acts(
    kind: str, table: Interface, tmp_path: Path, make_table_batch: Callable[..., dict[str, Any]]
) -> None:
    policy = policy_for(table, kind, obs_horizon=2)
    batch = make_table_batch(policy)
    policy.train()
    policy.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert policy.conditioner.state_encoder is not None
    gradients = [p.grad for p in policy.conditioner.state_encoder.parameters()]
    assert all(g is not None and bool(g.any()) for g in gradients)
    policy.eval()
    chunk = policy.predict(batch, torch.Generator().manual_seed(1))
    save_checkpoint(tmp_path / "saved", policy)
    again = load_policy(tmp_path / "saved")
    assert isinstance(again, Policy)
    assert torch.equal(again.predict(batch, torch.Generator().manual_seed(1)), chunk)


def test_rdt_has_slots_of_its_own(table: Interface) -> None:
    config = PolicyConfig(denoiser=RdtConfig(width=32, num_layers=2, num_heads=2))
    with pytest.raises(ValueError, match=r"state_tokens is for kinds that see a state as"):
        Policy(replace(config, state_tokens=TOKENS), table, {"state": STATS})


@pytest.fixture
def make_table_batch() -> Callable[[Policy], dict[str, Any]]:
    """Return a maker of a batch of windows."""

    def make(policy: Policy) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        shape = (4, policy.action_horizon, policy.action_dim)
        return {
            "state": torch.from_numpy(
                rng.standard_normal((4, policy.obs_horizon, len(NAMES)), np.float32)
            ),
            "action": torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32)),
            "text": ["go"] * 4,
        }

    return make
