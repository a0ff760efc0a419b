"""A checkpoint and a store written by telic 0.1.0 at commit dd7cd93 are read as they were."""

import json
from pathlib import Path

import numpy as np
import pytest

from telic.datasets.store import EpisodeStore
from telic.policy.checkpoint import load_policy, load_train_state
from telic.policy.policy import Policy
from telic.spec import Goal, Observation
from telic.training.optimizer import OptimizerConfig

BEFORE = Path(__file__).parent / "fixtures/written_before"


def test_a_checkpoint_acts_as_it_did() -> None:
    policy = load_policy(BEFORE / "checkpoint")
    observation = Observation(state=np.array([[0.1, -0.2, 0.3]], np.float32))
    chunk = policy.act(observation, Goal(text="open the drawer"), seed=3)  # type: ignore[attr-defined]
    expected = json.loads((BEFORE / "chunk.json").read_text())
    assert chunk.actions == pytest.approx(np.array(expected), abs=1e-5)


def test_a_training_goes_on_from_it() -> None:
    policy = load_policy(BEFORE / "checkpoint")
    assert isinstance(policy, Policy)
    state = load_train_state(BEFORE / "checkpoint")
    policy.load_state_dict(state.weights)
    averaged = {name.removeprefix("module.") for name in state.ema} - {"n_averaged"}
    assert averaged == set(policy.state_dict())
    OptimizerConfig().build(policy).load_state_dict(state.optimizer)
    assert state.progress["step"] == 2


def test_a_store_opens() -> None:
    store = EpisodeStore.open(BEFORE / "demos.zarr")
    assert (store.num_episodes, store.num_steps) == (3, 36)
    assert store.instructions == ["open the drawer", "close the drawer"]
    data = store.episode(2).data
    assert data["action"] == pytest.approx(0.5 * data["state"][:, :2])
