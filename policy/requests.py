"""What requests must hold, as arrays, and the noise that is theirs; numpy alone.

Whoever answers requests by an exported graph does without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from telic.spec import ActionChunk, ActRequest, Array, ArraySpec, Interface, Observation


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
        return self.fields_for(("text", "images", "state"))

    def fields_for(self, goals: Sequence[str]) -> list[str]:
        """Return the same where only these kinds of goal are given."""
        fields = ["state", *(f"image/{camera}" for camera in self.cameras)]
        if "images" in goals:
            fields += [f"goal_image/{camera}" for camera in self.goal_cameras]
        fields += ["text"] * (self.goal_text and "text" in goals)
        return fields + ["goal_state"] * (self.goal_state and "state" in goals)


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


def stack_arrays(requests: Sequence[ActRequest], request_spec: RequestSpec) -> dict[str, Any]:
    """Return `requests` in the form of a batch of windows: arrays, and `text` as a list.

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
        "state": np.stack([o.state for o in observations]),
        "text": [goal.text or "" for goal in goals],
    }
    for camera in request_spec.cameras:
        batch[f"image/{camera}"] = np.stack([o.images[camera] for o in observations])
    if request_spec.goal_state:
        states = [goal.state for goal in goals]
        batch["goal_state"] = _fill(states, request_spec.interface.state)
        batch["goal_state_given"] = np.array([state is not None for state in states])
    if request_spec.goal_cameras:
        for camera in request_spec.goal_cameras:
            pictures = [goal.images.get(camera) for goal in goals]
            batch[f"goal_image/{camera}"] = _fill(pictures, request_spec.interface.images[camera])
        batch["goal_images_given"] = np.array([bool(goal.images) for goal in goals])
    if any(request.prefix is not None for request in requests):
        batch |= _prefixes(requests, request_spec)
    return batch


def _prefixes(requests: Sequence[ActRequest], request_spec: RequestSpec) -> dict[str, Array]:
    size = request_spec.interface.action.shape[-1] or 0
    actions = np.zeros((len(requests), request_spec.action_horizon, size), np.float32)
    known = np.zeros(actions.shape[:2], bool)
    for row, request in enumerate(requests):
        if (left := request.prefix) is not None:
            actions[row, : len(left)], known[row, : len(left)] = left, True
    return {"prefix": actions, "prefix_known": known}


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


def _fill(arrays: Sequence[Array | None], spec: ArraySpec) -> Array:
    blank = np.zeros([n or 0 for n in spec.shape], spec.dtype)
    return np.stack([blank if a is None else a for a in arrays])


def normal_values(
    requests: Sequence[ActRequest], shape: tuple[int, int], num_draws: int = 1
) -> Array:
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
    return np.stack(rows, 1)


def uniform_values(requests: Sequence[ActRequest], count: int) -> Array:
    """Return f32 [B count] in [0, 1), each row a function of its request's (seed, step) alone."""
    rows = [
        np.random.default_rng((request.seed, request.step, 1)).random(count, np.float32)
        for request in requests
    ]
    return np.stack(rows)


def chunks_of(
    requests: Sequence[ActRequest], actions: Array, interface: Interface, carries_on: bool
) -> list[ActionChunk]:
    """Return the chunk of each request from actions [B H A], physical units.

    carries_on: a chunk begins with the fixed actions of its prefix, whatever was sampled there.
    """
    chunks = []
    for request, chunk in zip(requests, actions, strict=True):
        if carries_on and request.prefix is not None:
            delay = request.inference_delay
            chunk[:delay] = request.prefix[:delay]
        chunks.append(
            ActionChunk(
                actions=interface.action.clip(chunk),
                t_obs_ns=request.observation.t_obs_ns,
                dt_ns=round(1e9 / interface.rate_hz),
            )
        )
    return chunks
