"""Requests of many episodes to one batch, and the actions sampled for it to their chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from telic.embodiment import Embodiment
from telic.policy.encoders.fields import Batch
from telic.policy.inference.prefix import Prefixer, Prefixing
from telic.policy.requests import RequestSpec, chunks_of, stack_arrays, stacked
from telic.spec import ActionChunk, ActRequest, Array, Goal, Interface, Observation, near_misses


class RequestBatcher:
    """Requests to one batch and its actions to chunks, for one robot at a time.

    That robot is the one of `spec`, or in the unified space one of `robots`.
    """

    def __init__(self, request_spec: RequestSpec, robots: Mapping[str, Interface]) -> None:
        self.robots = {
            name: replace(robot, images=request_spec.interface.images)
            for name, robot in robots.items()
        }
        self._embodiments = {
            name: Embodiment.of(robot, f"robot {name}") for name, robot in self.robots.items()
        }
        self._embodiment: Embodiment | None = None
        self._request_spec = request_spec

    def use_embodiment(self, robot: str) -> Interface:
        """Act for this robot from now on, and return its interface; ValueError for a stranger."""
        if robot not in self.robots:
            raise ValueError(
                f"the policy was trained for {', '.join(self.robots) or 'one robot of its own'}, "
                f"not for robot {robot!r}{near_misses(robot, self.robots)}"
            )
        self._embodiment = self._embodiments[robot]
        self._request_spec = replace(self._request_spec, interface=self.robots[robot])
        return self.robots[robot]

    def request(self, observation: Observation, goal: Goal | str, **more: Any) -> ActRequest:
        """One request: a plain sentence becomes a goal, a single moment the last O of them."""
        return ActRequest(
            observation=stacked(observation, self._request_spec),
            goal=Goal(text=goal) if isinstance(goal, str) else goal,
            **more,
        )

    def collate(self, requests: list[ActRequest], prefixer: Prefixer, denoiser: nn.Module) -> Batch:
        """Return requests in the form of a batch of windows, on the CPU.

        Where one has a prefix, `prefix_fixed` and `prefix_pull` are what `Prefixer.choose` says.
        ValueError for an observation, goal or prefix that does not fit.
        """
        batch = stack_requests(requests, self._request_spec)
        if "prefix" in batch:
            delays = torch.tensor([request.inference_delay for request in requests])
            lengths = batch["prefix_known"].sum(1)
            fixed, pull = prefixer.choose(
                delays, lengths, self._request_spec.action_horizon, denoiser
            )
            batch["prefix_fixed"], batch["prefix_pull"] = fixed, pull
        if self._embodiment is not None:
            names = ("state", "goal_state", "prefix")
            fields = cast(dict[str, Any], batch)
            arrays = {name: fields[name].numpy() for name in names if name in fields}
            mapped = self._embodiment.into(arrays)
            fields |= {k: torch.from_numpy(v) for k, v in mapped.items()}
        return batch

    def split(
        self, requests: list[ActRequest], actions: Array, prefixer: Prefixer
    ) -> list[ActionChunk]:
        """Return the chunk of each request; it begins with what is fixed of its prefix.

        actions: [B H A], physical units, in slots where the policy's space is unified.
        """
        if self._embodiment is not None:
            actions = self._embodiment.action.back(actions)
        carries_on = prefixer.way is not Prefixing.none
        return chunks_of(requests, actions, self._request_spec.interface, carries_on)


def stack_requests(requests: Sequence[ActRequest], request_spec: RequestSpec) -> Batch:
    """Return `stack_arrays` of requests as tensors, on the CPU."""
    arrays = stack_arrays(requests, request_spec)
    tensors = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in arrays.items()
    }
    return cast(Batch, tensors)
