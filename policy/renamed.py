"""Names that checkpoints written before have for what is called otherwise now."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

# the beginning of a tensor's name, before and now
TENSORS: Final[Mapping[str, str]] = {
    "state_view.": "conditioner.state_features.",
    "state_encoder.": "conditioner.state_encoder.",
    "image_encoder.": "conditioner.image_encoder.",
    "goal_encoder.": "conditioner.goal_encoder.",
}
# a setting below `policy.`, before and now; and its values, where these are called otherwise too
SETTINGS: Final[Mapping[str, str]] = {"formulation.answer": "formulation.prediction_type"}
VALUES: Final[Mapping[str, Mapping[str, str]]] = {"formulation.answer": {"v": "v_prediction"}}
# parts of a tensor's name, before and now (RDT's blocks)
PARTS: Final[Mapping[str, str]] = {
    ".look.": ".cross_attention.",
    ".look_norm.": ".cross_attention_norm.",
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
    for before, now in PARTS.items():
        name = name.replace(before, now)
    return name


def renamed_settings(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a policy, as YAML data, by the names that they have now."""
    renamed = copy.deepcopy(dict(policy))
    for before, now in SETTINGS.items():
        *path, key = before.split(".")
        node: Any = renamed
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and key in node:
            value = node.pop(key)
            node[now.rpartition(".")[2]] = VALUES.get(before, {}).get(value, value)
    return renamed
