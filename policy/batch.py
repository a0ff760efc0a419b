"""Requests of many episodes to one batch, and the actions sampled for it to their chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from telic.embodiment import Embodiment
from telic.policy.encoders.fields import Batch
from telic.policy.inference.prefix import Prefixer, Prefixing
from telic.spec import (
    ActionChunk,
    ActRequest,
    Array,
    ArraySpec,
    Goal,
    Interface,
    Observation,
    near_misses,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestSpec:
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
        if prefixer.way is not Prefixing.none:
            for chunk, request in zip(actions, requests, strict=True):
                if request.prefix is not None:
                    delay = request.inference_delay
                    chunk[:delay] = request.prefix[:delay]
        interface = self._request_spec.interface
        dt_ns = round(1e9 / interface.rate_hz)
        return [
            ActionChunk(
                actions=interface.action.clip(chunk),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=dt_ns,
            )
            for request, chunk in zip(requests, actions, strict=True)
        ]


def stacked(observation: Observation, request_spec: RequestSpec) -> Observation:
    """The observation with its arrays over O steps: one of a single moment is repeated."""

    def over_steps(array: Array, spec: ArraySpec) -> Array:
        single = np.ndim(array) == len(spec.shape)
        return np.repeat(np.asarray(array)[None], request_spec.obs_horizon, 0) if single else array

    specs = request_spec.interface
    images = {
        camera: over_steps(picture, specs.images[camera]) if camera in specs.images else picture
        for camera, picture in observation.images.items()
    }
    return replace(observation, state=over_steps(observation.state, specs.state), images=images)


def stack_requests(requests: Sequence[ActRequest], request_spec: RequestSpec) -> Batch:
    """Return `requests` in the form of a batch of windows, on the CPU.

    A goal that a request lacks is blank, and False in `goal_state_given`, `goal_images_given`
    (bool [B]). Where a request has a prefix there are `prefix` f32 [B H A], 0 where nothing is
    left, and `prefix_known` bool [B H]. ValueError names the request and what is missing or does
    not fit.
    """
    for index, request in enumerate(requests):
        _check(
            request,
            request_spec,
            f"request {index} (episode {request.episode}, step {request.step})",
        )
    observations = [request.observation for request in requests]
    goals = [request.goal for request in requests]
    batch: dict[str, Any] = {
        "state": torch.from_numpy(np.stack([o.state for o in observations])),
        "text": [goal.text or "" for goal in goals],
    }
    for camera in request_spec.cameras:
        frames = np.stack([o.images[camera] for o in observations])
        batch[f"image/{camera}"] = torch.from_numpy(frames)
    if request_spec.goal_state:
        states = [goal.state for goal in goals]
        batch["goal_state"] = _fill(states, request_spec.interface.state)
        batch["goal_state_given"] = torch.tensor([state is not None for state in states])
    if request_spec.goal_cameras:
        for camera in request_spec.goal_cameras:
            pictures = [goal.images.get(camera) for goal in goals]
            batch[f"goal_image/{camera}"] = _fill(pictures, request_spec.interface.images[camera])
        batch["goal_images_given"] = torch.tensor([bool(goal.images) for goal in goals])
    if any(request.prefix is not None for request in requests):
        batch |= _prefixes(requests, request_spec)
    return cast(Batch, batch)


def _prefixes(requests: Sequence[ActRequest], request_spec: RequestSpec) -> dict[str, torch.Tensor]:
    size = request_spec.interface.action.shape[-1] or 0
    actions = np.zeros((len(requests), request_spec.action_horizon, size), np.float32)
    known = np.zeros(actions.shape[:2], bool)
    for row, request in enumerate(requests):
        if (left := request.prefix) is not None:
            actions[row, : len(left)], known[row, : len(left)] = left, True
    return {"prefix": torch.from_numpy(actions), "prefix_known": torch.from_numpy(known)}


def _check(request: ActRequest, request_spec: RequestSpec, where: str) -> None:
    """Raise ValueError unless the request holds what it must and nothing of the wrong form."""
    observation, goal = request.observation, request.goal
    horizon, specs = request_spec.obs_horizon, request_spec.interface
    _stacked(specs.state, horizon).validate(observation.state, f"{where}: observation.state")
    for camera in request_spec.cameras:
        if camera not in observation.images:
            raise ValueError(f"{where}: the observation has no image of camera {camera!r}")
        spec = _stacked(specs.images[camera], horizon)
        spec.validate(observation.images[camera], f"{where}: image of {camera}")
    _check_prefix(request, request_spec, where)
    if goal.state is not None and request_spec.goal_state:
        specs.state.validate(goal.state, f"{where}: goal.state")
    for camera in request_spec.goal_cameras if goal.images else ():
        if camera not in goal.images:
            raise ValueError(f"{where}: the goal has no image of camera {camera!r}")
        specs.images[camera].validate(goal.images[camera], f"{where}: goal image of {camera}")
    usable = (
        (request_spec.goal_text and goal.text)
        or (request_spec.goal_state and goal.state is not None)
        or (request_spec.goal_cameras and goal.images)
    )
    if not usable:
        names = {
            "text": request_spec.goal_text,
            "images": request_spec.goal_cameras,
            "state": request_spec.goal_state,
        }
        known = ", ".join(name for name, understood in names.items() if understood)
        raise ValueError(f"{where}: no goal this policy understands; it was trained on {known}")


def _check_prefix(request: ActRequest, request_spec: RequestSpec, where: str) -> None:
    """Raise ValueError unless the prefix is a part of a chunk and as long as the delay."""
    length = 0
    if request.prefix is not None:
        spec = replace(request_spec.interface.action, names=(), minimum=None, maximum=None)
        spec = replace(spec, shape=(None, *spec.shape))
        length = len(spec.validate(request.prefix, f"{where}: prefix"))
    if length > request_spec.action_horizon:
        raise ValueError(
            f"{where}: the prefix has {length} actions, and a chunk {request_spec.action_horizon}; "
            "give what is left of the last chunk, from the observation's moment on"
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
