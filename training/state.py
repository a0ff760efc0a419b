"""A policy in training and all that a checkpoint of it holds."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from accelerate import Accelerator

from telic.policy.checkpoint import load_train_state, save_checkpoint
from telic.policy.finetune import copy_language
from telic.policy.inference.machine import machine
from telic.policy.layers.tensors import load_exactly
from telic.policy.policy import Policy
from telic.training.config import TrainConfig
from telic.training.resume import Resumed, RunRecord


@dataclass(slots=True)
class TrainProgress:
    """Where a run stands: optimizer steps done and the best score so far (lower is better).

    seconds: that it took so far, in all sittings, validations and checkpoints included.
    """

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


class Training:
    """A policy in training: its averaged weights, its optimizer, and how far it is."""

    def __init__(
        self, config: TrainConfig, policy: Policy, accelerator: Accelerator, record: RunRecord
    ) -> None:
        self.config, self.accelerator, self.record = config, accelerator, record
        self.policy = policy.to(accelerator.device)
        self.ema = config.ema.build(policy)
        self.averaged = cast(Policy, self.ema.module)
        self.optimizer = config.optimizer.build(policy)
        self.progress = TrainProgress()
        self._counted_s = time.monotonic()  # up to which `progress.seconds` counts

    def resume(self, resumed: Resumed) -> None:
        """Go on from a checkpoint; ValueError where it is of another configuration."""
        state = load_train_state(resumed.folder)
        load_exactly(self.policy, state.weights, f"resume=true: {resumed.folder}")
        try:
            self.ema.load_state_dict(state.ema)
            self.optimizer.load_state_dict(state.optimizer)
            self.progress = TrainProgress(**state.progress)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            line = str(error).partition("\n")[0]
            raise ValueError(
                f"resume=true: {resumed.folder}/train_state: not of this configuration ({line})"
            ) from error
        if not resumed.best_holds:
            self.progress.best = math.inf

    def checkpoint(self, name: str) -> None:
        """Write `out`/checkpoints/name, on one process of all."""
        self.accelerator.wait_for_everyone()
        now_s = time.monotonic()
        self.progress.seconds += now_s - self._counted_s
        self._counted_s = now_s
        if self.accelerator.is_main_process:
            save_checkpoint(
                Path(self.config.out) / "checkpoints" / name,
                self.averaged,
                train_state={
                    "weights": self.policy.state_dict(),
                    "ema": self.ema.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "progress": asdict(self.progress),
                },
                extra={"train": self.config, "run": self.record, "machine": machine()},
                write_language=copy_language(self.policy),
            )
        self.accelerator.wait_for_everyone()
