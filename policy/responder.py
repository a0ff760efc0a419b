"""Requests to one batch, and the actions drawn for it to chunks; for one robot at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from telic.embodiment import Embodiment
from telic.policy.batch import Needs, stack_requests
from telic.policy.inference.prefix import Prefixer, Prefixing
from telic.spec import ActionChunk, ActRequest, Array, Interface, near_misses


class Responder:
    """Acts for the one robot of `needs`, or in the unified space for one of `robots`."""

    def __init__(self, needs: Needs, robots: Mapping[str, Interface]) -> None:
        self.robots = {
            name: replace(robot, images=needs.interface.images) for name, robot in robots.items()
        }
        self._embodiments = {
            name: Embodiment.of(robot, f"robot {name}") for name, robot in self.robots.items()
        }
        self._embodiment: Embodiment | None = None
        self._needs = needs

    def act_as(self, robot: str) -> Interface:
        """Act for this robot from now on, and return its interface; ValueError for a stranger."""
        if robot not in self.robots:
            raise ValueError(
                f"the policy was trained for {', '.join(self.robots) or 'one robot of its own'}, "
                f"not for robot {robot!r}{near_misses(robot, self.robots)}"
            )
        self._embodiment = self._embodiments[robot]
        self._needs = replace(self._needs, interface=self.robots[robot])
        return self.robots[robot]

    def batch(
        self, requests: list[ActRequest], prefixer: Prefixer, denoiser: nn.Module
    ) -> dict[str, Any]:
        """Return requests in the form of a batch of windows, on the CPU.

        Where one has a prefix, `prefix_fixed` and `prefix_pull` are what `Prefixer.choose` says.
        ValueError for an observation, goal or prefix that does not fit.
        """
        batch = stack_requests(requests, self._needs)
        if "prefix" in batch:
            delays = torch.tensor([request.inference_delay for request in requests])
            lengths = batch["prefix_known"].sum(1)
            fixed, pull = prefixer.choose(delays, lengths, self._needs.action_horizon, denoiser)
            batch |= {"prefix_fixed": fixed, "prefix_pull": pull}
        if self._embodiment is not None:
            names = ("state", "goal_state", "prefix")
            arrays = {name: batch[name].numpy() for name in names if name in batch}
            mapped = self._embodiment.into(arrays)
            batch |= {k: torch.from_numpy(v) for k, v in mapped.items()}
        return batch

    def chunks(
        self, requests: list[ActRequest], actions: Array, prefixer: Prefixer
    ) -> list[ActionChunk]:
        """Return the chunk of each request; it begins with what is fixed of its prefix.

        actions: [B H A], physical units, in slots where the policy's space is unified.
        """
        if self._embodiment is not None:
            actions = self._embodiment.action.back(actions)
        if prefixer.way is not Prefixing.none:
            for chunk, request in zip(actions, requests, strict=True):
                if request.prefix is not None:
                    delay = request.inference_delay
                    chunk[:delay] = request.prefix[:delay]
        interface = self._needs.interface
        dt_ns = round(1e9 / interface.rate_hz)
        return [
            ActionChunk(
                actions=interface.action.clip(chunk),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=dt_ns,
            )
            for request, chunk in zip(requests, actions, strict=True)
        ]
