"""One optimizer step on one process's rows of a global batch."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator

from telic.policy.encoders.fields import Batch, rows_of
from telic.policy.objectives.objective import LossTerms
from telic.training.config import TrainConfig
from telic.training.seeding import seed_shard
from telic.training.validation import non_finite


def train_step(
    config: TrainConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
) -> dict[str, float]:
    """Losses, gradient norm and learning rate of optimizer step `step`, which is taken.

    NonFiniteLoss before the weights change.
    """
    rate = config.optimizer.rate(step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    shard_size = len(batch["text"]) // config.accumulate
    losses: list[LossTerms] = []
    for micro in range(config.accumulate):
        shard = accelerator.process_index * config.accumulate + micro
        rows = rows_of(batch, slice(micro * shard_size, (micro + 1) * shard_size))
        generator = seed_shard(config.seed, step, shard, accelerator.device)
        last = micro == config.accumulate - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                terms: LossTerms = model(rows, generator, config.draws)
            accelerator.backward(terms.total / config.accumulate)
        losses.append(terms)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
    loss = torch.stack([terms.total.detach() for terms in losses]).mean()
    if not bool(torch.isfinite(loss + norm)):
        raise non_finite(step, config.seed, losses)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    means = {"loss": loss}
    for name in losses[0].parts:
        means[name] = torch.stack([terms.parts[name].detach() for terms in losses]).mean()
    if accelerator.num_processes > 1:
        means = accelerator.reduce(means, reduction="mean")
    record = {name: value.item() for name, value in means.items()}
    return {**record, "grad_norm": norm.item(), "learning_rate": rate}
