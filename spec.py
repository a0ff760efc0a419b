"""The words every room shares: what an array, an observation, a goal and a chunk are. numpy only.

Images are uint8 [h w 3], upright, RGB. States and actions are float32 in physical units.
All times are `time.monotonic_ns` or, in a store, nanoseconds since the episode began.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from telic.agreement import require_agreement
from telic.array_spec import Array, ArraySpec, near_misses

__all__ = [
    "ActRequest",
    "ActionChunk",
    "Array",
    "ArraySpec",
    "ChunkPolicy",
    "FieldStats",
    "Goal",
    "GoalKinds",
    "Interface",
    "ManyRobots",
    "Observation",
    "near_misses",
    "warnings_in_one_line",
]


def warnings_in_one_line() -> None:
    """Have UserWarnings, which are for people, shown without the place in the code from now on."""
    usual = warnings.formatwarning

    def plain(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category is not UserWarning:
            return usual(message, category, filename, lineno, line)
        return f"warning: {' '.join(str(message).split())}\n"

    warnings.formatwarning = plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What a robot, a simulated task, a store and a policy must agree on before they can meet.

    state: ArraySpec [P]; action: ArraySpec [A]; images: camera -> ArraySpec [h w 3];
    rate_hz: how many actions a second.
    """

    state: ArraySpec
    action: ArraySpec
    rate_hz: float
    images: Mapping[str, ArraySpec] = field(default_factory=dict)

    def require(self, other: Interface, mine: str, theirs: str) -> None:
        """Raise ValueError unless `other` offers all that this interface needs.

        `mine` and `theirs` say in the message where the two come from. What is compared, where
        both state it, and what may differ stands in `agreement.py`.
        """
        require_agreement(self, other, mine, theirs)

    def to_json(self) -> dict[str, Any]:
        """Return the interface as JSON data."""
        return {
            "state": self.state.to_json(),
            "action": self.action.to_json(),
            "rate_hz": self.rate_hz,
            "images": {camera: spec.to_json() for camera, spec in self.images.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        """Return the interface that `to_json` wrote."""
        return cls(
            state=ArraySpec.from_json(data["state"]),
            action=ArraySpec.from_json(data["action"]),
            rate_hz=float(data["rate_hz"]),
            images={k: ArraySpec.from_json(v) for k, v in data["images"].items()},
        )


@dataclass(kw_only=True, slots=True)
class Observation:
    """The last O observations, oldest first. state: f32 [O P]; images: camera -> u8 [O h w 3]."""

    state: Array
    images: dict[str, Array] = field(default_factory=dict)
    t_obs_ns: int = 0


@dataclass(kw_only=True, slots=True)
class Goal:
    """What to do: a sentence, a picture of the goal (camera -> u8 [h w 3]), a goal state f32 [P].

    Whichever parts are given condition the policy; at least one must be.
    """

    text: str | None = None
    images: dict[str, Array] = field(default_factory=dict)
    state: Array | None = None

    def __post_init__(self) -> None:
        if self.text is None and not self.images and self.state is None:
            raise ValueError("a goal needs a sentence, a picture or a state; all three are absent")
        if self.text is not None and not self.text.strip():
            raise ValueError(f"a goal's sentence must say something, it is {self.text!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalKinds:
    """Which goals a policy was trained on; cameras: of the pictures of a goal, empty for none."""

    text: bool = True
    cameras: tuple[str, ...] = ()
    state: bool = False

    @classmethod
    def of(cls, policy: ChunkPolicy) -> GoalKinds:
        """Return the policy's `goal_kinds`; sentences alone where it does not state any."""
        stated: GoalKinds = getattr(policy, "goal_kinds", cls())
        return stated

    def __str__(self) -> str:
        """Return the kinds in a few words."""
        pictures = f"pictures of {', '.join(self.cameras)}" if self.cameras else ""
        names = (self.text and "sentences", pictures, self.state and "states")
        return " and ".join(name for name in names if name)

    def require(self, asked: str, who: str, *, text: bool, images: bool) -> None:
        """Raise ValueError unless a sentence, pictures or both, as given, can be the goal.

        asked: the key by which they are given; who: whose goals these are.
        """
        if images and not self.cameras:
            raise ValueError(
                f"{asked}: {who} was trained on goals by {self}, not by pictures; train one with "
                "policy.goal.images=true data.goal.hindsight=uniform, or leave the picture out"
            )
        if text and not self.text:
            raise ValueError(
                f"{asked}: {who} was trained on goals by {self}, not by sentences; give it a "
                "picture alone"
            )

    def require_images(self, images: Mapping[str, Array], interface: Interface, who: str) -> None:
        """Raise ValueError unless `images` are the pictures of a goal that the policy takes.

        `interface`: the policy's, whose sizes they must have.
        """
        for camera in images:
            if camera not in self.cameras:
                raise ValueError(
                    f"goal.image={camera}: {who} takes pictures of goals from "
                    f"{', '.join(self.cameras)}{near_misses(camera, self.cameras)}"
                )
        for camera in self.cameras:
            if camera not in images:
                raise ValueError(
                    f"goal.image: {who} takes pictures of goals from {', '.join(self.cameras)}; "
                    f"give goal.image={camera}:FILE too"
                )
            spec, where = interface.images[camera], f"goal.image={camera}"
            if problem := spec.malformed(images[camera]):
                raise ValueError(f"{where}: {problem}; the picture is neither scaled nor cut")


@dataclass(kw_only=True, slots=True)
class ActRequest:
    """One environment asking for one chunk.

    The noise of a chunk is a function of (seed, step) alone, so an episode's result does not
    depend on which other episodes share its batch. `episode` is unique within a run: a policy
    with memory (an RNN) keeps one state for each. `prefix`: what is left of the episode's last
    chunk, f32 [R A] in physical units, its first action due at the observation's time; None: none.
    Its first `inference_delay` actions will have been carried out before the new chunk is there.
    """

    observation: Observation
    goal: Goal
    episode: int = 0
    seed: int = 0
    step: int = 0
    prefix: Array | None = None
    inference_delay: int = 0


@dataclass(kw_only=True, slots=True)
class ActionChunk:
    """H actions, f32 [H A], in physical units; action i is due at t_obs_ns + i * dt_ns."""

    actions: Array
    t_obs_ns: int
    dt_ns: int


@runtime_checkable
class ChunkPolicy(Protocol):
    """Whatever answers observations with action chunks: a diffusion policy, a baseline, an expert.

    `obs_horizon` observations go in, `action_horizon` actions come out.
    """

    interface: Interface
    obs_horizon: int
    action_horizon: int

    def act_batch(self, requests: list[ActRequest]) -> list[ActionChunk]:
        """Return one chunk per request, in order."""
        ...


@runtime_checkable
class ManyRobots(Protocol):
    """A policy that may have been trained for several robots and acts for one of them at a time.

    robots: the interface of each; empty for a policy with one robot of its own.
    """

    robots: Mapping[str, Interface]

    def use_embodiment(self, robot: str) -> None:
        """Act for this robot from now on: `interface` becomes the robot's."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldStats:
    """Per-entry statistics of one field, each f64 [D] (images: [3], of pixels in 0..255)."""

    minimum: Array
    maximum: Array
    mean: Array
    std: Array
    q01: Array
    q99: Array
    count: int
