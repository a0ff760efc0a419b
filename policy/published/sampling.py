"""How the published EDM policies sample, out of their configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telic.policy.diffusion.sampling import Sampler, SamplingConfig, Schedule
from telic.spec import near_misses


def edm_sampling(agent: Mapping[str, Any]) -> SamplingConfig:
    """Return the sampling that the section of a published agent's config names."""
    return SamplingConfig(
        sampler=Sampler[_known("sampler_type", agent.get("sampler_type", "ddim"), Sampler)],
        schedule=Schedule[
            _known("noise_scheduler", agent.get("noise_scheduler", "exponential"), Schedule)
        ],
        steps=int(agent["num_sampling_steps"]),
        sigma_min=float(agent["sigma_min"]),
        sigma_max=float(agent["sigma_max"]),
    )


def _known(key: str, value: str, enum: type[Sampler] | type[Schedule]) -> str:
    if value not in enum.__members__:
        raise ValueError(
            f"published config: {key}={value} is not one of {', '.join(enum.__members__)}"
            f"{near_misses(value, enum.__members__)}"
        )
    return value
