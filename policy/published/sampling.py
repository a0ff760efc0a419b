"""How the published EDM policies sample, out of their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telic.policy.diffusion.samplers import SAMPLERS
from telic.policy.diffusion.sampling import SCHEDULES, SamplingConfig
from telic.registry import Registry
from telic.spec import near_misses

EXAMPLES = {  # of the entries of an agent's config that are read
    "sampler_type": "ddim",
    "noise_scheduler": "exponential",
    "num_sampling_steps": 10,
    "sigma_min": 0.001,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
}


def edm_sampling(agent: Mapping[str, Any]) -> SamplingConfig:
    """Return the sampling that the section of a published agent's config names."""
    return SamplingConfig(
        sampler=_known(
            "sampler_type", agent.get("sampler_type", EXAMPLES["sampler_type"]), SAMPLERS
        ),
        schedule=_known(
            "noise_scheduler", agent.get("noise_scheduler", EXAMPLES["noise_scheduler"]), SCHEDULES
        ),
        steps=int(agent["num_sampling_steps"]),
        sigma_min=float(agent["sigma_min"]),
        sigma_max=float(agent["sigma_max"]),
    )


def _known(key: str, value: str, choices: Registry[Any]) -> str:
    if value not in choices:
        raise ValueError(
            f"published config: {key}={value} is not one of {', '.join(choices)}"
            f"{near_misses(value, choices)}"
        )
    return value
