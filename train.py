"""`train-policy`: episode stores in, a checkpoint directory out; one loop for every kind.

Everything random in a step is a function of (seed, step, shard), where the global batch is cut
into `world_size * accumulate` shards. So a resumed run repeats the uninterrupted one bit for bit,
and two processes compute what one process with `accumulate=2` computes.
"""

from __future__ import annotations

import math
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

import telic.configs.policy_choices  # noqa: F401 (registers what policy= chooses from)
from telic.configs.launch import launch
from telic.datasets.lock import WriterLock
from telic.datasets.windows import Windows
from telic.policy.atomic import CHECKPOINTS
from telic.policy.checkpoint import load_train_state, save_checkpoint
from telic.policy.encoders.fields import Batch, rows_of
from telic.policy.finetune import copy_language
from telic.policy.inference.device import pick_device, supports_bf16
from telic.policy.layers.tensors import load_exactly
from telic.policy.objectives.objective import LossTerms
from telic.policy.policy import Policy
from telic.replacement import remove, require_replaceable
from telic.training.config import Precision, TrainConfig
from telic.training.data import batches_from, held_out_batches, open_stores, windows_of
from telic.training.features import use_features
from telic.training.messages import describe, where_from
from telic.training.resume import Resumed, RunRecord, holds_checkpoints, to_resume_from
from telic.training.run_log import RunLog
from telic.training.seeding import seed_shard
from telic.training.start import new_policy, resumed_policy
from telic.training.stop_signals import StopSignals
from telic.training.validation import NonFiniteLoss, held_out_errors, non_finite


@dataclass(slots=True)
class TrainProgress:
    """Where a run stands: optimizer steps done and the best score so far (lower is better)."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0


class Training:
    """A policy in training and all that a checkpoint of it holds."""

    def __init__(
        self, config: TrainConfig, policy: Policy, accelerator: Accelerator, record: RunRecord
    ) -> None:
        self.config, self.accelerator, self.record = config, accelerator, record
        self.policy = policy.to(accelerator.device)
        self.ema = config.ema.build(policy)
        self.averaged = cast(Policy, self.ema.module)
        self.optimizer = config.optimizer.build(policy)
        self.progress = TrainProgress()

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
                extra={"train": self.config, "run": self.record},
                write_language=copy_language(self.policy),
            )
        self.accelerator.wait_for_everyone()


def run(config: TrainConfig) -> dict[str, float]:
    """Train as `config` says; return the last measured numbers.

    Leaves `out`/checkpoints/{last,best}, `out`/log.jsonl. Raises ValueError on bad input,
    NonFiniteLoss before the optimizer step that would spoil the weights, and KeyboardInterrupt
    after a SIGINT or SIGTERM, when the checkpoint is written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        return _run(config, stack)


def _run(config: TrainConfig, stack: ExitStack) -> dict[str, float]:
    accelerator = _accelerator(config)
    out = Path(config.out)
    last = out / "checkpoints" / "last"
    begun = _to_resume_from(config, out)
    resumed = None if begun is None else Resumed(begun, config)
    acted, videos = open_stores(config)
    shards = accelerator.num_processes * config.accumulate
    if resumed is None:
        record, said = RunRecord.of(config, acted, videos, shards), []
    else:
        record, said = resumed.record(config, acted, videos, shards), resumed.said
    train_windows, held_out_windows = windows_of(config, acted, videos, record)
    set_seed(config.seed)
    if resumed is None:
        policy, said = new_policy(config, train_windows)
    else:
        policy = resumed_policy(config, train_windows, resumed)
    if config.rollouts.tasks:
        config.rollouts.require(policy)
    training = Training(config, policy, accelerator, record)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(out, "run")  # the name holds it
        stack.callback(lock.release)
    if resumed is not None:
        training.resume(resumed)
    use_features(config, policy, train_windows, held_out_windows)
    if resumed is None:  # only now, when nothing is at fault with the input
        _empty(config, out, accelerator)
    progress = training.progress
    model, optimizer = accelerator.prepare(policy, training.optimizer)
    batches = batches_from(config, train_windows, accelerator, progress.step)
    measured: dict[str, float] = {}
    written = progress.step if begun == last else -1  # the step that `last` is of
    main = accelerator.is_main_process
    stop = stack.enter_context(StopSignals())
    log = stack.enter_context(
        RunLog(out, config, config.wandb, config.steps, progress.step, enabled=main)
    )
    for line in [
        *describe(config, policy, train_windows, accelerator, progress.step, begun),
        *said,
    ]:
        log.say(line)
    while progress.step < config.steps:
        batch = next(batches)
        try:
            numbers = train_step(config, accelerator, model, optimizer, batch, progress.step)
        except NonFiniteLoss as error:
            if progress.step > written:
                training.checkpoint("last")
            raise NonFiniteLoss(
                f"{error}, in {where_from(batch, error.rows, train_windows)}; {last} holds what "
                "was learnt before this step; demo-store validate finds bad data, a lower "
                "optimizer.learning_rate steadies training"
            ) from error
        training.ema.update_parameters(policy)
        progress.step += 1
        step, final = progress.step, progress.step == config.steps
        if step % config.log_every == 0 or final:
            log.write(step, numbers)
            log.advance(step, f"loss {numbers['loss']:.4f}")
        stopping = _any_process_stopped(accelerator, stop)
        if final or (config.validate_every and step % config.validate_every == 0):
            measured = _validate(config, accelerator, training.averaged, held_out_windows)
            log.write(step, measured)
            log.say(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()))
            score = measured.get(config.best_by.value, 0.0)
            if score <= progress.best:
                progress.best, progress.best_step = score, step
                training.checkpoint("best")
        if final or stopping or step % config.checkpoint_every == 0:
            training.checkpoint("last")
            written = step
        if stopping:
            log.say(f"stopped at step {step}; {last} holds it: go on with resume=true")
            raise KeyboardInterrupt(int(stop.received or signal.SIGINT))
    return {**measured, "step": progress.step, "best_step": progress.best_step}


def train_step(
    config: TrainConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
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


def _to_resume_from(config: TrainConfig, out: Path) -> Path | None:
    """Return the checkpoint to go on from; refuse to write over another run unasked."""
    there = to_resume_from(out)
    if there is not None and config.resume:
        return there
    if not config.overwrite and (there is not None or holds_checkpoints(out)):
        way_out = "resume=true goes on with it"
        if there is None:
            way_out = "training cannot go on from what it holds (no train_state)"
        raise ValueError(
            f"out={out} holds a run already; {way_out}, overwrite=true starts again, or choose "
            "another out="
        )
    if config.overwrite:
        read = [*config.data.stores, *config.data.video_only]
        require_replaceable(
            out / "checkpoints",
            CHECKPOINTS,
            asked=True,
            locked_by_us=True,
            sources=[*read, config.init_from] if config.init_from else read,
        )
    return None


def _empty(config: TrainConfig, out: Path, accelerator: Accelerator) -> None:
    """Remove the checkpoints of a run that is written over."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and config.overwrite:
        remove(out / "checkpoints", CHECKPOINTS, asked=True, locked_by_us=True)
    accelerator.wait_for_everyone()


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
        batches = held_out_batches(config, windows, accelerator.device)
        numbers |= held_out_errors(policy, batches, accelerator, config.seed)
    if config.rollouts.tasks:
        numbers |= config.rollouts.measure(policy)
    return numbers


def main() -> None:
    """Entry point of `train-policy`."""
    launch(TrainConfig, run, "train")


if __name__ == "__main__":
    main()
