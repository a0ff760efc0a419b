"""AdamW with decay on matrices alone, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.autograd.graph import increment_version

from telic.ranges import require_range


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, linear warm-up, cosine decay."""

    learning_rate: float = 1e-3  # peak of the learning rate
    final_ratio: float = 1e-3  # the last step's rate as a share of the peak
    warmup_steps: int = 200  # steps in which the rate rises from 0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])  # AdamW's beta1 and beta2
    weight_decay: float = 0.01  # AdamW's decay, on matrices alone
    max_grad_norm: float = 1.0  # norm to which gradients are clipped

    def __post_init__(self) -> None:
        prefix = "optimizer."
        require_range(self, "learning_rate", "max_grad_norm", above=0, prefix=prefix)
        require_range(self, "final_ratio", at_least=0, at_most=1, prefix=prefix)
        require_range(self, "warmup_steps", "weight_decay", at_least=0, prefix=prefix)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"optimizer.betas={list(self.betas)} must be two numbers in [0, 1), such as "
                "[0.9, 0.95]"
            )

    def build(self, policy: nn.Module) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
        trainable = [p for p in policy.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.learning_rate,
            betas=(self.betas[0], self.betas[1]),
            fused=True,
        )
        # the fused kernel writes weights without counting it, and a plan goes by the count
        optimizer.register_step_post_hook(lambda *_: increment_version(trainable))
        return optimizer

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of optimizer step `step` (from 0) of `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_ratio + (1 - self.final_ratio) * cosine)
