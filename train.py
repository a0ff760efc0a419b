"""`train-policy`: episode stores in, a checkpoint directory out; one loop for every kind.

Everything random in a step is a function of (seed, step, shard), where the global batch is cut
into `world_size * accumulate` shards. So a resumed run repeats the uninterrupted one bit for bit,
and two processes compute what one process with `accumulate=2` computes.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

import telic.configs.policy_choices  # noqa: F401 (registers what policy= chooses from)
from telic.configs.launch import launch
from telic.datasets.lock import WriterLock
from telic.datasets.windows import Windows
from telic.policy.encoders.fields import Batch
from telic.policy.inference.device import pick_device, supports_bf16
from telic.training.config import TrainConfig, TrainPrecision
from telic.training.data import batches_from, held_out_batches, open_stores, windows_of
from telic.training.features import use_features
from telic.training.messages import describe, where_from
from telic.training.readers import ReaderDied
from telic.training.resume import Resumed, RunRecord
from telic.training.run_folder import checkpoint_to_resume, remove_checkpoints
from telic.training.run_log import RunLog
from telic.training.start import new_policy, resumed_policy
from telic.training.state import Training
from telic.training.step import train_step
from telic.training.stop_signals import StopSignals
from telic.training.time_estimate import TimeEstimate
from telic.training.validation import NonFiniteLoss, held_out_errors

SIGNAL_TO_ALL_S = 0.5  # a signal to a group comes to a child and to us within this


@dataclass(kw_only=True, slots=True)
class Run:
    """A run before its first step. written: the step that checkpoints/last is of; -1: of none."""

    config: TrainConfig
    training: Training
    train_windows: Windows
    held_out_windows: Windows | None
    messages: list[str]
    written: int
    measured: dict[str, float] = field(default_factory=dict)  # of the newest validation

    @property
    def last(self) -> Path:
        """The checkpoint that the run goes on from when it is stopped."""
        return Path(self.config.out) / "checkpoints" / "last"

    def write_last(self) -> None:
        """Write `last` where it is not of this step already."""
        step = self.training.progress.step
        if step != self.written:
            self.training.checkpoint("last")
            self.written = step


def run(config: TrainConfig) -> dict[str, float]:
    """Train as `config` says; return the last measured numbers.

    Leaves checkpoints/{last,best}, log.jsonl and loss.png in `out`. Raises ValueError on bad
    input, NonFiniteLoss before the optimizer step that would spoil the weights, and
    KeyboardInterrupt after a SIGINT or SIGTERM, when the checkpoint is written.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        return _run(config, stack)


def _run(config: TrainConfig, stack: ExitStack) -> dict[str, float]:
    prepared = _prepare(config, stack)
    stop = stack.enter_context(StopSignals())
    training = prepared.training
    log = stack.enter_context(
        RunLog(
            Path(config.out),
            config,
            config.wandb,
            config.steps,
            training.progress.step,
            enabled=training.accelerator.is_main_process,
        )
    )
    for line in prepared.messages:
        log.say(line)
    _train(prepared, stop, log)
    progress = training.progress
    return {**prepared.measured, "step": progress.step, "best_step": progress.best_step}


def _prepare(config: TrainConfig, stack: ExitStack) -> Run:
    """The run with everything read and checked, its folder locked until `stack` closes."""
    accelerator = _accelerator(config)
    out = Path(config.out)
    checkpoint = checkpoint_to_resume(config)
    resumed = None if checkpoint is None else Resumed(checkpoint, config)
    acted, videos = open_stores(config)
    shards = accelerator.num_processes * config.accumulate
    if resumed is None:
        record = RunRecord.of(config, acted, videos, shards)
    else:
        record = resumed.record(config, acted, videos, shards)
    train_windows, held_out_windows = windows_of(config, acted, videos, record)
    set_seed(config.seed)
    if resumed is None:
        policy, messages = new_policy(config, train_windows)
    else:
        policy, messages = resumed_policy(config, train_windows, resumed), resumed.changes
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
        remove_checkpoints(config, accelerator)
    step = training.progress.step
    if resumed is not None and step >= config.steps:
        messages = [
            *messages,
            f"nothing is left to train: {checkpoint} is of step {step} and steps={config.steps}; "
            "a larger steps= goes on with it",
        ]
    return Run(
        config=config,
        training=training,
        train_windows=train_windows,
        held_out_windows=held_out_windows,
        messages=[
            *describe(config, policy, train_windows, accelerator, step, checkpoint),
            *messages,
        ],
        written=step if checkpoint == out / "checkpoints" / "last" else -1,
    )


def _train(run: Run, stop: StopSignals, log: RunLog) -> None:
    """Take the steps that are left, with validations and checkpoints between them."""
    config, training = run.config, run.training
    progress, accelerator = training.progress, training.accelerator
    model, optimizer = accelerator.prepare(training.policy, training.optimizer)
    batches = batches_from(config, run.train_windows, accelerator, progress.step)
    estimate = TimeEstimate(
        config.steps,
        progress.step,
        validate_every=config.validate_every,
        checkpoint_every=config.checkpoint_every,
    )
    while progress.step < config.steps:
        began_s = time.monotonic()
        try:
            batch = next(batches)
            record = train_step(config, accelerator, model, optimizer, batch, progress.step)
        except ReaderDied as error:
            raise _without_readers(error, run, stop, log) from error
        except NonFiniteLoss as error:
            run.write_last()
            raise _with_place(error, batch, run) from error
        training.ema.update_parameters(training.policy)
        progress.step += 1
        step, final = progress.step, progress.step == config.steps
        if line := estimate.after_step(step, time.monotonic() - began_s):
            log.say(line)
        if step % config.log_every == 0 or final:
            log.write(step, record)
            log.advance(step, f"loss {record['loss']:.4f}")
        stopping = _any_process_stopped(accelerator, stop)
        validating = final or (config.validate_every and step % config.validate_every == 0)
        if validating:
            began_s = time.monotonic()
            _validate(run, log)
            if line := estimate.after_validation(step, time.monotonic() - began_s):
                log.say(line)
        checkpointing = final or stopping or step % config.checkpoint_every == 0
        if checkpointing:
            run.write_last()
        if validating or checkpointing:
            log.draw()
        if stopping:
            raise _stopped(run, stop, log)


def _validate(run: Run, log: RunLog) -> None:
    """Measure the averaged weights, log it, and keep them where they are the best so far."""
    config, training = run.config, run.training
    progress = training.progress
    step = progress.step
    run.measured = measured = _measure(run)
    log.write(step, measured)
    log.say(f"step {step}: " + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()))
    score = measured.get(config.best_by.value, 0.0)
    if score <= progress.best:
        progress.best, progress.best_step = score, step
        training.checkpoint("best")


def _measure(run: Run) -> dict[str, float]:
    """Held-out loss, action error and failure rate of the averaged weights, where they have any."""
    config, training = run.config, run.training
    policy, accelerator = training.averaged, training.accelerator
    policy.eval()
    measured: dict[str, float] = {}
    if run.held_out_windows is not None:
        batches = held_out_batches(config, run.held_out_windows, accelerator.device)
        measured |= held_out_errors(policy, batches, accelerator, config.seed)
    if config.rollouts.tasks:
        measured |= config.rollouts.measure(policy)
    return measured


def _stopped(run: Run, stop: StopSignals, log: RunLog) -> KeyboardInterrupt:
    """Say where a stopped run goes on from; return what it ends with."""
    step = run.training.progress.step
    log.say(f"stopped at step {step}; {run.last} holds it: go on with resume=true")
    return KeyboardInterrupt(int(stop.received or signal.SIGINT))


def _without_readers(error: ReaderDied, run: Run, stop: StopSignals, log: RunLog) -> BaseException:
    """What a run ends with whose readers are dead: a stop, where one signal was for all.

    No step is under way, so that one process writes what was learnt; one of several writes nothing,
    for the others are not here.
    """
    give_up = time.monotonic() + SIGNAL_TO_ALL_S
    while stop.received is None and time.monotonic() < give_up:
        time.sleep(0.01)
    alone = run.training.accelerator.num_processes == 1
    if alone:
        run.write_last()
    if stop.received is not None:
        return _stopped(run, stop, log) if alone else KeyboardInterrupt(int(stop.received))
    return ValueError(
        f"a process that reads data has died ({error}); resume=true goes on from the last "
        f"checkpoint in out={run.config.out}; data.num_workers=0 reads in this process"
    )


def _with_place(error: NonFiniteLoss, batch: Batch, run: Run) -> NonFiniteLoss:
    """The error with the episodes it came from, and what to do."""
    return NonFiniteLoss(
        f"{error}, in {where_from(batch, error.rows, run.train_windows)}; {run.last} holds what "
        "was learnt before this step; demo-store validate finds bad data, a lower "
        "optimizer.learning_rate steadies training"
    )


def _accelerator(config: TrainConfig) -> Accelerator:
    device = pick_device(config.device)
    bf16 = config.precision is TrainPrecision.bf16 or (
        config.precision is TrainPrecision.auto and supports_bf16(device)
    )
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if bf16 else "no")
    shards = accelerator.num_processes * config.accumulate
    if config.batch_size % shards:
        raise ValueError(
            f"batch_size={config.batch_size} does not split into {accelerator.num_processes} "
            f"processes x accumulate={config.accumulate}; use a multiple of {shards}"
        )
    return accelerator


def _any_process_stopped(accelerator: Accelerator, stop: StopSignals) -> bool:
    if accelerator.num_processes == 1:
        return stop.received is not None
    flag = torch.tensor([float(stop.received is not None)], device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item() > 0)


def main() -> None:
    """Entry point of `train-policy`."""
    launch(TrainConfig, run, "train")


if __name__ == "__main__":
    main()
