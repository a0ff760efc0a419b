"""What is measured beside training: held-out loss and action error, and a loss gone non-finite."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from telic.policy.diffusion.formulation import mean_entry
from telic.policy.encoders.fields import Batch
from telic.policy.objectives.objective import LossTerms
from telic.policy.policy import Policy
from telic.training.seeding import seed_shard


class NonFiniteLoss(ValueError):
    """The loss or its gradient is not finite; nothing was updated. rows: of the batch, bool [B]."""

    rows: Tensor


@torch.no_grad()
def held_out_errors(
    policy: Policy, batches: Iterable[Batch], accelerator: Accelerator, seed: int
) -> dict[str, float]:
    """Return `held_out_loss` and `held_out_action_error` of `policy` over `batches`.

    The loss is the diffusion loss with noise that is the same every time; the error is the mean
    absolute difference between sampled and demonstrated actions, in physical units, over actions
    that lie inside their episode (in the unified space: over the slots of each robot).
    """
    losses, errors, weights = [], [], []
    for index, batch in enumerate(batches):
        generator = seed_shard(seed, 0, index, accelerator.device)
        with accelerator.autocast():
            losses.append(float(policy.loss(batch, generator).diffusion))
        predicted = policy.predict(batch, generator)
        error = mean_entry((predicted - batch["action"]).abs(), batch.get("action_slots"))
        error = error[batch["action_mask"]]
        errors.append(float(error.mean()))
        weights.append(len(batch["action"]))
    return {
        "held_out_loss": float(np.average(losses, weights=weights)),
        "held_out_action_error": float(np.average(errors, weights=weights)),
    }


def non_finite(step: int, seed: int, losses: list[LossTerms]) -> NonFiniteLoss:
    """Return the error for `step`, naming the sigmas that it happened at."""
    per_sample = torch.cat([terms.per_sample.detach().float().cpu() for terms in losses])
    sigma = torch.cat([terms.sigma.detach().float().cpu() for terms in losses])
    bad = ~torch.isfinite(per_sample)
    rows = bad if bad.any() else torch.ones_like(bad)
    what = "the loss" if bad.any() else "the gradient"
    error = NonFiniteLoss(
        f"step {step} of seed {seed}: {what} is not finite for sigma in "
        f"[{float(sigma[rows].min()):.4g}, {float(sigma[rows].max()):.4g}]"
    )
    error.rows = rows.view(-1, losses[0].draws).any(1)
    return error
