"""What a training run is a function of: the settings of `train-policy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from telic.datasets.goals import WindowGoalConfig
from telic.envs.evaluation.selection import SelectionRollouts
from telic.policy.config import PolicyConfig
from telic.policy.encoders.towers import TOWERS, Weights
from telic.ranges import require_range
from telic.training.ema import EmaConfig
from telic.training.optimizer import OptimizerConfig
from telic.training.run_log import WandbConfig


class TrainPrecision(Enum):
    """What forward and backward passes compute in; weights and sigmas are always float32."""

    auto = "auto"  # bf16 where the device computes it natively, else fp32
    fp32 = "fp32"
    bf16 = "bf16"


class BestBy(Enum):
    """What makes a checkpoint the best so far; where it cannot be measured, the newest is."""

    action_error = "held_out_action_error"
    success = "failure_rate"  # of the selection rollouts: noisy where they are few


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Which windows of which stores."""

    stores: list[str] = field(default_factory=list)  # episode stores to train on
    video_only: list[str] = field(default_factory=list)  # more stores; their actions are not used
    goal: WindowGoalConfig = field(default_factory=WindowGoalConfig)
    language_fraction: float = 1.0  # share of the training episodes that keep their sentences
    # share of each batch drawn from steps with a sentence (MDT: 0.5); None: as it comes
    labelled_share: float | None = None
    future_steps: int = 3  # steps to the frames that policy.foresight and .future predict
    cameras: list[str] | None = None  # names of the cameras used; None: all of the store's
    # frozen towers' features that demo-store features wrote are read in place of pictures
    features: bool = False
    memory_mb: int = 256  # memory for a store's small fields, in each process
    held_out: float = 0.04  # share of the episodes kept out of training
    held_out_windows: int = 1024  # windows of held-out episodes that are measured
    num_workers: int = 0  # loader processes; 0 reads in the training process

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} must lie in [0, 1)")
        require_range(self, "language_fraction", at_least=0, at_most=1, prefix="data.")
        require_range(self, "labelled_share", above=0, at_most=1, prefix="data.")
        require_range(self, "future_steps", "held_out_windows", at_least=1, prefix="data.")
        require_range(self, "memory_mb", "num_workers", at_least=0, prefix="data.")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything a training run is a function of."""

    out: str = "runs/train"  # folder of checkpoints and log
    init_from: str | None = None  # a checkpoint directory whose policy and weights to start from
    resume: bool = False  # go on from `out`/checkpoints/last, or best, where there is one
    overwrite: bool = False  # start again where `out` holds another run
    data: DataConfig = field(default_factory=DataConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    steps: int = 5000  # optimizer steps
    batch_size: int = 256  # windows of a step, over all processes and micro-batches
    # noise levels and noises of each window of a step; what encodes the window runs once for all
    draws: int = 1
    accumulate: int = 1  # micro-batches per optimizer step
    device: str = "auto"  # auto, cpu, cuda
    precision: TrainPrecision = TrainPrecision.auto  # what forward and backward passes compute in
    threads: int | None = None  # CPU threads; None leaves torch's choice
    seed: int = 1  # of the run: data order, noise, dropout
    log_every: int = 20  # steps between two records of the log
    validate_every: int = 1000  # steps between two validations; 0: at the end only
    checkpoint_every: int = 1000  # steps between two checkpoints
    best_by: BestBy = BestBy.action_error  # what makes a checkpoint `best`
    rollouts: SelectionRollouts = field(default_factory=SelectionRollouts)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        if not self.out.strip():
            raise ValueError("out is empty; name a folder, out=runs/train")
        counts = ("steps", "batch_size", "draws", "accumulate", "threads", "log_every")
        require_range(self, *counts, "checkpoint_every", at_least=1)
        require_range(self, "validate_every", at_least=0)
        require_range(self, "seed", at_least=0, at_most=2**32 - 1)
        if self.best_by is BestBy.success and not self.rollouts.tasks:
            raise ValueError("best_by=success needs rollouts; give rollouts.tasks=[...]")
        if not self.data.stores:
            raise ValueError("data.stores is empty; give one: data.stores=[runs/demo/demos.zarr]")
        image_configs = {"policy.images": self.policy.images}
        if self.policy.goal.images:
            image_configs["policy.goal.image"] = self.policy.goal.image
        for name, images in image_configs.items():
            tower = TOWERS.get(images.tower)
            absent = tower is not None and tower.weights is Weights.checkpoint
            if images.frozen and absent and self.init_from is None:
                raise ValueError(
                    f"{name}.frozen=true would freeze {images.tower} at random weights; start from "
                    "a checkpoint that has its weights, init_from=DIR"
                )
        if self.data.features:
            self._require_features_enough()
        if self.data.video_only and not self.policy.reads_future:
            raise ValueError(
                "data.video_only: nothing would learn from them; set policy.future.weight=1 or "
                "policy.foresight.weight=1"
            )

    def _require_features_enough(self) -> None:
        """Raise ValueError where something of the policy reads the pictures themselves."""
        policy = self.policy
        if not policy.images.frozen:
            raise ValueError(
                "data.features=true holds what a frozen tower answers, and this one is trained; "
                f"set policy.images.frozen=true (policy.images.tower={policy.images.tower})"
            )
        if policy.condition_dropout.images:
            raise ValueError(
                f"policy.condition_dropout.images={policy.condition_dropout.images} hides pictures,"
                " which data.features=true leaves out; set one of them back"
            )
        if readers := [one.name for one in policy.objectives if one.reads_pictures]:
            raise ValueError(
                f"policy.{readers[0]} reads the pictures of observations, which "
                "data.features=true leaves out; set one of them back"
            )


# what may differ when a run goes on (`resume=true`), and what to say of it; all else is the run
FREE: Mapping[str, str] = {
    "out": "",
    "resume": "",
    "overwrite": "",
    "init_from": "the run goes on from its own weights",
    "steps": "the learning rate falls over all of these",
    "device": "",
    "precision": "losses may differ a little from here on",
    "threads": "",
    "log_every": "",
    "validate_every": "",
    "checkpoint_every": "",
    "rollouts": "",
    "wandb": "",
    "data.num_workers": "",
    "data.memory_mb": "",
    "data.held_out_windows": "held-out numbers are of other windows from here on",
}
# what is held against the episodes and parts of a batch that a checkpoint records, not by value
RECORDED = ("data.stores", "data.video_only", "accumulate")
