"""Whole policy configurations by name: what `policy=NAME` on a command line chooses among."""

from __future__ import annotations

from telic.policy.goal_encoder import GoalConfig
from telic.policy.mdt import MdtConfig
from telic.policy.mode import ModeConfig
from telic.policy.policy import PolicyConfig

POLICIES: dict[str, PolicyConfig] = {
    "mode": PolicyConfig(denoiser=ModeConfig()),
    "mode_published": PolicyConfig(
        denoiser=ModeConfig.published(),
        action_horizon=10,
        goal=GoalConfig(element_dropout=0.1),
    ),
    "mdt": PolicyConfig(denoiser=MdtConfig()),
    "mdt_published": PolicyConfig(denoiser=MdtConfig.published(), action_horizon=10),
}
