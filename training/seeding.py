"""All randomness of a training step as a function of (seed, step, shard)."""

from __future__ import annotations

import numpy as np
import torch


def seed_shard(seed: int, step: int, shard: int, device: torch.device) -> torch.Generator:
    """Return a generator on `device` for noise; seed torch's own generators (dropout) as well.

    A shard is one micro-batch of one process, counted over the whole global batch: two processes
    draw what one process draws in two micro-batches, and nothing needs saving to resume.
    """
    own, noise = np.random.SeedSequence([seed, step, shard]).generate_state(2, np.uint64)
    torch.manual_seed(int(own >> np.uint64(1)))
    return torch.Generator(device).manual_seed(int(noise >> np.uint64(1)))
