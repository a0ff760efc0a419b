"""Angles of the state: neighbours across +-pi, where they are, who cannot take them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from telic.policy.checkpoint import load_policy, save_checkpoint
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.mode import ModeConfig
from telic.policy.denoisers.rdt import RdtConfig
from telic.policy.encoders.condition_dropout import ConditionDropoutConfig
from telic.policy.encoders.goals import GoalConfig
from telic.policy.encoders.normalizer import Normalizer
from telic.policy.encoders.state_features import (
    StateFeatures,
    entries_named,
    entry_pairs,
    excluded_entries,
)
from telic.policy.policy import Policy
from telic.spec import ActRequest, ArraySpec, FieldStats, Goal, Interface, Observation

NAMES = ("hand_x", "block_yaw", "hand_y", "wrist_yaw", "light")
ANGLES = [1, 3]
STATE = ArraySpec(shape=(5,), names=NAMES)


def view(angles: list[int] = ANGLES) -> StateFeatures:
    return StateFeatures(
        Normalizer(np.linspace(-1, 1, 5), np.linspace(0.5, 2, 5)), np.zeros(5), angles
    )


def policy_of(stats: dict[str, FieldStats], **parts: Any) -> Policy:
    """Return a tiny policy for states of NAMES, yaws being angles."""
    parts.setdefault("denoiser", ModeConfig(width=32, num_layers=1, num_heads=2, feed_forward=32))
    config = PolicyConfig(angles=["*_yaw"], action_horizon=4, **parts)
    action = ArraySpec(shape=(3,), minimum=(-1.0,), maximum=(1.0,))
    policy = Policy(config, Interface(state=STATE, action=action, rate_hz=20.0), stats).eval()
    policy.set_embeddings({"go": np.ones(384, np.float32)})
    return policy


def act(policy: Policy, state: np.ndarray, goal: Goal | None = None) -> np.ndarray:
    observation = Observation(state=state[None].astype(np.float32), images={})
    request = ActRequest(observation=observation, goal=goal or Goal(text="go"))
    return policy.act_batch([request])[0].actions


def test_it_is_the_normalised_state_with_cosines_in_place_and_sines_behind() -> None:
    state = torch.randn(4, 2, 5)
    seen, plain = view()(state), view([])(state)
    assert seen.shape == (4, 2, 7) and view().size == 7 and view([]).size == 5
    others = [0, 2, 4]
    assert torch.equal(seen[..., others], plain[..., others])
    assert torch.equal(seen[..., ANGLES], state[..., ANGLES].cos())
    assert torch.equal(seen[..., 5:], state[..., ANGLES].sin())


def test_neighbours_across_pi_are_near_and_opposites_far() -> None:
    def at(angle: float) -> Tensor:
        return view()(torch.tensor([0.0, angle, 0.0, 0.0, 0.0]))

    step = 0.01
    across = (at(math.pi - step) - at(-math.pi + step)).norm()
    within = (at(step) - at(-step)).norm()
    assert float(across) == pytest.approx(float(within), rel=1e-3) == pytest.approx(0.02, rel=1e-3)
    assert torch.allclose(at(0.3), at(0.3 + 2 * math.pi), atol=1e-6)
    assert float((at(0.0) - at(math.pi)).norm()) == pytest.approx(2)


def test_a_policy_acts_alike_on_both_sides_of_pi(stats: dict[str, FieldStats]) -> None:
    state = np.array([0.1, math.pi - 1e-4, -0.3, 0.5, 1.0])
    other, opposite = state.copy(), state.copy()
    other[1], opposite[1] = -math.pi + 1e-4, 0.0
    policy = policy_of(stats)
    assert np.allclose(act(policy, state), act(policy, other), atol=1e-3)
    assert np.abs(act(policy, state) - act(policy, opposite)).max() > 1e-3


def test_patterns_name_entries_in_the_state_s_order() -> None:
    assert entries_named(["wrist_yaw", "*_yaw", "block_*"], NAMES, "policy.angles") == [1, 3]
    assert entries_named([], NAMES, "policy.angles") == [] == entries_named([], (), "policy.angles")
    with pytest.raises(ValueError, match=r"no entry .* named 'block_yav'; did you mean block_yaw"):
        entries_named(["*_yaw", "block_yav"], NAMES, "policy.angles")
    with pytest.raises(ValueError, match=r"named '\*_yaw'; its entries have no names"):
        entries_named(["*_yaw"], (), "policy.angles")


def test_a_kind_with_a_slot_for_each_entry_refuses(stats: dict[str, FieldStats]) -> None:
    with pytest.raises(ValueError, match=r"policy.angles is for kinds .*; rdt gives each entry a"):
        policy_of(stats, denoiser=RdtConfig(width=32, num_layers=2, num_heads=2))


def test_a_checkpoint_acts_identically(stats: dict[str, FieldStats], tmp_path: Path) -> None:
    policy = policy_of(stats)
    save_checkpoint(tmp_path / "it", policy)
    loaded = load_policy(tmp_path / "it")
    assert isinstance(loaded, Policy)
    state = np.array([0.1, 3.0, -0.3, -2.5, 1.0])
    assert np.array_equal(act(policy, state), act(loaded, state))


def test_a_goal_state_goes_through_it_too(stats: dict[str, FieldStats]) -> None:
    policy = policy_of(stats, goal=GoalConfig(text=False, state=True))
    start = np.zeros(5)

    def towards(yaw: float) -> np.ndarray:
        goal = np.array([0.2, yaw, 0.4, 0.0, 0.0], np.float32)
        return act(policy, start, Goal(state=goal))

    assert np.allclose(towards(math.pi - 1e-4), towards(-math.pi + 1e-4), atol=1e-3)
    assert np.abs(towards(math.pi) - towards(0.0)).max() > 1e-3


def test_a_hidden_state_is_the_mean_state_as_seen(stats: dict[str, FieldStats]) -> None:
    hidden = policy_of(stats, condition_dropout=ConditionDropoutConfig(state=0.999999)).train()
    batch: dict[str, Any] = {"state": torch.randn(3, 1, 5), "text": ["go"] * 3}
    got = hidden.encode(batch, torch.Generator().manual_seed(0)).state
    mean = torch.from_numpy(stats["state"].mean).float().expand(3, 1, 5)
    want = hidden.eval().encode({**batch, "state": mean}).state
    assert torch.allclose(got, want, atol=1e-6)


def test_differences_are_told_at_three_scales_and_of_angles_as_circles() -> None:
    pairs = entry_pairs([["hand_?", "light"], ["block_yaw", "wrist_yaw"]], NAMES)
    assert pairs == [(0, 4), (2, 4), (1, 3)]
    normalizer = Normalizer(np.zeros(5), np.array([0.5, 1.0, 2.0, 1.0, 1.0]))
    state = torch.randn(4, 2, 5)
    seen = StateFeatures(normalizer, np.zeros(5), ANGLES, pairs)(state)
    assert torch.equal(seen[..., :7], StateFeatures(normalizer, np.zeros(5), ANGLES)(state))
    apart = state[..., [0, 2]] - state[..., [4]]
    for entry, scale, first in ((0, 0.5, 7), (1, 2.0, 10)):
        for k, share in enumerate((1 / 16, 1 / 4, 1)):
            expected = (apart[..., entry] / (scale * share)).tanh()
            assert torch.allclose(seen[..., first + k], expected, atol=1e-6)
    turn = state[..., 1] - state[..., 3]
    circles = [turn.cos(), turn.sin(), (2 * turn).cos(), (2 * turn).sin()]
    assert torch.allclose(seen[..., 13:], torch.stack(circles, -1), atol=1e-6)


def test_all_that_is_about_an_entry_goes_where_it_goes() -> None:
    pairs = entry_pairs([["hand_?", "light"], ["block_yaw", "wrist_yaw"]], NAMES)
    seen = StateFeatures(Normalizer(np.zeros(5), np.ones(5)), np.zeros(5), ANGLES, pairs)
    assert seen.size == 5 + 2 + 6 + 4
    assert seen.columns([2]) == [2, 10, 11, 12]
    assert seen.columns([1, 4]) == [1, 4, 5, 13, 14, 15, 16]
    everything = [seen.columns([i]) for i in range(5)]
    assert sorted(column for own in everything for column in own) == list(range(seen.size))


def test_what_is_wrong_with_differences_is_said() -> None:
    with pytest.raises(ValueError, match=r"policy.differences has \['hand_x'\], expected the entr"):
        entry_pairs([["hand_x"]], NAMES)
    with pytest.raises(
        ValueError, match=r"policy.differences: 'hand_\?' names 2 entries, expected"
    ):
        entry_pairs([["light", "hand_?"]], NAMES)
    with pytest.raises(ValueError, match=r"policy.differences: no entry .* named 'hand_z'"):
        entry_pairs([["light", "hand_z"]], NAMES)


def test_excluded_entries_are_no_features_and_columns_are_of_those_left() -> None:
    pairs = entry_pairs([["hand_x", "light"]], NAMES)
    normalizer, mean = Normalizer(np.zeros(5), np.ones(5)), np.zeros(5)
    whole = StateFeatures(normalizer, mean, ANGLES, pairs)
    kept = StateFeatures(normalizer, mean, ANGLES, pairs, excluded_entries(["wrist_*"], NAMES, []))
    state = torch.randn(4, 2, 5)
    assert kept.size == whole.size - 2 == 8
    assert torch.equal(kept(state), whole(state)[..., [0, 1, 2, 4, 5, 7, 8, 9]])
    assert kept.columns([0, 1]) == [0, 1, 4, 5, 6, 7] and kept.columns([3]) == []


def test_what_an_excluded_entry_holds_never_reaches_the_network(
    stats: dict[str, FieldStats], tmp_path: Path
) -> None:
    policy = policy_of(stats, exclude_state=["wrist_*"], goal=GoalConfig(state=True))
    state, other = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0.1, 0.2, 0.3, 2.9, 0.5])
    chunk = act(policy, state)
    assert np.array_equal(act(policy, other), chunk)
    goals = [Goal(state=s.astype(np.float32)) for s in (state, other)]
    assert np.array_equal(act(policy, state, goals[0]), act(policy, state, goals[1]))
    other[4] = 0.9
    assert not np.array_equal(act(policy, other), chunk)
    save_checkpoint(tmp_path / "saved", policy)
    again = load_policy(tmp_path / "saved")
    assert isinstance(again, Policy)
    assert np.array_equal(act(again, state), chunk)


def test_what_is_wrong_with_excluded_entries_is_said(stats: dict[str, FieldStats]) -> None:
    pairs = entry_pairs([["hand_x", "light"]], NAMES)
    with pytest.raises(ValueError, match=r"policy.exclude_state: no entry .* named 'wrist'"):
        excluded_entries(["wrist"], NAMES, [])
    with pytest.raises(ValueError, match=r"policy.exclude_state leaves no entry of the state; use"):
        excluded_entries(["*"], NAMES, [])
    with pytest.raises(ValueError, match=r"policy.differences takes light, which policy.exclude"):
        excluded_entries(["light"], NAMES, pairs)
    with pytest.raises(ValueError, match=r"policy.exclude_state is for kinds that see a state as"):
        policy_of(
            stats,
            denoiser=RdtConfig(width=32, num_layers=1, num_heads=2),
            exclude_state=["light"],
        )
