"""What the groups of `train-policy` offer: policies, formulations, routings, objectives.

Importing it registers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from telic.configs.launch import register_choices, register_preparation
from telic.configs.words import text_of
from telic.policy.auxiliary import OBJECTIVES
from telic.policy.config import PolicyConfig
from telic.policy.denoisers.kinds import KINDS
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.finetune import starting_config
from telic.policy.objectives.objective import ObjectiveConfig
from telic.policy.presets import POLICIES
from telic.policy.routing.routings import ROUTINGS


def choose_policy(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` with the policy of `init_from=DIR` chosen, unless they choose another."""
    given = dict(override.partition("=")[::2] for override in overrides)
    path = text_of(given.get("init_from", "null"))
    if path is None or "policy" in given:
        return list(overrides)
    register_choices("policy", {"init_from": starting_config(path)})
    return [*overrides, "policy=init_from"]


def kinds_alone() -> dict[str, PolicyConfig]:
    """A policy of each kind as it is by default, for those that have no preset of their name."""
    return {name: PolicyConfig(denoiser=build()) for name, build in KINDS.items()}


def auxiliary() -> dict[str, dict[str, ObjectiveConfig]]:
    """The objectives that have no key of their own below `policy.`."""
    own = {entry.name for entry in fields(PolicyConfig)}
    return {name: {name: build()} for name, build in OBJECTIVES.items() if name not in own}


register_choices("policy", kinds_alone() | POLICIES)
register_preparation("train", choose_policy)
register_choices("policy/formulation", {name: build() for name, build in FORMULATIONS.items()})
register_choices("policy/denoiser/routing", {name: build() for name, build in ROUTINGS.items()})
register_choices("policy/auxiliary", auxiliary())
