"""Policies in numpy for tests of the daemon; imported by name in its worker process."""

import time
from dataclasses import dataclass

import numpy as np

from telic.real_robot.simulated_arm import arm_interface
from telic.spec import ActionChunk, ActRequest, Interface


class Reaching:
    """A proportional controller: a chunk that goes a share of the way to the goal at each step."""

    def __init__(self, latency_s: float = 0.01, action_horizon: int = 8, gain: float = 0.4):
        self.interface: Interface = arm_interface()
        self.obs_horizon = 2
        self.action_horizon = action_horizon
        self.latency_s = latency_s
        self.gain = gain
        self.calls = 0

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return for each request the angles on the way from its newest state to its goal."""
        time.sleep(self.latency_s)
        self.calls += 1
        return [self._act(request) for request in requests]

    def _act(self, request: ActRequest) -> ActionChunk:
        state = request.observation.state[-1]
        assert request.observation.state.shape == (self.obs_horizon, 6)
        angle, goal = state[:2], state[4:]
        share = 1 - (1 - self.gain) ** np.arange(1, self.action_horizon + 1)[:, None]
        return ActionChunk(
            actions=(angle + share * (goal - angle)).astype(np.float32),
            t_obs_ns=request.observation.t_obs_ns,
            dt_ns=round(1e9 / self.interface.rate_hz),
        )


@dataclass
class OpenReaching:
    """What the daemon's worker calls to get the policy."""

    latency_s: float = 0.01
    action_horizon: int = 8

    def __call__(self) -> Reaching:
        return Reaching(self.latency_s, self.action_horizon)
