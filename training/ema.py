"""The moving average of the weights, torch's own, with a decay that warms up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

ParamList = tuple[Tensor, ...] | list[Tensor]


@dataclass(kw_only=True, slots=True)
class EmaConfig:
    """Decay after t updates: min(decay, (1 + t) / (10 + t))."""

    decay: float = 0.999  # largest decay of the moving average of the weights

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema.decay={self.decay} must lie in [0, 1)")

    def build(self, model: nn.Module) -> AveragedModel:
        """Return the average, a copy of `model` in `.module`; `update_parameters` feeds it.

        Its state_dict holds the number of updates, so the warm-up goes on after a resume.
        """
        return AveragedModel(model, multi_avg_fn=self._update)

    def _update(self, averaged: ParamList, current: ParamList, num_averaged: Tensor | int) -> None:
        t = int(num_averaged)
        step = get_ema_multi_avg_fn(min(self.decay, (1 + t) / (10 + t)))
        step(averaged, current, num_averaged)
