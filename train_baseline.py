"""`train-baseline`: an episode store -> a checkpoint of robomimic's BC or BC-RNN-GMM.

The store is exported to HDF5, robomimic's own dataset reads it and its own algorithm trains on it,
so that `evaluate-policy` can hold our policies against theirs on the same episodes.
"""

from __future__ import annotations

import io
import math
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from telic.configs.launch import launch
from telic.datasets.formats.robomimic_hdf5 import Hdf5ExportOptions, export_hdf5
from telic.datasets.lock import WriterLock
from telic.datasets.sampler import BatchSampler
from telic.datasets.store import EpisodeStore
from telic.policy.atomic import CHECKPOINT
from telic.policy.checkpoint import save_checkpoint
from telic.policy.inference.device import pick_device
from telic.ranges import LAST_SEED, require_range, require_text
from telic.replacement import Replacement
from telic.training.data import prime_embeddings
from telic.training.robomimic_baseline import (
    GOAL,
    STATE,
    RobomimicConfig,
    RobomimicPolicy,
    import_robomimic,
)
from telic.training.run_log import RunLog, WandbConfig, log_of
from telic.training.stop_signals import StopSignals


@dataclass(kw_only=True, slots=True)
class TrainBaselineConfig:
    """Everything a baseline is a function of. The defaults are robomimic's published ones."""

    out: str = "runs/baseline"  # folder of checkpoints and log
    overwrite: bool = False  # start again where `out` holds another run
    store: str = "runs/demo/demos.zarr"  # the episode store
    policy: RobomimicConfig = field(default_factory=RobomimicConfig)
    steps: int = 20_000  # optimizer steps
    minutes: float | None = None  # time after which it stops earlier; None: all steps
    batch_size: int = 100  # windows of a step
    device: str = "auto"  # auto, cpu, cuda
    threads: int | None = None  # CPU threads; None leaves torch's choice
    seed: int = 1  # seed of the run
    log_every: int = 20  # steps between two records of the log
    checkpoint_every: int = 1000  # steps between two checkpoints
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        require_text(self, "out", "store", "device")
        counts = ("steps", "batch_size", "log_every", "checkpoint_every", "threads")
        require_range(self, *counts, at_least=1)
        require_range(self, "minutes", above=0)
        require_range(self, "seed", at_least=0, at_most=LAST_SEED)


def run(config: TrainBaselineConfig) -> dict[str, float]:
    """Train as `config` says; return the last step's record.

    Leaves `out`/checkpoints/last and `out`/log.jsonl. ValueError on bad input, KeyboardInterrupt
    after a SIGINT or SIGTERM, when the checkpoint is written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    _require_new(config)
    store = EpisodeStore.open(config.store)
    _require_unit_actions(store)
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    policy = config.policy.build(store.interface, store.stats)
    prime_embeddings(policy, [store])
    policy.to(device).train()
    out.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(out, "run")
    try:
        _require_new(config, locked_by_us=True)  # reading took its time
        return _train(config, policy, store.num_steps)
    finally:
        lock.release()


def _require_new(config: TrainBaselineConfig, locked_by_us: bool = False) -> None:
    """Raise ValueError where `out` holds what is not to be written over."""
    checkpoint = _checkpoint(config)
    if checkpoint.exists() and not config.overwrite:
        raise ValueError(
            f"out={config.out} holds a run already; overwrite=true starts again, or choose "
            "another out"
        )
    Replacement(
        checkpoint,
        CHECKPOINT,
        overwrite=config.overwrite,
        sources=[config.store],
        locked_by_us=locked_by_us,
    ).require()
    log_of(Path(config.out)).require()


def _checkpoint(config: TrainBaselineConfig) -> Path:
    return Path(config.out) / "checkpoints" / "last"


def _train(
    config: TrainBaselineConfig, policy: RobomimicPolicy, num_steps: int
) -> dict[str, float]:
    """Train `policy` on the `num_steps` steps of the store; return the last step's record."""
    out, checkpoint = Path(config.out), _checkpoint(config)
    batches = _batches(config, policy, out)

    def save(step: int) -> None:
        extra = {"train": config, "steps": step, "robomimic": config.policy.robomimic().to_dict()}
        save_checkpoint(checkpoint, policy, extra=extra)

    deadline = math.inf if config.minutes is None else time.monotonic() + 60 * config.minutes
    record: dict[str, float] = {}
    with StopSignals() as stop, RunLog(out, config, config.wandb, config.steps) as log:
        parameters = sum(p.numel() for p in policy.parameters())
        log.say(f"{policy.title}: {parameters / 1e6:.2f} M parameters, {num_steps} steps")
        for step in range(1, config.steps + 1):
            record = policy.train_step(next(batches))
            _require_finite(record, step)
            last = step == config.steps or time.monotonic() > deadline or stop.received is not None
            if last or step % config.log_every == 0:
                log.write(step, record)
                log.advance(step, f"loss {record['loss']:.4f}")
            if last or step % config.checkpoint_every == 0:
                save(step)
                log.draw()
            if last:
                log.say(f"{checkpoint} after {step} steps")
                break
        if stop.received is not None:
            raise KeyboardInterrupt(int(stop.received or signal.SIGINT))
    return record


def _batches(
    config: TrainBaselineConfig, policy: RobomimicPolicy, out: Path
) -> Iterator[dict[str, Any]]:
    """Return endless batches of robomimic's dataset, which holds the exported store in memory."""
    theirs = config.policy.robomimic()
    folder = Path(tempfile.mkdtemp(prefix="robomimic-", dir=out))
    try:
        file = folder / "demos.hdf5"
        goal = Hdf5ExportOptions(goal=policy.language_name, next_obs=False, valid_fraction=0.0)
        export_hdf5(Path(config.store), file, goal)
        with redirect_stdout(io.StringIO()):  # its progress bars
            dataset = import_robomimic().SequenceDataset(
                hdf5_path=str(file),
                obs_keys=(STATE, GOAL),
                dataset_keys=("actions",),
                seq_length=theirs.train.seq_length,
                hdf5_cache_mode="low_dim",
                load_next_obs=False,
            )
    finally:
        shutil.rmtree(folder)
    order = BatchSampler(len(dataset), config.batch_size, seed=config.seed)
    batches = ((batch % len(dataset)).tolist() for batch in order)
    return iter(DataLoader(dataset, batch_sampler=batches))


def _require_unit_actions(store: EpisodeStore) -> None:
    """Raise ValueError for actions that robomimic's networks, which end in tanh, cannot give."""
    stats = store.stats["action"]
    low, high = float(stats.minimum.min()), float(stats.maximum.max())
    if low < -1 or high > 1:
        raise ValueError(
            f"{store.path}: actions span {low:.3g} .. {high:.3g}, robomimic's baselines need "
            "[-1, 1]; scale them when the store is made"
        )


def _require_finite(record: dict[str, float], step: int) -> None:
    if not math.isfinite(record["loss"]):
        raise ValueError(
            f"step {step}: the loss is not finite; demo-store validate finds bad data, a lower "
            "policy.learning_rate steadies training"
        )


def main() -> None:
    """Entry point of `train-baseline`."""
    launch(TrainBaselineConfig, run, "train_baseline")


if __name__ == "__main__":
    main()
