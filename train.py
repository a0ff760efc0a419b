"""`train-policy`: episode stores in, a checkpoint directory out; one loop for every kind.

Everything random in a step is a function of (seed, step, shard), where the global batch is cut
into `world_size * accumulate` shards. So a resumed run repeats the uninterrupted one bit for bit,
and two processes compute what one process with `accumulate=2` computes.
"""

from __future__ import annotations

import math
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from telic.build_anchors import chunk_batches, describe
from telic.configs.launch import launch, register_choices, register_preparation
from telic.datasets.goals import GoalConfig
from telic.datasets.sampler import BatchSampler
from telic.datasets.store import EpisodeStore
from telic.datasets.unified import Space, robots_of, unified_interface, unified_stats
from telic.datasets.windows import WindowConfig, Windows, split_episodes
from telic.envs.selection import SelectionRollouts
from telic.policy.anchors import AnchorSet, build_anchors
from telic.policy.checkpoint import load_train_state, save_checkpoint
from telic.policy.device import pick_device, supports_bf16
from telic.policy.ema import EmaConfig
from telic.policy.formulations import FORMULATIONS
from telic.policy.optimizer import OptimizerConfig
from telic.policy.policy import LossTerms, Policy, PolicyConfig
from telic.policy.presets import POLICIES
from telic.policy.robomimic_baseline import RobomimicPolicy
from telic.policy.routings import ROUTINGS
from telic.policy.run_log import RunLog, WandbConfig
from telic.policy.seeding import seed_shard
from telic.policy.starting_point import StartingPoint, copy_language, starting_config
from telic.policy.stop_signals import StopSignals
from telic.policy.tensors import load_exactly
from telic.policy.validation import held_out_errors, non_finite
from telic.policy.vision_tower import FROM_CHECKPOINT
from telic.spec import Array


class Precision(Enum):
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

    stores: list[str] = field(default_factory=list)
    video_only: list[str] = field(default_factory=list)  # more stores; their actions are not used
    goal: GoalConfig = field(default_factory=GoalConfig)
    language_fraction: float = 1.0  # share of the training episodes that keep their sentences
    labelled_share: float | None = None  # of each batch, drawn apart (MDT: 0.5); None: as it comes
    future_steps: int = 3  # how far ahead the frames lie that policy.foresight, .future predict
    cameras: list[str] | None = None  # None: all of the store's
    memory_mb: int = 256  # what a process may hold of a store in memory
    held_out: float = 0.04  # share of the episodes kept out of training
    held_out_windows: int = 1024  # how many of their windows are measured
    num_workers: int = 0  # loader processes; 0 reads in the training process

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out} must lie in [0, 1)")
        if not 0 <= self.language_fraction <= 1:
            raise ValueError(f"data.language_fraction={self.language_fraction} must lie in [0, 1]")
        share = self.labelled_share
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"data.labelled_share={share} must lie in (0, 1]")
        if self.future_steps < 1:
            raise ValueError(f"data.future_steps={self.future_steps} must be at least 1")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything a training run is a function of."""

    out: str = "runs/train"
    init_from: str | None = None  # a checkpoint directory whose policy and weights to start from
    resume: bool = False  # go on from `out`/checkpoints/last where it exists
    overwrite: bool = False  # start again where `out` holds another run
    data: DataConfig = field(default_factory=DataConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    steps: int = 5000
    batch_size: int = 256  # global: over all processes and micro-batches of a step
    accumulate: int = 1  # micro-batches per optimizer step
    device: str = "auto"
    precision: Precision = Precision.auto
    threads: int | None = None  # CPU threads; None leaves torch's choice
    seed: int = 1
    log_every: int = 20
    validate_every: int = 1000
    checkpoint_every: int = 1000
    best_by: BestBy = BestBy.action_error
    rollouts: SelectionRollouts = field(default_factory=SelectionRollouts)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.best_by is BestBy.success and not self.rollouts.tasks:
            raise ValueError("best_by=success needs rollouts; give rollouts.tasks=[...]")
        if not self.data.stores:
            raise ValueError("data.stores is empty; give one: data.stores=[runs/demo/demos.zarr]")
        seen = {"policy.images": self.policy.images}
        if self.policy.goal.images:
            seen["policy.goal.image"] = self.policy.goal.image
        for name, images in seen.items():
            if images.frozen and images.tower in FROM_CHECKPOINT and self.init_from is None:
                raise ValueError(
                    f"{name}.frozen=true would freeze {images.tower} at random weights; start from "
                    "a checkpoint that has its weights, init_from=DIR"
                )
        if self.data.video_only and not self.policy.reads_future:
            raise ValueError(
                "data.video_only: nothing would learn from them; set policy.future.weight=1 or "
                "policy.foresight.weight=1"
            )


@dataclass(slots=True)
class Progress:
    """Where a run stands: optimizer steps done and the best score so far (lower is better)."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0


def run(config: TrainConfig) -> dict[str, float]:
    """Train as `config` says; return the last measured numbers.

    Leaves `out`/checkpoints/{last,best}, `out`/log.jsonl. Raises ValueError on bad input,
    NonFiniteLoss before the optimizer step that would spoil the weights, and KeyboardInterrupt
    after a SIGINT or SIGTERM, when the checkpoint is written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    accelerator = _accelerator(config)
    out = Path(config.out)
    last = out / "checkpoints" / "last"
    resuming = _resumes(config, out, last)
    train_windows, held_out_windows = _windows(config)

    set_seed(config.seed)
    stores = train_windows.stores
    given = _given_anchors(config)
    start = None if config.init_from is None else StartingPoint(config.init_from)
    policy = _policy(config, stores[: len(config.data.stores)], start)
    said = [] if start is None else start.load_into(policy)
    prime_embeddings(policy, stores)
    brought = given is None and start is not None and start.config.anchors.on
    anchors = None
    if not (resuming or brought):
        anchors = _use_anchors(policy, given, train_windows, config.seed)
    policy.to(accelerator.device)
    ema = config.ema.build(policy)
    averaged = cast(Policy, ema.module)
    optimizer = config.optimizer.build(policy)
    progress = Progress()
    if resuming:
        state = load_train_state(last)
        load_exactly(policy, state.weights, f"resume=true: {last}")
        ema.load_state_dict(state.ema)
        optimizer.load_state_dict(state.optimizer)
        progress = Progress(**state.progress)
    else:  # only now, when nothing is at fault with the input
        _empty(out, accelerator)
    model, optimizer = accelerator.prepare(policy, optimizer)
    batches = _batches(config, train_windows, accelerator, progress.step)

    def checkpoint(name: str) -> None:
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            save_checkpoint(
                out / "checkpoints" / name,
                averaged,
                train_state={
                    "weights": policy.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "progress": asdict(progress),
                },
                extra={"train": config},
                write_language=copy_language(policy),
            )
        accelerator.wait_for_everyone()

    measured: dict[str, float] = {}
    main = accelerator.is_main_process
    with (
        StopSignals() as stop,
        RunLog(out, config, config.wandb, config.steps, progress.step, enabled=main) as log,
    ):
        for line in [*said, _describe(config, policy, train_windows, accelerator)]:
            log.say(line)
        if anchors is not None and policy.truncated is not None:
            log.say(f"{describe(anchors)}; sigma_trunc {policy.truncated.sigma_trunc:.4g}")
        while progress.step < config.steps:
            record = train_step(config, accelerator, model, optimizer, next(batches), progress.step)
            ema.update_parameters(policy)
            progress.step += 1
            step, final = progress.step, progress.step == config.steps
            if step % config.log_every == 0 or final:
                log.write(step, record)
                log.advance(step, f"loss {record['loss']:.4f}")
            stopping = _any_process_stopped(accelerator, stop)
            if final or (config.validate_every and step % config.validate_every == 0):
                measured = _validate(config, accelerator, averaged, held_out_windows)
                log.write(step, measured)
                log.say(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()))
                score = measured.get(config.best_by.value, 0.0)
                if score <= progress.best:
                    progress.best, progress.best_step = score, step
                    checkpoint("best")
            if final or stopping or step % config.checkpoint_every == 0:
                checkpoint("last")
            if stopping:
                log.say(f"stopped at step {step}; {last} holds it: go on with resume=true")
                raise KeyboardInterrupt(int(stop.received or signal.SIGINT))
    return {**measured, "step": progress.step, "best_step": progress.best_step}


def train_step(
    config: TrainConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    step: int,
) -> dict[str, float]:
    """Take optimizer step `step` on this process's rows of a global batch; return its record."""
    rate = config.optimizer.rate(step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    shard_size = len(batch["text"]) // config.accumulate
    losses: list[LossTerms] = []
    for micro in range(config.accumulate):
        shard = accelerator.process_index * config.accumulate + micro
        rows = {k: v[micro * shard_size : (micro + 1) * shard_size] for k, v in batch.items()}
        generator = seed_shard(config.seed, step, shard, accelerator.device)
        last = micro == config.accumulate - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                terms: LossTerms = model(rows, generator)
            accelerator.backward(terms.total / config.accumulate)
        losses.append(terms)
    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
    loss = torch.stack([terms.total.detach() for terms in losses]).mean()
    if not bool(torch.isfinite(loss + norm)):
        raise non_finite(step, batch, losses)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    record = {"loss": loss}
    for name in losses[0].parts:
        record[name] = torch.stack([terms.parts[name].detach() for terms in losses]).mean()
    if accelerator.num_processes > 1:
        record = accelerator.reduce(record, reduction="mean")
    numbers = {name: value.item() for name, value in record.items()}
    return {**numbers, "grad_norm": norm.item(), "learning_rate": rate}


def _accelerator(config: TrainConfig) -> Accelerator:
    device = pick_device(config.device)
    bf16 = config.precision is Precision.bf16 or (
        config.precision is Precision.auto and supports_bf16(device)
    )
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if bf16 else "no")
    shards = accelerator.num_processes * config.accumulate
    if config.batch_size % shards:
        raise ValueError(
            f"batch_size={config.batch_size} does not split into {accelerator.num_processes} "
            f"processes x accumulate={config.accumulate}; use a multiple of {shards}"
        )
    return accelerator


def _resumes(config: TrainConfig, out: Path, last: Path) -> bool:
    """Return whether to go on from `last`; refuse to write over another run unasked."""
    if config.resume and last.is_dir():
        return True
    if (out / "checkpoints").exists():
        if not config.overwrite:
            raise ValueError(
                f"out={out} holds a run already; resume=true goes on with it, "
                "overwrite=true starts again, or choose another out="
            )
        inside = Path(config.init_from or "/").resolve()
        if inside.is_relative_to((out / "checkpoints").resolve()):
            raise ValueError(
                f"init_from={config.init_from} lies in out={out}, which overwrite=true would "
                "empty; choose another out"
            )
    return False


def _empty(out: Path, accelerator: Accelerator) -> None:
    """Remove the checkpoints of a run that is written over."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and (out / "checkpoints").exists():
        shutil.rmtree(out / "checkpoints")
    accelerator.wait_for_everyone()


def _windows(config: TrainConfig) -> tuple[Windows, Windows | None]:
    """Return the windows to train on and, unless `data.held_out` is 0, those to measure on.

    Those to measure on have actions and keep all their sentences.
    """
    acted = [EpisodeStore.open(path) for path in config.data.stores]
    videos = [EpisodeStore.open(path) for path in config.data.video_only]
    if config.policy.space is Space.own:
        interface, name = acted[0].interface, config.data.stores[0]
        for store in acted[1:]:
            interface.require(store.interface, name, str(store.path))
        for store in videos:
            interface.require(store.interface_as(interface.action), name, str(store.path))
    shape = WindowConfig(
        obs_horizon=config.policy.obs_horizon,
        action_horizon=config.policy.action_horizon,
        goal=config.data.goal,
        cameras=config.data.cameras,
        space=config.policy.space,
        memory_mb=config.data.memory_mb,
    )
    splits = [split_episodes(store, config.data.held_out, config.seed) for store in acted]
    train = Windows(
        [*acted, *videos],
        replace(
            shape,
            language_fraction=config.data.language_fraction,
            future_steps=config.data.future_steps if config.policy.reads_future else 0,
        ),
        [*(kept for kept, _ in splits), *([None] * len(videos))],
        seed=config.seed,
        video_only=range(len(acted), len(acted) + len(videos)),
    )
    if not any(len(held_out) for _, held_out in splits):
        return train, None
    return train, Windows(acted, shape, [held_out for _, held_out in splits])


def _policy(
    config: TrainConfig, stores: Sequence[EpisodeStore], start: StartingPoint | None
) -> Policy:
    """Return the untrained policy: for the stores' one robot, or in the unified space for all."""
    own = config.policy.space is Space.own
    robots = {} if own else robots_of(stores)
    interface = stores[0].interface if own else unified_interface(robots)
    stats = stores[0].stats if own else unified_stats(stores)
    if start is not None:
        stats = start.stats(config.policy, interface, stats)
    return config.policy.build(interface, stats, robots)


def _given_anchors(config: TrainConfig) -> AnchorSet | None:
    """Return the anchors of the file that the policy names, if it does, and set their number."""
    wanted = config.policy.anchors
    if wanted.file is None:
        return None
    given = AnchorSet.load(Path(wanted.file))
    if wanted.count > len(given.chunks):
        raise ValueError(
            f"policy.anchors.count={wanted.count} asks for more anchors than {wanted.file} has "
            f"({len(given.chunks)}); leave count out, or build more"
        )
    wanted.count = wanted.count or len(given.chunks)
    return given


def _use_anchors(
    policy: Policy, given: AnchorSet | None, windows: Windows, seed: int
) -> AnchorSet | None:
    """Give the policy its anchors, clustered now unless there are some; return them."""
    truncated = policy.truncated
    if truncated is None:
        return None
    anchors = given or build_anchors(
        chunk_batches(windows, seed),
        len(truncated.chunks),
        policy.action_normalizer,
        truncated.columns.numpy(),
        seed,
    )
    try:
        policy.use_anchors(anchors)
    except ValueError as error:
        if given is None:
            raise
        file = policy.config.anchors.file
        raise ValueError(f"policy.anchors.file={file}: {error}") from error
    return anchors


def prime_embeddings(policy: Policy | RobomimicPolicy, stores: Sequence[EpisodeStore]) -> None:
    """Give the policy the stores' cached sentence vectors; compute and cache what is missing."""
    name = policy.language_name
    for store in stores:
        if name is None:  # no sentences, or a vector for each word, which stores do not keep
            policy.embed(store.instructions)
            continue
        known = store.read_embeddings(name) if name in store.encoders else {}
        missing = [text for text in store.instructions if text not in known]
        if missing:
            known |= policy.embed(missing)
            _cache_embeddings(store, name, known)
        policy.set_embeddings(known)


def _cache_embeddings(store: EpisodeStore, name: str, known: dict[str, Array]) -> None:
    """Keep the vectors in the store for the next run, unless somebody is writing to it."""
    vectors = np.stack([known[text] for text in store.instructions])
    try:
        with EpisodeStore.open(store.path, "a") as writable:
            writable.write_embeddings(name, vectors)
    except (ValueError, OSError) as error:
        warnings.warn(f"sentence vectors are not cached: {error}", stacklevel=2)


def _batches(
    config: TrainConfig, windows: Windows, accelerator: Accelerator, position: int
) -> Iterator[dict[str, Any]]:
    """Yield this process's rows of each global batch, from batch `position` on, on its device."""
    share = config.data.labelled_share
    labelled = None if share is None else windows.labelled()
    if labelled is not None and not len(labelled):
        raise ValueError(
            f"data.labelled_share={share} asks for windows with a sentence, and none has one; "
            f"raise data.language_fraction={config.data.language_fraction} or label some steps"
        )
    sampler = BatchSampler(
        len(windows),
        config.batch_size // accelerator.num_processes,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        position=position,
        favoured=labelled,
        share=share or 0.0,
    )
    loader: DataLoader[Any] = DataLoader(
        cast(Any, windows),  # map-style: len, [] and __getitems__
        batch_sampler=cast(Any, sampler),
        num_workers=config.data.num_workers,
        collate_fn=cast(Any, _to_torch),
        persistent_workers=config.data.num_workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    for batch in loader:
        yield _to_device(batch, accelerator.device)


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()
    }


def _to_torch(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def _any_process_stopped(accelerator: Accelerator, stop: StopSignals) -> bool:
    if accelerator.num_processes == 1:
        return stop.received is not None
    flag = torch.tensor([float(stop.received is not None)], device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item() > 0)


def _validate(
    config: TrainConfig, accelerator: Accelerator, policy: Policy, windows: Windows | None
) -> dict[str, float]:
    """Return held-out loss, action error and failure rate of the averaged weights."""
    policy.eval()
    numbers: dict[str, float] = {}
    if windows is not None:
        batches = _held_out_batches(config, windows, accelerator.device)
        numbers |= held_out_errors(policy, batches, accelerator, config.seed)
    if config.rollouts.tasks:
        numbers |= config.rollouts.measure(policy)
    return numbers


def _held_out_batches(
    config: TrainConfig, windows: Windows, device: torch.device
) -> Iterator[dict[str, Any]]:
    count = min(len(windows), config.data.held_out_windows)
    indices = np.random.default_rng(config.seed).choice(len(windows), count, replace=False)
    for rows in np.array_split(indices, math.ceil(count / config.batch_size)):
        yield _to_device(_to_torch(windows.batch(rows)), device)


def _describe(
    config: TrainConfig, policy: Policy, windows: Windows, accelerator: Accelerator
) -> str:
    parameters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return (
        f"{parameters / 1e6:.2f} M trainable parameters, {len(windows)} windows, "
        f"{config.steps} steps of {config.batch_size} on {accelerator.num_processes} x "
        f"{accelerator.device.type} ({accelerator.mixed_precision})"
    )


def choose_policy(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` with the policy of `init_from=DIR` chosen, unless they choose another."""
    given = dict(override.partition("=")[::2] for override in overrides)
    path = given.get("init_from", "null").strip("'\"")
    if path == "null" or "policy" in given:
        return list(overrides)
    register_choices("policy", {"init_from": starting_config(path)})
    return [*overrides, "policy=init_from"]


register_choices("policy", POLICIES)
register_preparation("train", choose_policy)
register_choices("policy/formulation", {name: build() for name, build in FORMULATIONS.items()})
register_choices("policy/denoiser/routing", {name: build() for name, build in ROUTINGS.items()})


def main() -> None:
    """Entry point of `train-policy`."""
    launch(TrainConfig, run, "train")


if __name__ == "__main__":
    main()
