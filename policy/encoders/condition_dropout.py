"""Condition dropout: training at times hides the conditions besides the goal.

Liu et al. 2024 (RDT), in the form of its released code: each condition is hidden by itself with
probability 0.1, so that the policy relies on none alone. What a hidden one is replaced by is what
inference shows where it is absent: the mean colour, the mean state, no mask, a rate of 0. (The
goal's own dropout is `policy.goal.dropout`.) B samples, O observation horizon, P state size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class ConditionDropoutConfig:
    """The share of samples from which training hides each condition; RDT's is 0.1 for all."""

    images: float = 0.0  # share of frames hidden, each camera's drawn by itself
    state: float = 0.0  # share of samples without states
    # share of samples without the mask of the robot's entries (unified space)
    action_mask: float = 0.0
    rate: float = 0.0  # share of samples without the rate

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share < 1:
                raise ValueError(f"policy.condition_dropout.{name}={share} must lie in [0, 1)")


NOTHING_HIDDEN = ConditionDropoutConfig()  # what inference goes by


def hide(
    values: Shaped[Tensor, "b ..."],
    instead: Tensor | float,
    share: float,
    generator: torch.Generator | None,
    axes: int = 1,
) -> Shaped[Tensor, "b ..."]:
    """Return values of which `share` are `instead`, drawn for each place on the first `axes`."""
    if not share:
        return values
    size = (*values.shape[:axes], *[1] * (values.ndim - axes))
    hidden = torch.rand(size, generator=generator, device=values.device) < share
    return torch.where(hidden, torch.as_tensor(instead, device=values.device).to(values), values)


def hide_frames(
    frames: Mapping[str, UInt8[Tensor, "b o h w 3"]],
    colours: Mapping[str, Float[Tensor, "3 1 1"]],
    share: float,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Return camera -> frames, `share` of which are plain: the camera's colour, from [0, 1]."""
    return {
        camera: hide(images, (colours[camera] * 255).byte().flatten(), share, generator, axes=2)
        for camera, images in frames.items()
    }
