"""The samplers and schedules by name. It needs no torch, so that command lines know them."""

from __future__ import annotations

from enum import Enum


class Sampler(Enum):
    """The loop over sigmas."""

    euler = "euler"
    ddim = "euler"  # noqa: PIE796 (DDIM in sigma is Euler: one loop, two names)
    heun = "heun"
    dpmpp_2m = "dpmpp_2m"
    euler_ancestral = "euler_ancestral"
    ddpm = "euler_ancestral"  # noqa: PIE796 (likewise, with eta 1)
    dpmpp_2m_sde = "dpmpp_2m_sde"


class Schedule(Enum):
    """How sigmas are spaced (schedules.py)."""

    exponential = "exponential"
    karras = "karras"
    linear = "linear"
    flow = "flow"  # evenly in flow time, from sigma_max to 0
    timesteps = "timesteps"  # those of a DDPM's timesteps
