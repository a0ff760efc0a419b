"""The fields of a batch: what its names hold, written down once.

B samples, O observation horizon, P state size, H action horizon, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

CameraField = Literal["image", "goal_image", "future_image"]


class Batch(TypedDict, total=False):
    """Windows of demonstrations, or requests, as tensors; physical units, B rows in each field.

    Pictures have a field for each camera: `image/<camera>` u8 [B O h w 3], the observation;
    `goal_image/<camera>` u8 [B h w 3], the goal; `future_image/<camera>` u8 [B h w 3], what
    objectives predict. `camera_images` reads them. Where a frozen tower's features are kept beside
    the store, `image_features/<camera>` f16 [B O ...] and `goal_image_features/<camera>` f16
    [B ...] stand in for pictures; `stored_features` reads them.
    """

    state: Float[Tensor, "b o p"]
    action: Float[Tensor, "b h a"]  # of windows
    action_mask: Bool[Tensor, "b h"]  # False where the episode was over; absent: all are known
    text: list[str]  # the goal's sentence; "": none
    # in place of `text`: the vectors of sentences [B dim], or of their words [B L dim] and which
    # of those there are
    sentence: Float[Tensor, "b ..."]
    sentence_words: Bool[Tensor, "b l"]
    goal_kinds: tuple[str, ...]  # the kinds of goal that some row may hold; absent: all
    goal_state: Float[Tensor, "b p"]
    goal_state_given: Bool[Tensor, " b"]  # rows that hold one; absent: all
    goal_images_given: Bool[Tensor, " b"]
    goal_ahead: Int[Tensor, " b"]  # steps from the window to its goal

    scene: Float[Tensor, "b s"]  # what a simulator knows besides the robot, for training alone

    # the unified space: slots that a sample's robot has, and its actions a second
    state_slots: Bool[Tensor, "b p"]
    action_slots: Bool[Tensor, "b a"]
    rate_hz: Float[Tensor, " b"]

    # requests: what is left of the last chunk, which of it is known, how it binds the next one
    prefix: Float[Tensor, "b h a"]
    prefix_known: Bool[Tensor, "b h"]
    prefix_fixed: Bool[Tensor, "b h"] | None
    prefix_pull: Float[Tensor, "b h"] | None

    # windows: where they are from
    store: Int[Tensor, " b"]
    episode: Int[Tensor, " b"]
    step: Int[Tensor, " b"]


def camera_images(
    batch: Batch, field: CameraField, cameras: Sequence[str]
) -> dict[str, UInt8[Tensor, "b ..."]]:
    """The pictures of some cameras by name; KeyError where the batch lacks one."""
    fields = cast(Mapping[str, Any], batch)
    return {camera: fields[f"{field}/{camera}"] for camera in cameras}


def stored_features(
    batch: Batch, field: CameraField, cameras: Sequence[str]
) -> list[Float[Tensor, "b ..."]] | None:
    """The features that stand in for the pictures of some cameras, f32; None where none do."""
    fields = cast(Mapping[str, Any], batch)
    names = [f"{field}_features/{camera}" for camera in cameras]
    if not names or names[0] not in fields:
        return None
    return [fields[name].float() for name in names]


def holds(batch: Batch, name: str) -> bool:
    """Whether a batch has a field, or features that stand in for its pictures."""
    field, slash, camera = name.partition("/")
    return name in batch or (bool(slash) and f"{field}_features/{camera}" in batch)


def to_device(batch: Batch, device: torch.device, wait: bool = True) -> Batch:
    """The batch with its tensors on a device; without `wait` they may still be on their way."""
    moved = {
        name: value.to(device, non_blocking=not wait) if torch.is_tensor(value) else value
        for name, value in batch.items()
    }
    return cast(Batch, moved)


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    fields = cast(Mapping[str, Any], batch)
    return cast(Batch, {name: value[rows] for name, value in fields.items()})
