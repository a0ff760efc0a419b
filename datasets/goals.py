"""Goals of windows: the sentence of a labelled segment, a later step of the episode, or both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from telic.spec import Array


class TextGoal(Enum):
    """Whether windows carry the instruction of a segment that covers their step."""

    none = "none"
    optional = "optional"  # "" where no segment covers the step
    required = "required"  # only steps in a segment are windows


class Hindsight(Enum):
    """How far ahead the step lies whose state and picture serve as a goal reached in hindsight."""

    none = "none"
    uniform = "uniform"  # every distance in [min_ahead, max_ahead] as likely
    geometric = "geometric"  # min_ahead + k with probability p (1 - p)^k, cut at max_ahead


@dataclass(kw_only=True, slots=True)
class WindowGoalConfig:
    """Which goals a window carries. Distances are in steps and end at the episode's last step.

    MDT's published rule (10 + w, w = 1 + Geometric(0.1) redrawn until 21 <= w <= 50) is
    hindsight=geometric, min_ahead=31, max_ahead=60, p=0.1: a geometric law forgets its start.
    """

    text: TextGoal = TextGoal.required  # whether windows carry a segment's sentence
    hindsight: Hindsight = Hindsight.none  # how far ahead the step lies that is the goal
    min_ahead: int = 1  # steps to the nearest goal
    max_ahead: int | None = None  # steps to the farthest goal; None: up to the episode's last step
    p: float = 0.1  # of geometric: chance that each further step is the last
    state: bool = True  # hindsight goals have the state, as goal_state
    images: bool = True  # hindsight goals have pictures, as goal_image/<camera>

    def __post_init__(self) -> None:
        if self.min_ahead < 0:
            raise ValueError(f"goal.min_ahead={self.min_ahead} must be >= 0")
        if self.max_ahead is not None and self.max_ahead < self.min_ahead:
            raise ValueError(
                f"goal.max_ahead={self.max_ahead} must be >= goal.min_ahead={self.min_ahead}"
            )
        if not 0 < self.p < 1:
            raise ValueError(f"goal.p={self.p} must lie between 0 and 1")
        if self.text is TextGoal.none and self.hindsight is Hindsight.none:
            raise ValueError("goal: text=none and hindsight=none leave windows without a goal")


def steps_ahead(config: WindowGoalConfig, remaining: Array, uniform: Array) -> Array:
    """Return how far ahead the goal lies, i64 [B].

    `remaining` i64 [B]: steps between the window's and the episode's last; `uniform` f64 [B] in
    [0, 1). Where less than min_ahead steps remain the goal is the last step.
    """
    low = np.minimum(config.min_ahead, remaining)
    high = remaining
    if config.max_ahead is not None:
        high = np.minimum(config.max_ahead, remaining)
    choices = high - low + 1
    if config.hindsight is Hindsight.uniform:
        return low + np.floor(uniform * choices).astype(np.int64)
    mass = -np.expm1(choices * np.log1p(-config.p))  # of the first `choices` values
    ahead = np.floor(np.log1p(-uniform * mass) / np.log1p(-config.p)).astype(np.int64)
    return low + np.minimum(ahead, choices - 1)


def uniforms(seed: int, epoch: Array, index: Array, stream: int) -> Array:
    """Return numbers in [0, 1), f64 [B], each a function of (seed, epoch, index, stream) alone.

    Each word is folded in by the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    state = np.full(len(index), seed & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for word in (np.full(len(index), stream), epoch, index):
        state += np.asarray(word).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return (state >> np.uint64(11)) * 2.0**-53
