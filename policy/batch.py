"""Requests of many episodes to one batch, checked against what the policy was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from telic.spec import ActRequest, Array, ArraySpec, Interface


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a request must and may hold: arrays of the last O steps, and goals."""

    interface: Interface
    obs_horizon: int
    cameras: Sequence[str]  # of the observation
    goal_text: bool
    goal_cameras: Sequence[str]  # empty: the policy knows no goal images
    goal_state: bool
    action_horizon: int  # H, which no prefix may be longer than

    @property
    def fields(self) -> list[str]:
        """Return the fields that a batch of windows must have."""
        fields = ["state", *(f"image/{camera}" for camera in self.cameras)]
        fields += [f"goal_image/{camera}" for camera in self.goal_cameras]
        return fields + ["text"] * self.goal_text + ["goal_state"] * self.goal_state


def stack_requests(requests: Sequence[ActRequest], needs: Needs) -> dict[str, Any]:
    """Return `requests` in the form of a batch of windows, on the CPU.

    A goal that a request lacks is blank, and False in `goal_state_given`, `goal_images_given`
    (bool [B]). Where a request has a prefix there are `prefix` f32 [B H A], 0 where nothing is
    left, and `prefix_known` bool [B H]. ValueError names the request and what is missing or does
    not fit.
    """
    for index, request in enumerate(requests):
        _check(request, needs, f"request {index} (episode {request.episode}, step {request.step})")
    observations = [request.observation for request in requests]
    goals = [request.goal for request in requests]
    batch: dict[str, Any] = {
        "state": torch.from_numpy(np.stack([o.state for o in observations])),
        "text": [goal.text or "" for goal in goals],
    }
    for camera in needs.cameras:
        frames = np.stack([o.images[camera] for o in observations])
        batch[f"image/{camera}"] = torch.from_numpy(frames)
    if needs.goal_state:
        states = [goal.state for goal in goals]
        batch["goal_state"] = _fill(states, needs.interface.state)
        batch["goal_state_given"] = torch.tensor([state is not None for state in states])
    if needs.goal_cameras:
        for camera in needs.goal_cameras:
            pictures = [goal.images.get(camera) for goal in goals]
            batch[f"goal_image/{camera}"] = _fill(pictures, needs.interface.images[camera])
        batch["goal_images_given"] = torch.tensor([bool(goal.images) for goal in goals])
    if any(request.prefix is not None for request in requests):
        batch |= _prefixes(requests, needs)
    return batch


def _prefixes(requests: Sequence[ActRequest], needs: Needs) -> dict[str, torch.Tensor]:
    size = needs.interface.action.shape[-1] or 0
    actions = np.zeros((len(requests), needs.action_horizon, size), np.float32)
    known = np.zeros(actions.shape[:2], bool)
    for row, request in enumerate(requests):
        if (left := request.prefix) is not None:
            actions[row, : len(left)], known[row, : len(left)] = left, True
    return {"prefix": torch.from_numpy(actions), "prefix_known": torch.from_numpy(known)}


def unit_noise(
    requests: Sequence[ActRequest], shape: tuple[int, int], num_draws: int = 1
) -> torch.Tensor:
    """Return standard normal noise f32 [num_draws B H A].

    Each request's part is a function of its (seed, step) alone; its first draws do not depend on
    how many follow.
    """
    rows = [
        np.random.default_rng((request.seed, request.step)).standard_normal(
            (num_draws, *shape), np.float32
        )
        for request in requests
    ]
    return torch.from_numpy(np.stack(rows, 1))


def uniform_lots(requests: Sequence[ActRequest], count: int) -> torch.Tensor:
    """Return f32 [B count] in [0, 1), each row a function of its request's (seed, step) alone."""
    rows = [
        np.random.default_rng((request.seed, request.step, 1)).random(count, np.float32)
        for request in requests
    ]
    return torch.from_numpy(np.stack(rows))


def gumbel(uniform: Float[torch.Tensor, "*size"]) -> Float[torch.Tensor, "*size"]:
    """Return Gumbel noise: argmax(log p + gumbel) is a draw from p."""
    return -(-uniform.clamp_min(1e-12).log()).clamp_min(1e-12).log()


def _check(request: ActRequest, needs: Needs, where: str) -> None:
    """Raise ValueError unless the request holds what it must and nothing of the wrong form."""
    observation, goal = request.observation, request.goal
    horizon, specs = needs.obs_horizon, needs.interface
    _stacked(specs.state, horizon).validate(observation.state, f"{where}: observation.state")
    for camera in needs.cameras:
        if camera not in observation.images:
            raise ValueError(f"{where}: the observation has no image of camera {camera!r}")
        spec = _stacked(specs.images[camera], horizon)
        spec.validate(observation.images[camera], f"{where}: image of {camera}")
    _check_prefix(request, needs, where)
    if goal.state is not None and needs.goal_state:
        specs.state.validate(goal.state, f"{where}: goal.state")
    for camera in needs.goal_cameras if goal.images else ():
        if camera not in goal.images:
            raise ValueError(f"{where}: the goal has no image of camera {camera!r}")
        specs.images[camera].validate(goal.images[camera], f"{where}: goal image of {camera}")
    usable = (
        (needs.goal_text and goal.text)
        or (needs.goal_state and goal.state is not None)
        or (needs.goal_cameras and goal.images)
    )
    if not usable:
        names = {"text": needs.goal_text, "images": needs.goal_cameras, "state": needs.goal_state}
        known = ", ".join(name for name, understood in names.items() if understood)
        raise ValueError(f"{where}: no goal this policy understands; it was trained on {known}")


def _check_prefix(request: ActRequest, needs: Needs, where: str) -> None:
    """Raise ValueError unless the prefix is a part of a chunk and as long as the delay."""
    length = 0
    if request.prefix is not None:
        spec = replace(needs.interface.action, names=(), minimum=None, maximum=None)
        spec = replace(spec, shape=(None, *spec.shape))
        length = len(spec.validate(request.prefix, f"{where}: prefix"))
    if length > needs.action_horizon:
        raise ValueError(
            f"{where}: the prefix has {length} actions, and a chunk {needs.action_horizon}; give "
            "what is left of the last chunk, from the observation's moment on"
        )
    if not 0 <= request.inference_delay <= length:
        raise ValueError(
            f"{where}: inference_delay={request.inference_delay} must lie in 0..{length}, the "
            "actions of the prefix; it counts those carried out before the new chunk is there"
        )


def _stacked(spec: ArraySpec, horizon: int) -> ArraySpec:
    """Return the spec of `horizon` arrays; bounds are the sender's concern."""
    return replace(spec, shape=(horizon, *spec.shape), names=(), minimum=None, maximum=None)


def _fill(arrays: Sequence[Array | None], spec: ArraySpec) -> torch.Tensor:
    blank = np.zeros([n or 0 for n in spec.shape], spec.dtype)
    return torch.from_numpy(np.stack([blank if a is None else a for a in arrays]))
