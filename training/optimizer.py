"""AdamW with decay on matrices alone, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.autograd.graph import increment_version


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
        for name in ("learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)} must be positive")
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps={self.warmup_steps} must not be negative")

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
