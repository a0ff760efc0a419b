"""What `policy=`, `policy/formulation=` and `policy/denoiser/routing=` of `train-policy` offer.

Importing it registers them.
"""

from __future__ import annotations

from collections.abc import Sequence

from telic.configs.launch import register_choices, register_preparation
from telic.configs.words import text_of
from telic.policy.diffusion.formulations import FORMULATIONS
from telic.policy.finetune import starting_config
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


register_choices("policy", POLICIES)
register_preparation("train", choose_policy)
register_choices("policy/formulation", {name: build() for name, build in FORMULATIONS.items()})
register_choices("policy/denoiser/routing", {name: build() for name, build in ROUTINGS.items()})
