"""`Policy.act` takes what a person has at hand: one moment, a plain sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from telic.policy.config import PolicyConfig
from telic.policy.encoders.images import ImageConfig, Pooling
from telic.policy.policy import Policy
from telic.spec import Goal, Observation

Build = Callable[[PolicyConfig], Policy]


@pytest.mark.parametrize("obs_horizon", [1, 2])
def test_one_moment_stands_for_all_and_a_sentence_for_its_goal(
    obs_horizon: int, build: Build, make_requests: Any
) -> None:
    config = PolicyConfig(obs_horizon=obs_horizon, action_horizon=4)
    config.images = ImageConfig(tower="keypoint_conv", pooling=Pooling.keypoints)
    policy = build(config).eval()
    request = make_requests(config, [3])[0]
    moment = Observation(
        state=request.observation.state[-1],
        images={name: frames[-1] for name, frames in request.observation.images.items()},
        t_obs_ns=7,
    )
    repeated = replace(
        moment,
        state=np.stack([moment.state] * obs_horizon),
        images={name: np.stack([frame] * obs_horizon) for name, frame in moment.images.items()},
    )
    chunk = policy.act(moment, "open the drawer", seed=5)
    expected = policy.act(repeated, Goal(text="open the drawer"), seed=5)
    assert chunk.actions == pytest.approx(expected.actions, abs=1e-6)
    assert chunk.t_obs_ns == 7


def test_a_moment_of_another_size_is_refused(build: Build) -> None:
    config = PolicyConfig(action_horizon=4)
    config.images.cameras = []
    policy = build(config)
    with pytest.raises(ValueError, match=r"observation\.state: shape is \(1, 4\), expected"):
        policy.act(Observation(state=np.zeros(4, np.float32)), "open the drawer")
