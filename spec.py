"""The words every room shares: what an array, an observation, a goal and a chunk are. numpy only.

Images are uint8 [h w 3], upright, RGB. States and actions are float32 in physical units.
All times are `time.monotonic_ns` or, in a store, nanoseconds since the episode began.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def near_misses(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return "; did you mean a, b?" for the known names closest to `name`, or "" if none is."""
    close = difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


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
class ArraySpec:
    """Shape, dtype, unit and bounds of one array. A dimension of None may have any size.

    `names` labels the entries of a 1-d array (joint names, `gripper`); `note` holds what a reader
    of the numbers must know: rotation representation, frame, sign of the gripper.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    unit: str = ""
    minimum: tuple[float, ...] | None = None
    maximum: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    rate_hz: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for bound in (self.minimum, self.maximum):
            if bound is not None and len(bound) not in (1, self.shape[-1] if self.shape else 1):
                raise ValueError(f"a bound of {len(bound)} entries does not fit shape {self.shape}")
        if self.names and (len(self.shape) != 1 or len(self.names) != self.shape[0]):
            raise ValueError(f"{len(self.names)} names do not label an array of shape {self.shape}")

    def problem(self, value: Array) -> str | None:
        """Return what is wrong with `value` ("shape is (6,), expected (7,)"), or None."""
        value = np.asarray(value)
        fits = len(value.shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            return f"shape is {value.shape}, expected {self.shape}"
        if value.dtype != np.dtype(self.dtype):
            return f"dtype is {value.dtype}, expected {self.dtype}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"entry {_first(~np.isfinite(value))} is not finite"
        if self.minimum is not None and (low := value < np.asarray(self.minimum)).any():
            return f"entry {_first(low)} is {value[low][0]:.6g}, below {min(self.minimum):.6g}"
        if self.maximum is not None and (high := value > np.asarray(self.maximum)).any():
            return f"entry {_first(high)} is {value[high][0]:.6g}, above {max(self.maximum):.6g}"
        return None

    def validate(self, value: Array, where: str) -> Array:
        """Return `value` unchanged if it conforms; else raise ValueError(f"{where}: ...")."""
        if problem := self.problem(value):
            raise ValueError(f"{where}: {problem}")
        return value

    def clip(self, value: Array) -> Array:
        """Return `value` within the bounds, as the spec's dtype."""
        if self.minimum is not None or self.maximum is not None:
            value = np.clip(value, self.minimum, self.maximum)
        return np.asarray(value, dtype=self.dtype)

    def sample(self, rng: np.random.Generator) -> Array:
        """Return a random conforming array; a free dimension becomes 2."""
        shape = tuple(2 if n is None else n for n in self.shape)
        if np.dtype(self.dtype).kind in "ui":
            top = min(np.iinfo(self.dtype).max, 255)
            return rng.integers(0, top, shape, endpoint=True).astype(self.dtype)
        low = np.asarray(self.minimum if self.minimum is not None else -1.0)
        high = np.asarray(self.maximum if self.maximum is not None else 1.0)
        return self.clip(rng.uniform(low, high, shape))

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON data; entries at their default are left out."""
        data: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        for key in ("unit", "minimum", "maximum", "names", "rate_hz", "note"):
            value = getattr(self, key)
            if value not in (None, "", ()):
                data[key] = list(value) if isinstance(value, tuple) else value
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArraySpec:
        """Return the spec that `to_json` wrote."""
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**tuples)


def _first(wrong: Array) -> str:
    return str(tuple(int(i) for i in np.argwhere(wrong)[0]))


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

        `mine` and `theirs` say in the message where the two come from. Cameras that `other` has
        and this interface does not are fine.
        """
        for name in ("state", "action"):
            want, got = getattr(self, name).shape, getattr(other, name).shape
            if want != got:
                raise ValueError(
                    f"{theirs}: {name} has shape {got}, expected {want} by {mine}; "
                    f"use a {theirs.split(' ')[0]} with that {name} size or train on this one"
                )
        for camera, spec in self.images.items():
            if camera not in other.images:
                offered = ", ".join(other.images) or "none"
                raise ValueError(
                    f"{theirs}: no camera {camera!r} (it has {offered}), {mine} needs it"
                )
            if other.images[camera].shape != spec.shape:
                raise ValueError(
                    f"{theirs}: camera {camera!r} gives {other.images[camera].shape}, "
                    f"expected {spec.shape} by {mine}"
                )
        if other.rate_hz != self.rate_hz:
            raise ValueError(
                f"{theirs}: runs at {other.rate_hz:g} Hz, expected {self.rate_hz:g} Hz by {mine}"
            )

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

    robots: what each of them senses and is told; empty for a policy with one robot of its own.
    """

    robots: Mapping[str, Interface]

    def act_as(self, robot: str) -> None:
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
