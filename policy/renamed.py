"""Names that checkpoints written before have for what is called otherwise now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# the beginning of a tensor's name, before and now
TENSORS: Final[Mapping[str, str]] = {
    "state_view.": "conditioner.state_features.",
    "state_encoder.": "conditioner.state_encoder.",
    "image_encoder.": "conditioner.image_encoder.",
    "goal_encoder.": "conditioner.goal_encoder.",
}
AVERAGED = "module."  # before the names of averaged weights


def renamed_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a state dict by the names that they have now."""
    return {_renamed(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str) -> str:
    own = name.removeprefix(AVERAGED)
    for before, now in TENSORS.items():
        if own.startswith(before):
            return name.removesuffix(own) + now + own.removeprefix(before)
    return name
